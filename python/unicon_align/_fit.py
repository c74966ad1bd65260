"""Options of fits into the library's structs, and what a fit reports out of them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

import numpy as np
import numpy.typing as npt

from . import _abi
from ._arrays import index_array, matrix_of
from ._asked import assign
from ._library import check, file_name, lib, pick
from ._positives import Positives, pairs_of
from ._report import Report

_CHOICES: dict[str, dict[str, int]] = {
    "factorization": {"sqrt": 0, "orthonormal": 1, "power": 2},
    "svd": {"full": 0, "randomized": 1},
    "init": {"zeros": 0, "random": 1, "similarity": 2, "gaussian": 3},
    "center": {"auto": 0, "on": 1, "off": 2},
    "n_landmarks": {"all": -1},
    "batch_score": {"accuracy": 0, "equal": 1, "recall": 2, "reciprocal-rank": 3, "loss": 4},
}
_PRESETS = {
    "default": 0, "global": 0, "paper": 1, "paper-linear": 2, "paper-kernel": 3, "paper-flickr": 4, "paper-coco-clip": 5,
    "paper-coco-resnet": 6,
}
_OUTCOMES = ["completed", "converged", "cancelled", "out of time"]
_PLAIN = (ctypes.c_int32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_double)


def _common(raw: Any, options: dict[str, Any], keep: list[Any]) -> None:
    """What both kinds of options have."""
    for name in ("loss", "kernel", "damping", "refine", "minibatch"):
        value = options.pop(name, None)
        if value is not None:
            if not hasattr(raw, name):
                raise TypeError(f"{name}: not an option of this fit")
            keep.append(value)
            setattr(raw, name, ctypes.pointer(value))
            if name == "loss":
                raw.own_family = getattr(value, "own_family", None)
    value = options.pop("checkpoint", None)
    if value is not None:
        raw.checkpoint = file_name("checkpoint", value)


def _plain(raw: Any, options: dict[str, Any], keep: list[Any]) -> None:
    """Landmarks, which a preset resets, and numbers."""
    value = options.pop("landmarks", None)
    if value is not None:
        value = index_array(value, "landmarks")
        keep.append(value)
        raw.n_landmarks, raw.landmarks = len(value), value.ctypes.data
    known = [f[0] for f in raw._fields_ if f[1] in _PLAIN and f[0] != "reserved"]
    for name, value in options.items():
        if name not in known:
            raise TypeError(f"{name}: not an option of this fit")
        if name in _CHOICES and isinstance(value, str):
            value = pick(name, value, _CHOICES[name])
        if value is not None:
            assign(raw, name, value)


def fit_options(r: Any, options: dict[str, Any]) -> tuple[_abi.FitOptions, list[Any]]:
    """unicon_fit_options_t, and what it borrows."""
    options = dict(options)
    raw = _abi.FitOptions()
    keep: list[Any] = []
    check(lib.unicon_fit_options_init(raw, ctypes.sizeof(raw)))
    if r is not None:
        assign(raw, "r", r)
    preset = options.pop("preset", "default")
    # Before the preset, which sets what is not set and of which the paper's depends on whether there is a kernel.
    _common(raw, options, keep)
    check(lib.unicon_fit_options_preset(raw, pick("preset", preset, _PRESETS)))
    if not raw.r:
        raise TypeError(f"r: expected the dimension of the embeddings, which the preset {preset!r} does not bring")
    value = options.pop("similarity", None)
    if value is not None:
        view, owner = matrix_of(value, "similarity")
        keep.append((view, owner))
        raw.init, raw.similarity = 2, ctypes.pointer(view)
    _plain(raw, options, keep)
    return raw, keep


def best_options(r: Any, options: dict[str, Any]) -> tuple[_abi.BestOptions, list[Any]]:
    """unicon_best_options_t, and what it borrows."""
    options = dict(options)
    raw = _abi.BestOptions()
    keep: list[Any] = []
    check(lib.unicon_best_options_init(raw, ctypes.sizeof(raw)))
    if isinstance(r, str):
        raw.dimension = pick("r", r, {"auto": 2})
    elif isinstance(r, (float, np.floating)) and r < 1:
        raw.dimension, raw.energy = 1, r
    else:
        assign(raw, "r", r)
    tau = options.pop("tau", None)
    if tau == "auto":
        raw.tau_auto = 1
    elif tau is not None:
        raise TypeError('tau: expected "auto"; a temperature is part of the loss')
    _common(raw, options, keep)
    for name in ("whiten", "powers", "widths"):
        value = options.pop(name, None)
        if value is not None:
            value = np.ascontiguousarray(np.atleast_1d(value), dtype=np.float64)
            if value.ndim != 1 or not value.size:
                raise ValueError(f"{name}: expected a list of numbers, got shape {value.shape}")
            keep.append(value)
            setattr(raw, name, value.ctypes.data)
            setattr(raw, "n_" + name, len(value))
    _plain(raw, options, keep)
    return raw, keep


def begin_from(raw: Any, validation: Any, validation_positives: Any, warm_start: Any) -> None:
    """Sets the validation pairs and the warm start of options, which keep them."""
    if validation is not None:
        if not isinstance(validation, (tuple, list)) or len(validation) != 2:
            raise TypeError(f"validation: expected a pair of feature matrices, got {type(validation).__name__}")
        (a, keep_a), (b, keep_b) = matrix_of(validation[0], "validation[0]"), matrix_of(validation[1], "validation[1]")
        pairs = pairs_of(a, b, Positives(validation_positives, a.rows, b.rows, "validation_positives"))
        raw.own_validation = keep_a, keep_b, pairs
        raw.validation = ctypes.pointer(pairs)
    if warm_start is not None:
        if not hasattr(warm_start, "_pointer"):
            raise TypeError(f"warm_start: expected a Model, got {type(warm_start).__name__}")
        raw.own_start = warm_start
        raw.warm_start = warm_start._pointer.value


def on_progress(report: Callable[[dict[str, Any]], int]) -> Any:
    """The library's callback, of a function of a dict that returns 0 to go on."""

    def call(pointer: Any, _user: Any) -> int:
        p = pointer.contents
        return report({n: getattr(p, n) for n, _ in p._fields_ if n not in ("struct_size", "reserved")})

    return _abi.ProgressFn(call)


@dataclass(repr=False)
class FitInfo:
    """What a fit did. ``unicon.h`` has more on each value, at ``unicon_report_key``."""

    outcome: str
    """"completed", "converged" or "out of time"."""
    n_iters: int
    """Spectral updates, and steps of damping and refinement."""
    loss: npt.NDArray[np.float64]
    """The loss that every update started from, then those of damping and refinement."""
    change: npt.NDArray[np.float64]
    """Frobenius norm of the change of F1^T F2 by every update from the second on."""
    singular_values: npt.NDArray[np.float64]
    """Of the last C, falling."""
    trace: list[dict[str, float]]
    """History of damping and refinement: seconds, loss, score (mean reciprocal rank on the validation rows), negatives, ..."""
    final_loss: float
    """The loss on all rows; NaN if not asked for."""
    rows_without_positives: int
    cols_without_positives: int
    zero_rows: tuple[int, int]
    """Rows of x and of y that are all zero."""
    rows_dropped: int
    workspace_bytes: int
    peak_bytes: int
    """Bytes of sample-sized data at most."""
    evaluations: int
    """Evaluations of loss and gradient by damping and refinement."""
    sampling_error: Optional[float]
    """Relative error of the last C with sampled negatives, estimated; None without them."""
    whiten: Optional[float]
    """Shrinkage that was chosen or asked for; None: not whitened."""
    power: float
    tau: float
    r: int
    held_back: tuple[int, int]
    """Rows of x and of y that did not train, but chose."""
    distinct: tuple[Optional[int], Optional[int]]
    """Distinct rows of x and of y; None where they were not compared (device memory)."""
    centred: tuple[bool, bool]
    """Whether the mean of x and of y was taken out."""
    returned: Optional[int]
    """The point of the trace whose encoders the model has; None: those that the history started from."""
    held_apart: Optional[int]
    """What held-back rows share with none that trained: 1 matches + 2 copies of their x + 4 copies of their y; None: none were held back."""
    rejected_update: bool
    """Whether the last update was made and not kept, for it raised the loss."""
    seconds: dict[str, float] = field(default_factory=dict)
    """"total", and the parts."""

    def __repr__(self) -> str:
        last = self.final_loss if np.isfinite(self.final_loss) else self.loss[-1] if len(self.loss) else np.nan
        loss = f", loss {last:.4g}" if np.isfinite(last) else ""
        return f"<unicon_align.FitInfo: {self.outcome}, r {self.r}, {self.n_iters} steps{loss}, {self.seconds.get('total', 0):.3g} s>"


# Keys of integers and reals that every report of a fit has, under the names of FitInfo.
_INTEGERS = ("n_iters", "rows_without_positives", "cols_without_positives", "rows_dropped", "workspace_bytes", "peak_bytes", "evaluations",
             "r", "returned", "held_apart")
_REALS = ("sampling_error", "whiten", "power", "tau")
_TRACE = {"seconds": float, "loss": float, "score": float, "negatives": int, "evaluations": int, "sampling_error": float}


def info_of(report: Report) -> FitInfo:
    """What a fit that ended reported."""

    def integers(*keys: str) -> Any:
        return tuple(report.integer(key) for key in keys)

    values: dict[str, Any] = {key: report.integer(key) for key in _INTEGERS}
    values.update((key, report.real(key)) for key in _REALS)
    final_loss = report.real("final_loss")
    columns: list[Any] = [report.series(f"trace_{key}") for key in _TRACE]
    seconds: dict[str, Any] = {"total": report.real("seconds")}
    seconds.update((key[8:], report.real(key)) for key in _abi.KEYS if key.startswith("seconds_"))
    return FitInfo(
        outcome=_OUTCOMES[report.integer("outcome") or 0],
        loss=_series(report, "loss"),
        change=_series(report, "change"),
        singular_values=_series(report, "singular_values"),
        trace=[{key: kind(value) for (key, kind), value in zip(_TRACE.items(), point)} for point in zip(*columns)],
        final_loss=np.nan if final_loss is None else final_loss,
        rejected_update=bool(report.integer("rejected_update")),
        zero_rows=integers("zero_rows_x", "zero_rows_y"),
        held_back=integers("rows_held_back", "cols_held_back"),
        distinct=integers("distinct_x", "distinct_y"),
        centred=(bool(report.integer("centred_x")), bool(report.integer("centred_y"))),
        seconds=seconds,
        **values,
    )


def _series(report: Report, key: str) -> npt.NDArray[np.float64]:
    values = report.series(key)
    return np.empty(0) if values is None else values
