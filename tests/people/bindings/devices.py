"""A context of several CUDA devices, on the stand-in libraries, against one of one device."""

import pickle

import numpy as np
import unicon_align as unicon

rng = np.random.default_rng(5)
z = rng.standard_normal((1100, 4))
x, y = ((z @ rng.standard_normal((4, d)) + 0.3 * rng.standard_normal((1100, d))).astype(np.float32) for d in (9, 7))


def product(context):
    model, info = context.fit(x, y, r=4, whiten=0.1)
    return model.encoder("x").T @ model.encoder("y"), info.final_loss


assert unicon.device_count() == 3
one, loss = product(unicon.Context("cuda", precision="float32"))
everywhere = unicon.Context("cuda", precision="float32", devices="all")
for context in (everywhere, unicon.Context("cuda", precision="float32", devices=[2, 0, 1]), pickle.loads(pickle.dumps(everywhere))):
    several, shared = product(context)
    # fp32 sums cut elsewhere.
    assert abs(several - one).max() <= 1e-4 * abs(one).max() and abs(shared - loss) <= 1e-5 * abs(loss)
    assert np.array_equal(several, product(everywhere)[0])
for devices, kind, text in [([0, 0], unicon.Error, "different devices' numbers"), ("some", ValueError, "devices: expected one of all"),
                            ([9], unicon.Error, "there are cuda:0 to cuda:2"), ([0.5], ValueError, "devices: expected whole numbers")]:
    try:
        unicon.Context("cuda", devices=devices)
    except kind as e:
        assert text in str(e), e
    else:
        raise AssertionError(f"{devices}: not refused")
