"""Evaluation, and items that stay on a device."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NoReturn, Optional

import numpy as np
import numpy.typing as npt

from . import _abi
from ._arrays import Array, Features, index_array, matrix_of, output_of
from ._asked import assign
from ._library import Handle, check, lib, pick
from ._positives import Positives, pairs_of
from ._report import Report

if TYPE_CHECKING:
    from ._context import Context

TIES = {"expected": 0, "lower-index": 1, "optimistic": 2, "pessimistic": 3}


class Items:
    """Items that stay on a context's device: checked and copied once, searched many times. Made by Context.items.

    Rows are items, of unit length for cosines. Immutable; copies share them, and any number of threads may search. They cannot be
    pickled: what they were made of can.
    """

    def __init__(self, context: Context, items: Features) -> None:
        matrix, keep = matrix_of(items, "items")
        pointer = ctypes.c_void_p()
        self._context = context
        self.shape: tuple[int, int] = (matrix.rows, matrix.cols)
        self._dtype: Any = np.float64 if matrix.dtype == 2 else np.float32
        self._slot = context._slots.call(lib.unicon_items_create, (matrix, pointer), float(matrix.rows) * matrix.cols)
        self._handle = Handle(pointer, lib.unicon_items_destroy)
        # On a GPU the items are of one context; on the CPU any may read them.
        self._bound = context.device != "cpu"

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"unicon_align.Items({self.shape[0]} x {self.shape[1]})"

    def __copy__(self) -> Items:
        return self

    def __deepcopy__(self, memo: Any) -> Items:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("Items live on a device and cannot be pickled: pickle the array they were made of")

    def search(self, queries: Features, k: int, first: Optional[int] = None) -> tuple[Array, npt.NDArray[np.int64]]:
        """The k nearest items of every query by inner product, falling.

        Parameters
        ----------
        queries : n_q x r, or r values, which are one query
        k : int, at least 1
        first : int, optional
            Query i is item first + i, which is left out of its own results.

        Returns
        -------
        scores, indices : n_q x k
            Index -1 and score -inf beyond the last item.
        """
        given: Any = queries
        if getattr(given, "ndim", 2) == 1:
            given = given[None]
        a, keep = matrix_of(given, "queries", empty=True)
        k = index_array([k], "k").item()
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        own = -1 if first is None else index_array([first], "first").item()
        if first is not None and own < 0:
            raise ValueError(f"first: expected the number of an item, got {own}")
        scores, indices = np.empty((a.rows, k), self._dtype), np.empty((a.rows, k), np.int64)
        arguments = self._handle.pointer, a, k, own, output_of(scores)[0], indices.ctypes.data
        work = float(a.rows) * self.shape[0] * self.shape[1]
        if self._bound:
            self._slot.bound(lib.unicon_items_search, (self._slot.handle.pointer, *arguments), work)
        else:
            self._context._slots.call(lib.unicon_items_search, arguments, work)
        return scores, indices


def evaluate(context: Context, zx: Features, zy: Features, given_ks: Any, truth: Any, ties: Any, exclude_self: bool, resamples: int,
             level: float, seed: int) -> dict[str, Any]:
    """See Context.evaluate."""
    (a, keep_a), (b, keep_b) = matrix_of(zx, "zx"), matrix_of(zy, "zy")
    pairs = pairs_of(a, b, Positives(truth, a.rows, b.rows, "truth"))
    ks = index_array(np.atleast_1d(given_ks), "ks")
    raw = _abi.EvaluationOptions()
    check(lib.unicon_evaluation_options_init(raw, ctypes.sizeof(raw)))
    raw.ks, raw.n_ks = ks.ctypes.data, len(ks)
    raw.ties = ties_of(ties)
    given = {"exclude_self": int(bool(exclude_self)), "resamples": resamples, "level": level, "seed": seed}
    for name, value in given.items():
        assign(raw, name, value)
    report = Report()
    context._slots.call(lib.unicon_evaluate, (raw, pairs, report.pointer), 2.0 * a.rows * b.rows * a.cols)
    out: dict[str, Any] = {"ties": ties, "matching_accuracy": report.real("matching_accuracy")}
    for way in ("x2y", "y2x"):
        shares, *ends = (report.series(f"recall_{way}{end}") for end in ("", "_low", "_high"))
        found: dict[str, Any] = {"recall": dict(zip(ks.tolist(), shares.tolist() if shares is not None else []))}
        out[way] = found
        found["mrr"] = report.real(f"mrr_{way}")
        for name in ("median_rank", "mean_rank"):
            rank = report.real(f"{name}_{way}")
            found[name] = np.nan if rank is None else rank
        found["tied"] = report.integer(f"tied_{way}")
        if all(end is not None for end in ends):
            low, high = (end.tolist() for end in ends if end is not None)
            found["intervals"] = dict(zip(ks.tolist(), zip(low, high)))
            found["mrr_interval"] = report.real(f"mrr_{way}_low"), report.real(f"mrr_{way}_high")
    return out


def ties_of(ties: Any) -> int:
    """A rule for ties by its name, with a hyphen or an underscore."""
    return pick("ties", ties.replace("_", "-") if isinstance(ties, str) else ties, TIES)
