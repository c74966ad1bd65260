"""Weights of a batch, and fits whose batches arrive one by one: handles that live on one context of the library."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Callable, NoReturn, Optional

import numpy as np

from . import _abi
from ._arrays import Array, Features, matrix_of, output_of
from ._asked import weights_options
from ._family import family_of
from ._fit import begin_from, fit_options
from ._library import Handle, check, lib, pick
from ._model import Model
from ._positives import Positives, pairs_of

if TYPE_CHECKING:
    from ._context import Context


class Weights:
    """S(gamma) = -dL/ds of a batch of embeddings as an operator; never n x n unless ``dense`` is asked for. Made by ``Context.weights``.

    ``n_negatives`` above 0 samples so many negatives per row and column, with ``seed``, which stand for all. Immutable; copies share it.
    It cannot be pickled. Results are float64 if an embedding was, else float32.

    Attributes
    ----------
    shape : (int, int)
        n_x and n_y.
    """

    def __init__(self, context: Context, zx: Features, zy: Features, loss: Optional[_abi.Loss] = None, positives: Any = None, *,
                 n_negatives: int = 0, seed: int = 0) -> None:
        (a, keep_a), (b, keep_b) = matrix_of(zx, "zx"), matrix_of(zy, "zy")
        pairs = pairs_of(a, b, Positives(positives, a.rows, b.rows))
        work = 2.0 * a.rows * b.rows * a.cols
        options = weights_options(loss, n_negatives, seed)
        self._make(context, (a.rows, b.rows), (a, b), lib.unicon_weights_create, (options, pairs), work)

    @classmethod
    def of_similarity(cls, context: Context, similarity: Features, loss: Optional[_abi.Loss] = None, positives: Any = None, *,
                      n_negatives: int = 0, seed: int = 0) -> Weights:
        """S of any matrix of cosines, n_x x n_y with values in [-1, 1], for small n."""
        s, keep = matrix_of(similarity, "similarity")
        out = cls.__new__(cls)
        p = Positives(positives, s.rows, s.cols)
        work = 10.0 * s.rows * s.cols
        options = weights_options(loss, n_negatives, seed)
        out._make(context, (s.rows, s.cols), (s,), lib.unicon_weights_create_similarity, (options, s, p.raw), work)
        return out

    def _make(self, context: Context, shape: tuple[int, int], views: tuple[_abi.Matrix, ...], function: Any, arguments: tuple[Any, ...],
              work: float) -> None:
        self._context, self.shape = context, shape
        self._dtype: Any = np.float64 if any(v.dtype == 2 for v in views) else np.float32
        pointer: Any = ctypes.c_void_p()
        # The functions that the handle calls, kept as long as it.
        pointer.own_family = family_of(arguments)
        self._slot = context._slots.call(function, (*arguments, pointer), work)
        self._handle = Handle(pointer, lib.unicon_weights_destroy)

    @property
    def loss(self) -> float:
        """The loss L."""
        return self.losses()[0]

    def losses(self) -> tuple[float, float, float]:
        """L, and the shares of the rows and of the columns."""
        values = [ctypes.c_double() for _ in range(3)]
        self._slot.bound(lib.unicon_weights_loss, (self._handle.pointer, *values))
        return values[0].value, values[1].value, values[2].value

    def unmatched(self) -> tuple[int, int]:
        """How many rows and columns have no positive, and so contribute nothing."""
        counts = [ctypes.c_int64() for _ in range(2)]
        self._slot.bound(lib.unicon_weights_unmatched, (self._handle.pointer, *counts))
        return counts[0].value, counts[1].value

    def __repr__(self) -> str:
        return f"unicon_align.Weights({self.shape[0]} x {self.shape[1]})"

    def _product(self, function: Any, inputs: list[tuple[str, Features]], shape: Callable[..., tuple[int, int]]) -> Array:
        views = [matrix_of(m, name) for name, m in inputs]
        out = np.empty(shape(*(v for v, _ in views)), self._dtype)
        target, keep = output_of(out)
        columns = sum(v.cols for v, _ in views) or self.shape[1]
        self._slot.bound(function, (self._handle.pointer, *(v for v, _ in views), target),
                         work=float(self.shape[0]) * self.shape[1] * columns)
        return out

    def dense(self) -> Array:
        """S itself, n_x x n_y, for small n."""
        return self._product(lib.unicon_weights_dense, [], lambda: self.shape)

    def apply(self, v: Features) -> Array:
        """S V: n_y x c to n_x x c."""
        return self._product(lib.unicon_weights_apply, [("v", v)], lambda v: (self.shape[0], v.cols))

    def apply_transpose(self, u: Features) -> Array:
        """S^T U: n_x x c to n_y x c."""
        return self._product(lib.unicon_weights_apply_transpose, [("u", u)], lambda u: (self.shape[1], u.cols))

    def cross(self, x: Features, y: Features) -> Array:
        """The contrastive cross-covariance X^T S Y: n_x x d1 and n_y x d2 to d1 x d2."""
        return self._product(lib.unicon_weights_cross, [("x", x), ("y", y)], lambda x, y: (x.cols, y.cols))


class PartialFit:
    """A linear fit whose batches arrive one by one; finish() ends a pass and gives the model.

    accumulate "moments" (Gram matrices and C summed: one solution of all batches, also with whitening) or "solutions" (one per batch,
    averaged with the score on `validation` pairs: the batched mode of the paper).
    """

    def __init__(self, context: Context, d1: int, d2: int, r: int, *, accumulate: str = "moments", dtype: Any = "float32",
                 validation: Optional[tuple[Features, Features]] = None, validation_positives: Any = None,
                 warm_start: Optional[Model] = None, **options: Any) -> None:
        self._shape = d1, d2, r
        self._context, self._work = context, 4.0 * d1 * d2
        raw, keep = fit_options(r, options)
        begin_from(raw, validation, validation_positives, warm_start)
        pointer: Any = ctypes.c_void_p()
        pointer.own_family = family_of((raw,))
        code = pick("dtype", getattr(np.dtype(dtype), "name", dtype), {"float32": 1, "float64": 2})
        kind = pick("accumulate", accumulate, {"moments": 0, "solutions": 1})
        arguments = raw, kind, d1, d2, code, pointer
        self._slot = context._slots.call(lib.unicon_partial_fit_create, arguments)
        self._handle = Handle(pointer, lib.unicon_partial_fit_destroy)

    def __repr__(self) -> str:
        return "unicon_align.PartialFit({} and {} -> {})".format(*self._shape)

    def __copy__(self) -> NoReturn:
        raise TypeError("a stream of batches cannot be copied")

    def __deepcopy__(self, memo: Any) -> NoReturn:
        raise TypeError("a stream of batches cannot be copied")

    def add(self, x: Features, y: Features, positives: Any = None) -> float:
        """Adds one batch, b_x x d1 and b_y x d2, and returns its loss before the update. A batch that fails changes nothing."""
        (a, keep_a), (b, keep_b) = matrix_of(x, "x"), matrix_of(y, "y")
        pairs = pairs_of(a, b, Positives(positives, a.rows, b.rows))
        value = ctypes.c_double()
        self._slot.bound(lib.unicon_partial_fit_add, (self._handle.pointer, pairs, value),
                         work=a.rows * (self._work + float(b.rows) * (a.cols + b.cols)))
        return value.value

    def _result(self, function: Any) -> Model:
        pointer = ctypes.c_void_p()
        self._slot.bound(function, (self._handle.pointer, pointer), work=float("inf"))
        return Model(self._context, pointer)

    def model(self) -> Model:
        """The model of the batches of this pass so far; more may follow."""
        return self._result(lib.unicon_partial_fit_model)

    def finish(self) -> Model:
        """Ends a pass: its model, from which the next pass begins."""
        return self._result(lib.unicon_partial_fit_finish)

