"""Evaluation and resident items, against NumPy in float64."""

import copy
import pickle
import threading

import numpy as np
import unicon_align as unicon

rng = np.random.default_rng(1)
context = unicon.Context()


def unit(n, r, dtype=np.float32):
    z = rng.standard_normal((n, r))
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(dtype)


def raises(kind, text, call):
    try:
        call()
    except kind as e:
        assert text in str(e), e
    else:
        raise AssertionError(f"{text}: not refused")


# A constant x gives chance by default, whatever the order; the rules have one spelling.
n = 60
constant, z = np.tile(unit(1, 5), (n, 1)), unit(n, 5)
found = context.evaluate(constant, z, ks=[1, 6, n])
assert found["y2x"]["tied"] == n and found["x2y"]["tied"] == 0
assert np.allclose(list(found["y2x"]["recall"].values()), [1 / n, 6 / n, 1])
for ties, share in [("optimistic", 1), ("pessimistic", 0), ("lower-index", 1 / n), ("lower_index", 1 / n), ("expected", 1 / n)]:
    got = context.evaluate(constant, z, ks=[1], ties=ties)["y2x"]["recall"][1]
    assert abs(got - share) < 1e-12, (ties, got)
for wrong in ("mean", None, 3):
    raises(ValueError, "ties: expected one of expected, lower-index", lambda: context.evaluate(z, z, ties=wrong))

# Ranks and intervals.
x, y = unit(200, 8), unit(200, 8)
y = x + 1.5 * y
y = (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)
s = x.astype(np.float64) @ y.T.astype(np.float64)
ranks = 1 + (s > np.diag(s)[:, None]).sum(1)
found = context.evaluate(x, y, ks=[1, 5])
assert abs(found["x2y"]["mrr"] - (1 / ranks).mean()) < 1e-12
assert found["x2y"]["median_rank"] == np.median(ranks) and abs(found["x2y"]["mean_rank"] - ranks.mean()) < 1e-12
for k, (low, high) in found["x2y"]["intervals"].items():
    assert low <= (ranks <= k).mean() <= high and high - low < 0.2
again = unicon.Context(n_threads=1).evaluate(x, y, ks=[1, 5])
assert again == found
assert context.evaluate(x, y, ks=[1, 5], seed=1)["x2y"]["intervals"] != found["x2y"]["intervals"]
assert "intervals" not in context.evaluate(x, y, resamples=0)["x2y"]
raises(unicon.Error, "resamples", lambda: context.evaluate(x, y, resamples=3))

# A set against itself.
groups = np.arange(200) // 4
others = context.evaluate(x, x, ks=[1], truth=(groups, groups), exclude_self=True)
s = x.astype(np.float64) @ x.T.astype(np.float64)
np.fill_diagonal(s, -2)
assert abs(others["x2y"]["recall"][1] - (groups[s.argmax(1)] == groups).mean()) < 1e-12
raises(unicon.Error, "other than the row itself", lambda: context.evaluate(x, x, exclude_self=True))

# Resident items find what a search finds; a vector is one query; a query leaves itself out.
for dtype in (np.float32, np.float64, np.float16):
    items = unit(3000, 24, dtype)
    resident = context.items(items)
    assert len(resident) == 3000 and resident.shape == (3000, 24)
    for queries in (1, 7, 40):
        q = unit(queries, 24, dtype)
        scores, indices = resident.search(q, 12)
        wide = q.astype(np.float64) @ items.T.astype(np.float64)
        best = -np.sort(-wide, axis=1)[:, :12]
        assert np.abs(scores - best).max() < 1e-6 and np.abs(np.take_along_axis(wide, indices, 1) - best).max() < 1e-6
    one = resident.search(items[5], 3)
    assert one[1].shape == (1, 3) and one[1][0, 0] == 5
    assert (resident.search(items[5:9], 3000, first=5)[1][:, -1] == -1).all()
    assert not (resident.search(items[5:9], 10, first=5)[1] == np.arange(5, 9)[:, None]).any()
# What became of the array does not matter.
before = resident.search(items[:3], 5)[1]
kept = items[:3].copy()
items[:] = 0
assert (resident.search(kept, 5)[1] == before).all()
assert copy.deepcopy(resident) is resident and copy.copy(resident) is resident
raises(TypeError, "cannot be pickled", lambda: pickle.dumps(resident))
raises(ValueError, "k: expected at least 1", lambda: resident.search(kept, 0))
raises(ValueError, "first", lambda: resident.search(kept, 1, first=-1))
raises(unicon.Error, "items", lambda: resident.search(kept, 1, first=2998))
raises(unicon.Error, "columns, as the items have", lambda: resident.search(kept[:, :20].copy(), 1))
bad = unit(4, 24)
bad[2, 3] = np.nan
raises(unicon.Error, "row 2, column 3", lambda: context.items(bad))
raises(unicon.Error, "row 2, column 3", lambda: resident.search(bad, 1))

# Any number of threads.
items = unit(5000, 16)
resident, queries = context.items(items), unit(6, 16)
want, got = resident.search(queries, 20)[1], {}


def work(name):
    got[name] = [resident.search(queries, 20)[1] for _ in range(20)]


threads = [threading.Thread(target=work, args=(t,)) for t in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
assert len(got) == 4 and all((found == want).all() for all_found in got.values() for found in all_found)
print("ok")
