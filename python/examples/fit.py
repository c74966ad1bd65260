"""Fits, encodes, searches and streams with NumPy arrays."""

import numpy as np
import unicon_align

rng = np.random.default_rng(0)
z = rng.normal(size=(500, 6))
x = (z @ rng.normal(size=(6, 24)) + 0.1 * rng.normal(size=(500, 24))).astype(np.float32)
y = (z @ rng.normal(size=(6, 16)) + 0.1 * rng.normal(size=(500, 16))).astype(np.float32)

context = unicon_align.Context()
model, info = context.fit(x, y, 6, whiten=0.01, loss=unicon_align.loss("clip", tau=0.07))
print(f"loss {info.loss[0]:.4f} -> {info.final_loss:.4f} in {info.seconds['total']:.3f} s")
zx, zy = model.encode(x, "x"), model.encode(y, "y")
recall = context.recall(zx, zy, ks=[1, 5])
print("recall", recall)
assert recall["x2y"][1] > 0.9
scores, indices = context.search(zx, zy, 3)
assert (indices[:, 0] == np.arange(500)).mean() == recall["x2y"][1]

# Columns of a Fortran-ordered array are read where they lie; what is contiguous in neither way is copied.
assert np.array_equal(model.encode(np.asfortranarray(x), "x"), zx)
assert np.array_equal(model.encode(np.repeat(x, 2, axis=1)[:, ::2], "x"), zx)
try:
    model.encode(x[:, :20], "x")
except unicon_align.Error as e:
    print("as expected:", e)

# What needs no tuning: shrinkage, power and the dimension are chosen on rows that are held back.
best, info = context.fit_best(x, y)
print(f"best: r {info.r}, whiten {info.whiten}, power {info.power}, {len(info.trace)} points, held back {info.held_back[0]} rows")
assert 4 <= info.r <= 16 and context.recall(best.encode(x, "x"), best.encode(y, "y"), ks=[1])["x2y"][1] > 0.9

# Batches that are never together in memory: sums of Gram matrices and C, or the paper's average of solutions.
for kind, options in (("moments", {"whiten": 0.01}), ("solutions", {})):
    stream = context.partial_fit(24, 16, 6, accumulate=kind, **options)
    for rows in np.split(np.arange(500), 5):
        stream.add(x[rows], y[rows])
    streamed = stream.finish()
    recall = context.recall(streamed.encode(x, "x"), streamed.encode(y, "y"), ks=[1])["x2y"][1]
    print(f"streamed {kind}: recall@1 {recall:.3f}")

weights = context.weights(zx, zy, unicon_align.loss(tau=0.1))
v = rng.normal(size=(500, 3)).astype(np.float32)
assert np.allclose(weights.apply(v), weights.dense() @ v, atol=1e-6)
