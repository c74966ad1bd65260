"""Positives in every form: the right pairs, or an error that says what was expected."""

import numpy as np
import unicon_align as unicon
from common import raises, rng, unit

N_X, N_Y = 30, 20
zx, zy = unit(rng.normal(size=(N_X, 5))), unit(rng.normal(size=(N_Y, 5)))
mask = rng.random((N_X, N_Y)) < 0.1
mask[3] = False
mask[5, 7] = mask[0, 0] = True
context = unicon.Context(n_threads=1)
tau = 0.2


def loss_of(matrix):
    """The loss by definition, in float64."""
    s = zx @ zy.T / tau
    total = 0.0
    for s, m in ((s, matrix), (s.T, matrix.T)):
        for row, positive in zip(s, m):
            terms = [np.log(np.exp(row[k] - row[k]) + np.exp(row[~positive] - row[k]).sum()) for k in np.flatnonzero(positive)]
            total += tau * np.mean(terms) / (2 * len(s)) if terms else 0.0
    return total


def ours(positives):
    return context.weights(zx, zy, unicon.loss(tau=tau), positives).loss


class Sparse:
    """A compressed matrix with SciPy's attributes and nothing else."""

    def __init__(self, form, indptr, indices, data, shape):
        self.format, self.indptr, self.indices, self.data, self.shape = form, indptr, indices, data, shape


class Coo:
    def __init__(self, row, col, data, shape):
        self.row, self.col, self.data, self.shape = row, col, data, shape


def compressed(m, form="csr", dtype=np.int32):
    m = m if form == "csr" else m.T
    indptr = np.concatenate([[0], np.cumsum(m.sum(axis=1))]).astype(dtype)
    indices = np.nonzero(m)[1].astype(dtype)
    return indptr, indices, np.ones(len(indices))


want = loss_of(mask)
rows, cols = np.nonzero(mask)
pairs = np.stack([rows, cols], axis=1)
csr, csc = compressed(mask), compressed(mask, "csc")
# A stored zero beside every value, at another column: it is no positive.
zeros = np.zeros(2 * csr[0][-1], np.int64)
values = np.zeros(len(zeros))
zeros[0::2], values[0::2] = csr[1], 1
free = [np.flatnonzero(~mask[i])[:mask[i].sum()] for i in range(N_X)]
zeros[1::2] = np.concatenate(free)
good = {
    "bool matrix": mask,
    "bool matrix in columns": np.asfortranarray(mask),
    "every other": np.repeat(mask, 2, axis=1)[:, ::2],
    "list of lists of bool": mask.tolist(),
    "CSR": Sparse("csr", *csr, (N_X, N_Y)),
    "CSR in unsigned": Sparse("csr", *compressed(mask, dtype=np.uint64), (N_X, N_Y)),
    "CSC": Sparse("csc", *csc, (N_X, N_Y)),
    "COO": Coo(rows.astype(np.int32), cols.astype(np.int32), np.ones(len(rows)), (N_X, N_Y)),
    "COO, pairs twice": Coo(np.tile(rows, 2), np.tile(cols, 2), np.ones(2 * len(rows)), (N_X, N_Y)),
    "stored zeros": Sparse("csr", 2 * csr[0], zeros, values, (N_X, N_Y)),
    "COO with zeros": Coo(np.append(rows, 3), np.append(cols, 3), np.append(np.ones(len(rows)), 0), (N_X, N_Y)),
    "pairs": pairs,
    "pairs, shuffled and twice": rng.permutation(np.concatenate([pairs, pairs])),
    "pairs, unsigned": pairs.astype(np.uint8),
    "list of pairs": [tuple(p) for p in pairs.tolist()],
    "indptr and indices": csr[:2],
    "lists of them": (csr[0].tolist(), csr[1].tolist()),
}
for name, positives in good.items():
    got = ours(positives)
    assert abs(got - want) < 1e-12, f"{name}: {got} is not {want}"

gx, gy = rng.integers(-3, 4, N_X), rng.integers(-3, 4, N_Y)
want = loss_of(gx[:, None] == gy[None, :])
for positives in ((gx, gy), [gx, gy], (gx.tolist(), gy.tolist()), (gx.astype(np.float64), gy.astype(np.int8)), (gx.astype(">i4"), gy)):
    assert abs(ours(positives) - want) < 1e-12

# A square CSC is transposed, not read as CSR: the diagonal shifted by one.
shift = np.eye(N_X, k=1, dtype=bool)
zy_all, zy = zy, unit(rng.normal(size=(N_X, 5)))
N_Y = N_X
assert abs(ours(Sparse("csc", *compressed(shift, "csc"), shift.shape)) - loss_of(shift)) < 1e-12
assert abs(loss_of(shift) - loss_of(shift.T)) > 1e-3
N_Y, zy = 20, zy_all

bad = {
    "another width": (Sparse("csr", *csr, (N_X, N_Y + 1)), ValueError, "expected a matrix 30 x 20, got 30 x 21"),
    "transposed": (Sparse("csr", *csc, (N_Y, N_X)), ValueError, "expected a matrix 30 x 20, got 20 x 30"),
    "bsr": (Sparse("bsr", *csr, (N_X, N_Y)), TypeError, "bsr"),
    "dense 0 and 1": (mask.astype(int), TypeError, "pass a mask as bool"),
    "dense floats": (mask.astype(float), TypeError, "pass a mask as bool"),
    "transposed mask": (mask.T, TypeError, "got bool of shape (20, 30)"),
    "mask of pairs": (np.ones(N_X, bool), TypeError, "got bool of shape (30,)"),
    "bools as ids": ((np.ones(N_X, bool), np.ones(N_Y, bool)), TypeError, "positives[0]: expected integers, got bool"),
    "fractions as ids": ((np.full(N_X, 0.5), gy), ValueError, "positives[0]: expected whole numbers"),
    "NaN as an id": ((np.full(N_X, np.nan), gy), ValueError, "whole numbers"),
    "names as ids": ((["a"] * N_X, gy), TypeError, "numpy.unique"),
    "too large ids": ((np.full(N_X, 2**63, np.uint64), gy), ValueError, "below 2^63"),
    "masked ids": ((np.ma.array(gx, mask=gx == 0), gy), ValueError, "masked"),
    "ids of one side": (gx, TypeError, "pass ids of both sides as a pair"),
    "ids by rows": (np.stack([gx, gx]), TypeError, "(groups_x, groups_y)"),
    "short ids": ((gx[1:], gy), ValueError, "got a pair of 29 and 20 values"),
    "three": ((gx, gy, gx), TypeError, "got 3 items"),
    "column beyond": (np.array([[0, N_Y]]), ValueError, "expected columns from 0 to 19, got 20 to 20"),
    "negative": (np.array([[-1, 0]]), ValueError, "expected rows from 0 to 29, got -1 to -1"),
    "float pairs": (pairs.astype(float), TypeError, "integer pairs m x 2"),
    "NaN stored": (Sparse("csr", csr[0], csr[1], csr[2] * np.nan, (N_X, N_Y)), ValueError, "finite stored values"),
    "falling offsets": (Sparse("csr", csr[0][::-1], csr[1], csr[2], (N_X, N_Y)), ValueError, "not falling"),
    "text": ("diagonal", TypeError, "got str"),
    "number": (3, TypeError, "got int"),
    "function": (len, TypeError, "got builtin_function_or_method"),
    "diagonal of a rectangle": (None, unicon.Error, "n_x = 30 and n_y = 20"),
    "no pair": (np.zeros((N_X, N_Y), bool), unicon.Error, "at least 1"),
}
for name, (positives, kind, text) in bad.items():
    try:
        raises(kind, text, lambda: ours(positives))
    except BaseException as e:
        raise AssertionError(f"{name}: {e!r}") from e
N_Y, zy = 2, zy[:2]
raises(ValueError, "may be pairs or a mask", lambda: ours(np.ones((N_X, 2), int)))
N_Y, zy = 20, zy_all
raises(ValueError, "truth", lambda: context.recall(zx, zy, truth=np.array([[0, 99]])))
count = len(good) + len(bad) + 8

try:
    import scipy.sparse as sp
except ImportError:
    print("skipped: SciPy not found; get it with pip install scipy")
else:
    want, m = loss_of(mask), sp.csr_matrix(mask.astype(np.float32))
    for form in ("csr", "csc", "coo", "lil", "dok", "bsr", "dia"):
        assert abs(ours(m.asformat(form)) - want) < 1e-12, form
        assert abs(ours(sp.csr_array(m).asformat(form)) - want) < 1e-12, form
    doubled = sp.coo_matrix((np.ones(2 * len(rows)), (np.tile(rows, 2), np.tile(cols, 2))), mask.shape)
    assert abs(ours(doubled) - want) < 1e-12
    loose = sp.csr_matrix((np.ones(2), [0, 0], [0, 2] + [2] * (N_X - 1)), shape=mask.shape)  # one column twice
    assert abs(ours(loose) - loss_of(np.eye(N_X, N_Y, dtype=bool) & (np.arange(N_X) == 0)[:, None])) < 1e-12
    raises(ValueError, "expected a matrix 30 x 20", lambda: ours(m.T))
    count += 17
print(f"{count} forms of positives")
