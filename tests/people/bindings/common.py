"""What the Python tests of bindings share."""

import numpy as np
import unicon_align as unicon

rng = np.random.default_rng(0)
_latent = rng.normal(size=(400, 8))
x = (_latent @ rng.normal(size=(8, 16)) + 0.1 * rng.normal(size=(400, 16))).astype(np.float32)
y = (_latent @ rng.normal(size=(8, 12)) + 0.1 * rng.normal(size=(400, 12))).astype(np.float32)


def raises(kind, text, call):
    """That a call raises an exception of a kind, in one line that holds a text."""
    try:
        got = call()
    except kind as e:
        assert text in str(e), f"{text!r} is not in: {e}"
        assert "\n" not in str(e), e
        return str(e)
    raise AssertionError(f"expected {kind.__name__} ({text}), got {got!r}")


def unit(z):
    z = z.astype(np.float64)
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def model():
    return unicon.Context(n_threads=2).fit(x, y, 8, whiten=0.01)[0]
