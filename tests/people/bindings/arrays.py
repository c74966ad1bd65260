"""Features and outputs of every kind: the right embeddings, or an error that says what to do."""

import pathlib
import tempfile

import numpy as np
import unicon_align as unicon
from common import model, raises, rng, unit, x, y

m = model()
f = m.encoder("x")
want = unit(x.astype(np.float64) @ f.T)


def near(features, by, tolerance=1e-5):
    got = m.encode(features, "x")
    assert got.shape == by.shape and np.abs(got - by).max() < tolerance, np.abs(got - by).max()
    return got


class Frame:
    """A data frame as far as to_numpy()."""

    def __init__(self, a):
        self.a = a

    def to_numpy(self, dtype=None, na_value=None):
        return self.a if dtype is None else np.array([[na_value if v is None else v for v in r] for r in self.a], dtype)


class Column(Frame):
    """A column of embeddings, an array in each cell."""

    def __init__(self, rows):
        self.a = np.empty(len(rows), object)
        self.a[:] = rows


class Tensor:
    """A tensor in host memory, as far as DLPack and __array__."""

    def __init__(self, a):
        self.a = a

    def __dlpack__(self, **options):
        return self.a.__dlpack__()

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()

    def __array__(self, dtype=None, copy=None):
        return self.a


class Subclass(np.ndarray):
    pass


# Memory that is not aligned to its elements.
unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
unaligned[:] = x


read_only = x.copy()
read_only.flags.writeable = False
whole = rng.integers(-100, 100, size=(50, 16))
of_whole = unit(whole.astype(np.float64) @ f.T)
positive = np.abs(whole).astype(np.int64)
good = [
    (x, want), (x.astype(np.float64), want), (np.asfortranarray(x), want), (x.astype(">f4"), want), (x.astype(">f8"), want),
    (x[5:9], want[5:9]), (x[::2], want[::2]), (x[7:8], want[7:8]), (x[:1].T.T, want[:1]), (read_only, want), (x.view(Subclass), want),
    (x.tolist(), want), ([list(r) for r in x], want), (list(x), want), (np.matrix(x), want), (Frame(x), want),
    (Frame(x.astype(object)), want), (Frame(x[::2]), want[::2]), (Frame(np.repeat(x, 2, axis=1)[:, ::2]), want), (np.ma.array(x), want), (np.ma.array(x, mask=False), want), (memoryview(x), want),
    (np.broadcast_to(x[:1], (1, 16)), want[:1]), (whole, of_whole), (whole.astype(np.int8), of_whole), (whole.astype(np.int16), of_whole),
    (whole.astype(np.int32), of_whole), (whole.astype(">i2"), of_whole), (whole[:, ::-1][:, ::-1], of_whole), (whole.tolist(), of_whole),
    (whole[::-1], of_whole[::-1]), (x[::-1], want[::-1]), (x[:, ::-1][:, ::-1], want), (np.repeat(x, 2, axis=1)[:, ::2], want),
    (np.repeat(x, 2, axis=0)[::2].T.copy().T, want), (np.broadcast_to(x[:1], (9, 16)), np.repeat(want[:1], 9, axis=0)),
    (unaligned, want), (memoryview(np.repeat(x, 2, axis=1)[:, ::2]), want), (Column(list(x)), want), (Tensor(x), want),
    (Tensor(np.repeat(x, 2, axis=1)[:, ::2]), want), (Tensor(whole), of_whole), (Tensor(whole > 0), unit((whole > 0) @ f.T)),
]
good += [(positive.astype(t), unit(positive @ f.T)) for t in (np.uint8, np.uint16, np.uint32, np.uint64)]
good += [(whole > 0, unit((whole > 0) @ f.T)), ((whole > 0).astype(np.float16), unit((whole > 0) @ f.T))]
for k, (features, by) in enumerate(good):
    try:
        near(features, by)
    except BaseException as e:
        raise AssertionError(f"{k}: {type(features)}: {e!r}") from e
assert m.encode(whole.astype(np.int8), "x").dtype == np.float32 and m.encode(whole, "x").dtype == np.float64
half = x.astype(np.float16)
near(half, unit(half.astype(np.float64) @ f.T))

# A few rows take a way of their own: the same embeddings, and the same errors.
zero = np.concatenate([x[:3], np.zeros((2, 16), np.float32), x[3:5] * 1024])
for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-12)):
    for k in (1, 2, 5, 16, 17):
        near(x[:k].astype(dtype), want[:k], tolerance)
        near(np.asfortranarray(x[:k].astype(dtype)), want[:k], tolerance)
    got = m.encode(zero.astype(dtype), "x")
    assert not got[3:5].any() and np.abs(np.delete(got, (3, 4), axis=0) - want[:5]).max() < tolerance
for scale in (1e-30, 1e-12, 1e12, 1e30):
    near(x[:3] * np.float32(scale), want[:3], 1e-5)
    near(x[:40] * np.float32(scale), want[:40], 1e-5)
    near(np.concatenate([x[:1], x[1:2] * np.float32(scale)]), want[:2], 1e-5)
centred = unicon.Context(n_threads=1).fit(x + 30, y, 4, center="on")[0]
for far in (x + 30, (x + 30).astype(np.float64)):
    exact = far.astype(np.float64) @ centred.encoder("x").T + np.ravel(centred.bias("x"))
    for k in (1, 16, 400):
        assert np.abs(centred.encode(far[:k], "x") - unit(exact[:k])).max() < 1e-4
for k in (2, 40):
    raises(unicon.Error, "row 1", lambda: m.encode(np.where(np.arange(k)[:, None] == 1, np.nan, x[:k]), "x"))

masked = np.ma.array(x, mask=False)
masked[3, 4] = np.ma.masked
nan, far = x.copy(), x.astype(np.float64)
nan[3, 4], far[3, 4] = np.nan, np.inf
bad = [
    (x[0], ValueError, "got shape (16,); pass features[None, :] for one sample"),
    (np.float32(3), (TypeError, ValueError), "features"), (np.array(3.0), ValueError, "got 0: shape ()"), (3.0, (TypeError, ValueError), "features"),
    (x[None], ValueError, "got 3: shape (1, 400, 16)"),
    (x[:0, :0], ValueError, "at least one column"), (x[:, :0], ValueError, "at least one column"), (x[:0, :15], unicon.Error, "16"), ([], ValueError, "shape (0,)"),
    (x[:, :15], unicon.Error, "16"),
    (x.astype(np.longdouble), TypeError, "got float128"), (x.astype(np.complex64), TypeError, "got complex64"),
    (x.astype(str), TypeError, "got <U"), (x.astype("datetime64[s]"), TypeError, "got datetime64"),
    (np.full((2, 16), 2**53 + 1), ValueError, "2^53"), (np.full((2, 16), -(2**63)), ValueError, "2^53"),
    (Frame(np.array([["a", 1.0]] * 3, object)), TypeError, "'a' (str)"), (Frame(np.array([[None] * 16], object)), unicon.Error, "row 0"),
    (masked, ValueError, "got 1 masked entries"), (nan, unicon.Error, "row 3"), (far, unicon.Error, "row 3"),
    ([[1.0, 2.0], [3.0]], ValueError, "equal length"), ("x.npy", TypeError, "got str"), (None, TypeError, "got NoneType"),
    ({"x": x}, TypeError, "got dict"), (len, TypeError, "features"), (object(), TypeError, "features"),
]
for k, (features, kind, text) in enumerate(bad):
    try:
        raises(kind, text, lambda: m.encode(features, "x"))
    except BaseException as e:
        raise AssertionError(f"{k}: {type(features)}: {e!r}") from e

# No rows are no rows of results, of every type and in every call whose results are rows; nothing else may be empty.
context = unicon.Context(n_threads=1)
z = m.encode(x, "x")
for none in (x[:0], x[:0].astype(np.float64), np.asfortranarray(x[:0]), x[5:5], whole[:0], read_only[:0], Tensor(x[:0]), Frame(x[:0])):
    assert m.encode(none, "x").shape == (0, 8) and m.similarity(none, y).shape == (0, 400)
    assert context.gram(unicon.kernel("rbf"), none, x).shape == (0, 400)
out = np.zeros((0, 8), np.float32)
assert m.encode(x[:0], "x", out=out) is out
for found in (context.search(z[:0], z, 3), context.items(z).search(z[:0], 3)):
    assert [part.shape for part in found] == [(0, 3), (0, 3)] and found[1].dtype == np.int64
for call in (lambda: context.fit(x[:0], y[:0], 4), lambda: context.search(z, z[:0], 3), lambda: context.items(z[:0]), lambda: context.weights(z[:0], z[:0]),
             lambda: m.similarity(x, y[:0]), lambda: context.gram(unicon.kernel("rbf"), x, x[:0]), lambda: context.recall(z[:0], z[:0])):
    raises(ValueError, "at least one row and one column", call)

# Fewer columns: the products of embeddings are the nearest that these have.
fused, _ = context.fit(x, y, 3, kernel=unicon.kernel("angular"), batch_size=100)
assert (fused.members, fused.r) == (4, 12)
s = fused.similarity(x, y)
u, values, v = np.linalg.svd(s.astype(np.float64))
for r in (1, 3, 12):
    small, error = fused.compress(x, y, r)
    kept = (u[:, :r] * values[:r]) @ v[:r]
    got = small.encode(x, "x") @ small.encode(y, "y").T
    assert (small.members, small.r) == (4, r) and np.abs(got - kept).max() < 1e-4
    assert abs(error - np.sqrt((values[r:] ** 2).sum() / (values**2).sum())) < 1e-5
for r, kind in ((0, unicon.Error), (13, unicon.Error), (2.5, ValueError)):
    raises(kind, "r", lambda: fused.compress(x, y, r))

# Outputs are written where they lie, or refused.
for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-6), (np.float16, 1e-3)):
    for out in (np.zeros((400, 8), dtype), np.zeros((8, 400), dtype).T, np.zeros((400, 20), dtype)[:, 3:11]):
        assert m.encode(x, "x", out=out) is out and np.abs(out - want).max() < tolerance
folder = pathlib.Path(tempfile.mkdtemp())
np.save(folder / "out.npy", np.zeros((400, 8), np.float32))
both = np.zeros((400, 24), np.float32)
both[:, :16] = x
frozen = np.zeros((400, 8), np.float32)
frozen.flags.writeable = False
outs = [
    (frozen, ValueError, "read-only"), (np.load(folder / "out.npy", mmap_mode="r"), ValueError, "read-only"),
    (np.broadcast_to(np.zeros((1, 8), np.float32), (400, 8)), ValueError, "read-only"),
    (np.zeros((400, 7), np.float32), unicon.Error, "expected 400 x 8, got 400 x 7"), (np.zeros(3200, np.float32), ValueError, "shape"),
    (np.zeros((400, 8), np.int32), TypeError, "got int32"), (np.zeros((400, 8), ">f4"), TypeError, "byte order"),
    (np.zeros((400, 8)).tolist(), TypeError, "to write to"), (np.ma.zeros((400, 8)), TypeError, "masked"), (b"", TypeError, "bytes"),
    (np.zeros((400, 16), np.float32)[:, ::2], ValueError, "contiguous"),
    (np.lib.stride_tricks.as_strided(np.zeros(500, np.float32), (400, 8), (4, 4)), ValueError, "overlap"),
]
for k, (out, kind, text) in enumerate(outs):
    try:
        raises(kind, text, lambda: m.encode(x, "x", out=out))
    except BaseException as e:
        raise AssertionError(f"output {k}: {e!r}") from e
assert not np.load(folder / "out.npy").any()
raises(unicon.Error, "overlap", lambda: m.encode(both[:, :16], "x", out=both[:, 16:]))
raises(unicon.Error, "overlap", lambda: m.encode(both[:, :16], "x", out=both[:, 4:12]))
raises(unicon.Error, "overlap", lambda: context.contrastive_grad(z, z, dzx=z))
d = np.zeros_like(z)
raises(unicon.Error, "overlap", lambda: context.contrastive_grad(z, z, dzx=d, dzy=d))
raises(ValueError, "dzy: expected memory that may be written", lambda: context.contrastive_grad(z, z, dzy=frozen))
value, dx, dy = context.contrastive_grad(z, z, dzy=False)
assert dy is False and np.abs(dx).sum() > 0 and value == context.contrastive_grad(z, z, dzx=False, dzy=False)[0]

# Files: paths of any kind, and files that are open.
import io
saved = {}
for name, at in (("text", str(folder / "a.safetensors")), ("path", folder / "b.safetensors"), ("bytes", str(folder / "c.safetensors").encode())):
    m.save(at)
    saved[name] = unicon.load(at).to_bytes()
buffer = io.BytesIO()
m.save(buffer)
saved["BytesIO"] = buffer.getvalue()
buffer.seek(0)
saved["again"] = context.load(buffer).to_bytes()
with open(folder / "d.safetensors", "wb") as file:
    m.save(file)
saved["file"] = (folder / "d.safetensors").read_bytes()
assert len(set(saved.values())) == 1 and saved["text"] == m.to_bytes() == (folder / "a.safetensors").read_bytes()
before = sorted(p.name for p in pathlib.Path(".").iterdir())
raises(TypeError, "binary writing", lambda: m.save(io.StringIO()))
raises(TypeError, "binary reading", lambda: unicon.load(io.StringIO("text")))
raises(TypeError, "a path or a binary file", lambda: m.save(3))
raises(ValueError, "null", lambda: m.save("a\0b"))
raises(ValueError, "null", lambda: context.fit(x, y, 2, checkpoint="a\0b"))
raises(unicon.Error, "bad file", lambda: unicon.load(io.BytesIO(b"not a model")))
raises(unicon.Error, "expected at least 1, got 0", lambda: unicon.Model.from_bytes(b""))
for data in ("text", 3, None, [1, 2]):
    raises(TypeError, "data: expected bytes", lambda: unicon.Model.from_bytes(data))
assert unicon.Model.from_bytes(memoryview(bytearray(m.to_bytes()))).to_bytes() == m.to_bytes()
raises(unicon.Error, "", lambda: unicon.Model.from_bytes(m.to_bytes()[:-8]))
assert sorted(p.name for p in pathlib.Path(".").iterdir()) == before

# Options that do not fit their type.
for options, kind, text in [
    ({"n_iters": 2.5}, TypeError, "n_iters: expected an integer, got 2.5"), ({"n_iters": 2**64 + 1}, ValueError, "n_iters"),
    ({"seed": -1}, ValueError, "seed: expected 0"), ({"whiten": True}, TypeError, "whiten: expected a number, got True"),
    ({"whiten": "0.1"}, TypeError, "whiten"), ({"init": "one"}, ValueError, "zeros"), ({"nonsense": 1}, TypeError, "nonsense"),
    ({"landmarks": [0.5], "kernel": unicon.kernel("rbf")}, ValueError, "landmarks: expected whole numbers"),
    ({"validation": x}, TypeError, "validation: expected a pair"), ({"warm_start": x}, TypeError, "warm_start: expected a Model"),
    ({"n_landmarks": "some", "kernel": unicon.kernel("rbf")}, ValueError, "n_landmarks: expected one of all"), ({"preset": ["paper"]}, ValueError, "preset"),
]:
    raises(kind, text, lambda: context.fit(x, y, 4, **options))
raises(TypeError, "r: expected an integer", lambda: context.fit(x, y, 4.5))
raises(ValueError, "k: expected", lambda: context.search(z, z, 0))
raises((TypeError, ValueError), "k: expected", lambda: context.search(z, z, 1.5))
raises(TypeError, "loss: expected a loss of unicon_align.loss", lambda: context.weights(z, z, "clip"))
raises(TypeError, "tau: expected a number", lambda: unicon.loss(tau="hot"))
assert context.fit(x, y, 4, whiten=None, n_iters=None)[1].n_iters == context.fit(x, y, 4)[1].n_iters
print(f"{len(good) + len(bad) + len(outs) + 40} inputs and outputs")
