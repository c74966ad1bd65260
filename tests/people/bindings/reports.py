"""What fits and evaluations report, what is warned of, and sampled negatives."""

import logging
import threading

import numpy as np
import unicon_align as unicon
from common import raises, rng, unit, x, y

context = unicon.Context(n_threads=2)

# What there is not is None, or NaN where a number is always expected.
plain = context.fit(x, y, 4, final_loss=0)[1]
assert plain.whiten is None and plain.sampling_error is None and plain.returned is None and plain.held_apart is None
assert np.isnan(plain.final_loss) and plain.trace == [] and plain.distinct == (400, 400) and plain.held_back == (0, 0)
assert plain.power == 0.5 and plain.tau == 0.07 and plain.outcome == "completed" and plain.zero_rows == (0, 0)
assert isinstance(plain.rejected_update, bool) and plain.peak_bytes > 0 and plain.workspace_bytes >= plain.peak_bytes
assert {"total", "load", "features", "encode", "statistics", "weights", "spectral", "validation"} == set(plain.seconds)
sampled = context.fit(x, y, 4, whiten=0.1, n_iters=2, n_negatives=50)[1]
assert sampled.whiten == 0.1 and 0 < sampled.sampling_error < 10 and np.isfinite(sampled.final_loss)
best = context.fit_best(x, y, 4)[1]
assert best.held_back == (40, 40) and best.held_apart == 7 and best.whiten > 0
assert {"seconds", "loss", "score", "negatives", "evaluations", "sampling_error"} == set(best.trace[0])
assert isinstance(best.trace[0]["evaluations"], int) and len(best.loss) >= len(best.trace)
# Histories of any length.
refine = unicon.refine(max_steps=6000, tol=0, patience=100000)
long = context.fit(x[:40], y[:40], 2, refine=refine, budget=10, loss=unicon.loss("sigmoid", tau=0.5))[1]
assert len(long.trace) == len(long.loss) - 1 or len(long.trace) + 1 >= 2
assert long.returned is None or 0 <= long.returned < len(long.trace)

# Warnings go to the logger, from the thread that called or the one that did its work, and from no other fit.
told = []
logger = logging.getLogger("unicon_align")
handler = logging.Handler(logging.WARNING)
handler.emit = lambda record: told.append((record.levelname, record.getMessage()))
logger.addHandler(handler)
context.fit(x, y, 4, whiten=0.01)
assert not told, told
spoilt = x.copy()
spoilt[7] = 0
context.fit(spoilt, y, 4, whiten=0.01)
assert len(told) == 1 and told[0][0] == "WARNING" and "zero" in told[0][1] and "\n" not in told[0][1], told
del told[:]
thread = threading.Thread(target=lambda: context.fit(spoilt, y, 4, whiten=0.01))
thread.start()
thread.join()
assert len(told) == 1, told
logger.removeHandler(handler)

# Sampled negatives: of the seed, near the exact ones, and exact where all are sampled.
zx, zy = unit(rng.normal(size=(300, 5))), unit(rng.normal(size=(300, 5)))
zy = unit(zx + zy)
loss = unicon.loss(tau=0.3)
exact, dx, dy = context.contrastive_grad(zx, zy, loss)
some = [context.contrastive_grad(zx, zy, loss, n_negatives=64, seed=s) for s in (1, 1, 2)]
assert some[0][0] == some[1][0] != some[2][0] and np.array_equal(some[0][1], some[1][1])
assert 0 < abs(some[0][0] - exact) < 0.05 * abs(exact), (some[0][0], exact)
mean = np.mean([context.contrastive_grad(zx, zy, loss, n_negatives=64, seed=s)[1] for s in range(40)], axis=0)
one = some[0][1]
assert np.linalg.norm(mean - dx) < 0.5 * np.linalg.norm(one - dx)
w = context.weights(zx, zy, loss, n_negatives=64, seed=1)
assert abs(w.loss - some[0][0]) < 1e-12 and np.abs(w.apply(zy) + one).max() < 1e-12
raises(ValueError, "seed", lambda: context.weights(zx, zy, loss, seed=-1))
raises(unicon.Error, "n_negatives", lambda: context.weights(zx, zy, loss, n_negatives=-3))
groups = np.arange(300) // 2
groups[:6] = -np.arange(1, 7)
assert context.weights(zx, zy, loss, (groups, np.arange(300) // 2)).unmatched() == (6, 6)

# Landmarks: 512, at most the rows, unless all are asked for.
kernel = unicon.kernel("rbf", gamma=0.02)
more_x, more_y = (np.concatenate([a, a + 0.1 * rng.normal(size=a.shape).astype(np.float32)]) for a in (x, y))
usual, named, every = (context.fit(more_x, more_y, 4, kernel=kernel, **o)[0] for o in ({}, {"n_landmarks": 512}, {"n_landmarks": "all"}))
assert usual.to_bytes() == named.to_bytes() and len(every.to_bytes()) > len(usual.to_bytes())

# Recall has the rules for ties that an evaluation has.
same = np.tile(zx[:1], (300, 1))
for ties in ("expected", "lower-index", "optimistic", "pessimistic"):
    found = context.evaluate(same, zy, [1, 7], ties=ties, resamples=0)
    got = context.recall(same, zy, [1, 7], ties=ties)
    for way in ("x2y", "y2x"):
        assert np.allclose(list(got[way].values()), list(found[way]["recall"].values()), atol=1e-12)
assert "mrr_interval" not in found["x2y"] and found["y2x"]["tied"] == 300
none = context.evaluate(zx, zy, [1], truth=(np.arange(300), np.r_[0, np.full(299, -1)]), resamples=0)
assert none["x2y"]["median_rank"] >= 1
print("reports")
