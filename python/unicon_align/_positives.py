"""Which pairs match, by the shape and type of what is given."""

from __future__ import annotations

import ctypes
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from . import _abi
from ._arrays import Array, index_array, unmasked
from ._library import check, lib


Ids = npt.NDArray[np.int64]


def pairs_of(x: _abi.Matrix, y: _abi.Matrix, positives: Positives) -> _abi.Pairs:
    """unicon_pairs_t, which keeps what it points to."""
    pairs = _abi.Pairs(ctypes.sizeof(_abi.Pairs), ctypes.pointer(x), ctypes.pointer(y), ctypes.pointer(positives.raw))
    pairs.kept = positives
    return pairs


class Positives:
    """Positives of n_x by n_y samples as the library takes them, with the arrays that they borrow. What may be given:

    - None: x_i matches y_i, n_x = n_y;
    - (groups_x, groups_y): n_x and n_y integer ids; x_i matches y_j where they are equal;
    - (indptr, indices): n_x + 1 offsets and the columns of each row;
    - a sparse matrix n_x by n_y, of SciPy (any format) or with its attributes: its values other than 0;
    - an array or tensor of bool, n_x by n_y;
    - pairs: an m by 2 array of integers (i, j).

    With `ranks` these are the part of one of several processes, which may be ids or CSR, with columns that count over all.
    """

    def __init__(self, positives: Any, n_x: int, n_y: int, name: str = "positives", ranks: bool = False) -> None:
        self.raw = raw = _abi.Positives()
        check(lib.unicon_positives_init(raw, ctypes.sizeof(raw)))
        self._arrays: tuple[Ids, ...] = ()
        if positives is None:
            return
        self._name, self._shape = name, (n_x, n_y)
        if ranks and not (isinstance(positives, (tuple, list)) and len(positives) == 2 and hasattr(positives[0], "shape")):
            if not hasattr(positives, "tocsr"):
                raise TypeError(f"{name}: expected (groups_x, groups_y), (indptr, indices) or a sparse matrix from one of several "
                                f"processes, got {type(positives).__name__}")
            # As wide as the job, which the library knows.
            given: Any = positives
            self._shape = n_x, given.shape[1]
        groups, (a, b) = self._read(positives)
        self._arrays = (a, b)
        if groups:
            raw.kind, raw.x_groups, raw.y_groups = 1, a.ctypes.data, b.ctypes.data
        else:
            raw.kind, raw.indptr, raw.indices, raw.nnz = 2, a.ctypes.data, b.ctypes.data, len(b)

    def _read(self, given: Any) -> tuple[bool, tuple[Ids, Ids]]:
        """(True, ids of both sides) or (False, indptr and indices)."""
        if hasattr(given, "crow_indices") or hasattr(given, "to_sparse_coo"):
            given = self._of_tensor(given)
        if hasattr(given, "tocsr"):
            return False, self._of_sparse(given)
        if hasattr(given, "indptr") and hasattr(given, "indices"):
            return False, self._of_compressed(given)
        if hasattr(given, "row") and hasattr(given, "col"):
            self._check_shape(getattr(given, "shape", self._shape))
            return False, self._of_pairs(given.row, given.col, getattr(given, "data", None))
        two = isinstance(given, tuple) or isinstance(given, list) and len(given) == 2 and hasattr(given[0], "shape")
        if two:
            return self._of_two(given)
        return False, self._of_array(given)

    def _expected(self) -> str:
        n_x, n_y = self._shape
        return (f"(groups_x, groups_y) of {n_x} and {n_y} integer ids, (indptr, indices) of {n_x + 1} offsets, a sparse or bool matrix "
                f"{n_x} x {n_y}, or integer pairs m x 2")

    def _check_shape(self, shape: Any) -> None:
        if tuple(shape) != self._shape:
            raise ValueError(f"{self._name}: expected a matrix {self._shape[0]} x {self._shape[1]}, got {' x '.join(map(str, shape))}")

    def _of_tensor(self, t: Any) -> Any:
        """A torch tensor as an array; a sparse one as SciPy would hold it."""
        t = t.detach().cpu()
        if str(t.layout) == "torch.strided":
            return t.numpy()
        t = t if str(t.layout) == "torch.sparse_coo" else t.to_sparse()
        # Equal pairs of bool are one in any case, and cannot be added.
        t = t if str(t.dtype) == "torch.bool" else t.coalesce()

        class Coo:
            shape = tuple(t.shape)
            row, col = t._indices().numpy()
            data = t._values().numpy()

        return Coo

    def _of_sparse(self, m: Any) -> tuple[Ids, Ids]:
        self._check_shape(m.shape)
        m = m.tocsr()
        if not getattr(m, "has_canonical_format", True):
            m = m.copy()
            m.sum_duplicates()
        return self._kept(m.indptr, m.indices, m.data)

    def _of_compressed(self, m: Any) -> tuple[Ids, Ids]:
        if hasattr(m, "shape"):
            self._check_shape(m.shape)
        form, data = getattr(m, "format", "csr"), getattr(m, "data", None)
        if form == "csc":
            indptr, rows = index_array(m.indptr, f"{self._name}.indptr"), index_array(m.indices, f"{self._name}.indices")
            self._check_offsets(indptr, rows, self._shape[1])
            return self._of_pairs(rows, np.repeat(np.arange(self._shape[1]), np.diff(indptr)), data)
        if form != "csr":
            raise TypeError(f"{self._name}: expected CSR or CSC, got a sparse matrix in format {form!r} without tocsr()")
        return self._kept(m.indptr, m.indices, data)

    def _check_offsets(self, indptr: Ids, indices: Ids, n: int) -> None:
        if len(indptr) != n + 1 or indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
            raise ValueError(f"{self._name}: expected {n + 1} offsets from 0 to the {len(indices)} indices, not falling, got {len(indptr)} "
                             f"from {indptr[0] if len(indptr) else None} to {indptr[-1] if len(indptr) else None}")

    def _kept(self, indptr: Any, indices: Any, data: Any) -> tuple[Ids, Ids]:
        """CSR without its stored zeros."""
        indptr, indices = index_array(indptr, f"{self._name}.indptr"), index_array(indices, f"{self._name}.indices")
        self._check_offsets(indptr, indices, self._shape[0])
        keep = self._nonzero(data, len(indices))
        if keep is None:
            return indptr, indices
        rows = np.repeat(np.arange(self._shape[0]), np.diff(indptr))[keep]
        return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=self._shape[0]))]).astype(np.int64), indices[keep]

    def _nonzero(self, data: Any, n: int) -> Optional[npt.NDArray[np.bool_]]:
        """Which stored values are not 0; None: all."""
        if data is None:
            return None
        data = np.asarray(data)
        if data.shape != (n,) or data.dtype.kind not in "biufc" or not np.isfinite(data).all():
            raise ValueError(f"{self._name}: expected {n} finite stored values, got {data.dtype} of shape {data.shape}")
        keep = data != 0
        return None if keep.all() else keep

    def _of_pairs(self, rows: Any, cols: Any, data: Any = None) -> tuple[Ids, Ids]:
        rows, cols = index_array(rows, f"{self._name}, rows"), index_array(cols, f"{self._name}, columns")
        if len(rows) != len(cols):
            raise ValueError(f"{self._name}: expected as many rows as columns of pairs, got {len(rows)} and {len(cols)}")
        keep = self._nonzero(data, len(rows))
        if keep is not None:
            rows, cols = rows[keep], cols[keep]
        n_x, n_y = self._shape
        for what, ids, n in (("rows", rows, n_x), ("columns", cols, n_y)):
            if len(ids) and (ids.min() < 0 or ids.max() >= n):
                raise ValueError(f"{self._name}: expected {what} from 0 to {n - 1}, got {ids.min()} to {ids.max()}")
        rows, cols = np.divmod(np.unique(rows * n_y + cols), n_y)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_x))]).astype(np.int64)
        return indptr, np.ascontiguousarray(cols)

    def _of_two(self, given: Any) -> tuple[bool, tuple[Ids, Ids]]:
        if len(given) != 2:
            raise TypeError(f"{self._name}: expected {self._expected()}, got {len(given)} items")
        n_x, n_y = self._shape
        a, b = (index_array(v, f"{self._name}[{k}]") for k, v in enumerate(given))
        if (len(a), len(b)) == (n_x, n_y):
            return True, (a, b)
        if len(a) == n_x + 1:
            self._check_offsets(a, b, n_x)
            return False, (a, b)
        raise ValueError(f"{self._name}: expected {self._expected()}, got a pair of {len(a)} and {len(b)} values")

    def _of_array(self, given: Any) -> tuple[Ids, Ids]:
        n_x, n_y = self._shape
        if isinstance(given, (str, bytes, dict, set)) or not hasattr(given, "__len__") and not hasattr(given, "shape"):
            raise TypeError(f"{self._name}: expected {self._expected()}, got {type(given).__name__}")
        try:
            a = unmasked(given, self._name) if isinstance(given, np.ma.MaskedArray) else np.asarray(given)
        except ValueError:
            raise TypeError(f"{self._name}: expected {self._expected()}, got a list of unequal rows") from None
        if a.dtype == bool and a.shape == (n_x, n_y):
            return self._of_pairs(*np.nonzero(a))
        if a.dtype.kind in "iu" and a.ndim == 2 and a.shape[1] == 2:
            if a.shape == (n_x, n_y) and a.size and a.min() >= 0 and a.max() <= 1:
                raise ValueError(f"{self._name}: a {n_x} x 2 array of 0 and 1 may be pairs or a mask; pass a mask as bool, or pairs as CSR")
            return self._of_pairs(a[:, 0], a[:, 1])
        hint = ""
        if a.shape == (n_x, n_y) and a.dtype.kind in "iuf":
            hint = "; pass a mask as bool"
        elif a.ndim == 1 and a.dtype.kind in "iuf":
            hint = "; pass ids of both sides as a pair"
        raise TypeError(f"{self._name}: expected {self._expected()}, got {a.dtype} of shape {a.shape}{hint}")
