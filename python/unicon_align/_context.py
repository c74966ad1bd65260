"""The context: a device and its limits, and every call on it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any, Optional, Union

import numpy as np
import numpy.typing as npt

from . import _abi
from ._arrays import Array, Features, index_array, matrix_of, new_output, output_of
from ._asked import assign, weights_options
from ._fit import FitInfo, begin_from, best_options, fit_options, info_of, on_progress
from ._group import Ranks
from ._library import Cancelled, Error, Handle, check, lib, log, pick
from ._model import Model, load
from ._positives import Positives, pairs_of
from ._progress import Bar, Progress, reporter
from ._report import Report
from ._retrieval import Items, evaluate, ties_of
from ._slots import Relay, Slots
from ._weights import PartialFit, Weights

_DEVICES = {"auto": 0, "cpu": 1, "cuda": 2}
_PRECISIONS = {"default": 0, "float32": 1, "float16": 3, "bfloat16": 4}
Pair = tuple[Features, Features]


def _warn(text: bytes, _user: Any) -> None:
    log.warning("%s", text.decode(errors="replace"))


_WARN = _abi.WarningFn(_warn)


class Context:
    """A device, its threads and its limits. What is not given is the library's default: the CPU, all cores.

    What a call notices and a person may want to know (rows that repeat, that are zero or match nothing) the logger "unicon_align" tells as a
    warning.

    A context works in threads (threads that call at once work on contexts of the library of their own behind this one) and, on the CPU,
    in the child of a fork. Long calls on the main thread run on another, so that Ctrl-C and other Python signal handlers are heard; they
    end within a panel of rows. ``progress`` functions are called on the thread that made the call.

    Parameters
    ----------
    device : {"cpu", "cuda", "auto"}
    device_id : int
        Number of the CUDA device.
    stream : int
        Address of a CUDA stream to work on.
    n_threads : int
        CPU threads of each call. By default what UNICON_THREADS, RAYON_NUM_THREADS, OMP_NUM_THREADS or SLURM_CPUS_PER_TASK says.
    precision : {"default", "float32", "bfloat16", "float16"}
        Of similarities and weights where features are not float64; float16 on CUDA only, where it is the default.
    workspace_limit : int
        Bytes of sample-sized matrices; a call that needs more is an ``Error`` (out of memory).
    devices : "all" or list of int
        CUDA devices that share the rows of fit and fit_best out, a thread each; every other call works on the first of them.
    group : torch.distributed group, ``unicon_align.torch.group`` or an object like it
        fit and fit_best work on the rows that all processes of the group bring, each its own, in rank order; all call with the same
        options, and each gets the model, which on the CPU is that of one process to the bit. Of positives each gives the part of its
        rows: groups, or CSR whose columns count over all ranks. UNICON_COMM_TIMEOUT says how many seconds a rank waits for another
        (1800). Every other call works on what it is given, on its own.
    """

    def __init__(self, device: Optional[str] = None, device_id: Optional[int] = None, stream: Optional[int] = None,
                 n_threads: Optional[int] = None, precision: Optional[str] = None, workspace_limit: Optional[int] = None, *,
                 devices: Union[None, str, Iterable[int]] = None, group: Any = None) -> None:
        given: dict[str, Any] = {"device_id": device_id, "n_threads": n_threads, "workspace_limit": workspace_limit}
        if device is not None:
            given["device_type"] = pick("device", device, _DEVICES)
        if precision is not None:
            given["precision"] = pick("precision", precision, _PRECISIONS)
        if isinstance(devices, str):
            count = ctypes.c_int32()
            check(lib.unicon_device_count(2, count))
            devices = pick("devices", devices, {"all": range(max(count.value, 1))})
        numbers = None if devices is None else index_array(devices, "devices").astype(np.int32)
        self._given = device, device_id, stream, n_threads, precision, workspace_limit
        self._devices, self._ranks = numbers, None if group is None else Ranks(group)

        def options() -> _abi.ContextOptions:
            raw = _abi.ContextOptions()
            check(lib.unicon_context_options_init(raw, ctypes.sizeof(raw)))
            raw.stream = stream
            raw.warning = _WARN
            if numbers is not None:
                raw.devices, raw.n_devices = numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)), len(numbers)
            if self._ranks is not None:
                raw.communicator = ctypes.pointer(self._ranks.raw)
            for name, value in given.items():
                if value is not None:
                    assign(raw, name, value)
            return raw

        self._slots = Slots(options)

    def __repr__(self) -> str:
        names = ("device", "device_id", "stream", "n_threads", "precision", "workspace_limit")
        shown = [f"{n}={v!r}" for n, v in zip(names, self._given) if v is not None]
        if self._devices is not None:
            shown.append(f"devices={self._devices.tolist()}")
        if self._ranks is not None:
            shown.append(f"group of {self._ranks.size}")
        return f"unicon_align.Context({', '.join(shown)})"

    def __copy__(self) -> Context:
        return self

    def __deepcopy__(self, memo: Any) -> Context:
        return self

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self._given[2] is not None:
            raise TypeError("a context of a CUDA stream cannot be pickled: the stream is of this process")
        if self._ranks is not None:
            raise TypeError("a context of a group cannot be pickled: the group is of this process")
        return _context, (self._given, self._devices)

    @property
    def device(self) -> str:
        """"cpu" or "cuda"."""
        return {1: "cpu", 2: "cuda"}[lib.unicon_context_device_type(self._slots.primary().handle.pointer)]

    def cancel(self) -> None:
        """Stops the calls in progress, which raise ``Cancelled``; from any thread."""
        self._slots.cancel()

    def fit(self, x: Features, y: Features, r: Optional[int] = None, *, positives: Any = None, validation: Optional[Pair] = None,
            validation_positives: Any = None, warm_start: Optional[Model] = None, progress: Progress = None,
            **options: Any) -> tuple[Model, FitInfo]:
        """Fits encoders in closed form, as it is told. ``fit_best`` chooses by itself.

        Parameters
        ----------
        x, y : n_x x d1 and n_y x d2
            Features, rows are samples. float64 is computed with in float64, everything else in float32.
        r : int, 1 to min(d1, d2)
            Dimension of the embeddings; None: that of the preset, where it is one of the paper's.
        positives : optional
            Which rows match; None: x_i and y_i. See ``Positives``.
        validation : (m x d1, m x d2), optional
            Held-out pairs (or as validation_positives says) that weigh the solutions of batches and end a refinement.
        warm_start : Model, optional
            A linear model to begin from.
        progress : callable or bool
            Called with a dict (phase, done, total, loss, seconds), and cancels by returning False. True shows a bar of tqdm, or lines
            of the logger "unicon_align" where tqdm is not installed.
        **options
            loss, kernel, landmarks (rows to use), similarity, damping, refine, checkpoint, preset and every plain field of
            ``unicon_fit_options_t``: n_iters, tol, rho, ridge, factorization ("sqrt", "orthonormal", "power"), power, svd ("full",
            "randomized"), init ("zeros", "random", "gaussian"), scale_inputs, final_loss, drop_trailing, whiten, batch_size, n_batches,
            n_negatives, growth, exact_last, kernel_ridge, n_landmarks (512 where it is not given, or "all"), seed, budget (seconds),
            center ("auto", "on", "off"), cos_clamp,
            batch_score ("accuracy", "equal", "recall", "reciprocal-rank", "loss"). None is the default of each.
            The presets are "default" (also "global") and the schedules of the paper's experiments: "paper-linear", "paper-kernel",
            "paper-flickr", "paper-coco-clip", "paper-coco-resnet", and "paper", which is paper-kernel where a kernel is given and else
            paper-linear. They bring their r and their loss where these are not given.

        Raises
        ------
        Error
            What the library refuses, naming the argument. ``Cancelled`` if the fit was.
        TypeError, ValueError
            What is no matrix, no positives or no option.
        """
        raw, keep = fit_options(r, options)
        return self._fit(lib.unicon_fit, raw, keep, x, y, positives, validation, validation_positives, warm_start, progress)

    def fit_best(self, x: Features, y: Features, r: Union[int, float, str] = "auto", *, positives: Any = None,
                 validation: Optional[Pair] = None, validation_positives: Any = None, warm_start: Optional[Model] = None,
                 progress: Progress = None, **options: Any) -> tuple[Model, FitInfo]:
        """The fit that needs no tuning: whitening, one spectral update, and descent on the loss from there.

        Shrinkage, power and, with ``tau="auto"``, the temperature are chosen on the validation pairs, or on a tenth of the rows that is
        held back.

        Parameters
        ----------
        x, y, positives, validation, warm_start, progress
            As for ``fit``.
        r : int, "auto", or a float below 1
            Dimension of the embeddings; a float is the share of the energy of the singular values to keep.
        **options
            loss, tau ("auto"), kernel, landmarks, n_landmarks, whiten, powers and widths (lists of candidates), refine, minibatch,
            n_negatives, exact, final_loss, checkpoint, budget (seconds), seed and center ("auto" judges that too, "on", "off").

        Raises
        ------
        Error, TypeError, ValueError
            As for ``fit``.
        """
        raw, keep = best_options(r, options)
        return self._fit(lib.unicon_fit_best, raw, keep, x, y, positives, validation, validation_positives, warm_start, progress)

    def _fit(self, function: Any, raw: Any, keep: Any, x: Features, y: Features, positives: Any, validation: Any,
             validation_positives: Any, warm_start: Optional[Model], progress: Progress) -> tuple[Model, FitInfo]:
        (a, keep_a), (b, keep_b) = matrix_of(x, "x"), matrix_of(y, "y")
        begin_from(raw, validation, validation_positives, warm_start)
        pairs = pairs_of(a, b, Positives(positives, a.rows, b.rows, ranks=self._ranks is not None and self._ranks.size > 1))
        # Owned from before the call: an interrupt may come when it has ended.
        handle, report = Handle(ctypes.c_void_p(), lib.unicon_model_destroy), Report()
        relay, told = None, reporter(progress)
        if told is not None:
            relay = Relay(told)
            raw.progress = on_progress(relay.report)
        try:
            self._slots.call(function, (raw, pairs, handle.pointer, report.pointer), float("inf"), relay)
            model, info = Model(self, handle), info_of(report)
        except Cancelled:
            if relay is not None:
                relay.end()
            raise
        except BaseException as e:
            if self._ranks is not None and isinstance(e, Error):
                self._ranks.explain(e)
            raise
        finally:
            if isinstance(told, Bar):
                told.close()
        log.info("%s", info)
        return model, info

    def partial_fit(self, d1: int, d2: int, r: int, **options: Any) -> PartialFit:
        """A ``PartialFit`` on this context: a linear fit of batches that arrive one by one."""
        return PartialFit(self, d1, d2, r, **options)

    def weights(self, zx: Features, zy: Features, loss: Optional[_abi.Loss] = None, positives: Any = None, *, n_negatives: int = 0,
                seed: int = 0) -> Weights:
        """The ``Weights`` S(gamma) of embeddings n_x x r and n_y x r, whose rows have norm at most 1."""
        return Weights(self, zx, zy, loss, positives, n_negatives=n_negatives, seed=seed)

    def load(self, path: Any) -> Model:
        """Reads a model from a path, or from a file that is open for binary reading."""
        return load(path, self)

    def linear_model(self, f1: Features, f2: Features) -> Model:
        """A model from encoder matrices r x d1 and r x d2."""
        handle = ctypes.c_void_p()
        (a, keep_a), (b, keep_b) = matrix_of(f1, "f1"), matrix_of(f2, "f2")
        self._slots.call(lib.unicon_model_create_linear, (a, b, handle))
        return Model(self, handle)

    def contrastive_grad(self, zx: Features, zy: Features, loss: Optional[_abi.Loss] = None, positives: Any = None, dzx: Any = None,
                         dzy: Any = None, *, n_negatives: int = 0, seed: int = 0) -> tuple[float, Any, Any]:
        """The loss of embeddings and its gradients with respect to them, in O(n r) memory.

        Parameters
        ----------
        zx, zy : n_x x r and n_y x r
            Rows of norm at most 1: the similarity is their product as given.
        loss : optional
            Clip with its defaults. The value and gradients of clip are tau times those of open_clip; see ``loss``.
        dzx, dzy : optional
            Written to where they are given; False: not computed.
        n_negatives : int
            Negatives sampled per row and column, with ``seed``, which stand for all; 0: all of them.

        Returns
        -------
        value, dzx, dzy : float, n_x x r, n_y x r
        """
        (a, keep_a), (b, keep_b) = matrix_of(zx, "zx"), matrix_of(zy, "zy")
        dzx = new_output((a.rows, a.cols), a, b) if dzx is None else dzx
        dzy = new_output((b.rows, b.cols), a, b) if dzy is None else dzy
        ga, keep_ga = (None, None) if dzx is False else output_of(dzx, "dzx")
        gb, keep_gb = (None, None) if dzy is False else output_of(dzy, "dzy")
        pairs = pairs_of(a, b, Positives(positives, a.rows, b.rows))
        value = ctypes.c_double()
        work = 4.0 * a.rows * b.rows * a.cols
        self._slots.call(lib.unicon_contrastive_grad, (weights_options(loss, n_negatives, seed), pairs, value, ga, gb), work)
        return value.value, dzx, dzy

    def search(self, queries: Features, items: Features, k: int) -> tuple[Array, npt.NDArray[np.int64]]:
        """The k nearest items of every query by inner product, falling: (scores, indices), each n_q x k; index -1 beyond the last item.

        ``items`` keeps items for many searches.
        """
        (a, keep_a), (b, keep_b) = matrix_of(queries, "queries", empty=True), matrix_of(items, "items")
        k = index_array([k], "k").item()
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        scores = new_output((a.rows, k), a, b)
        indices = np.empty((a.rows, k), np.int64)
        work = float(a.rows) * b.rows * a.cols
        self._slots.call(lib.unicon_search, (a, b, k, output_of(scores)[0], indices.ctypes.data), work)
        return scores, indices

    def recall(self, zx: Features, zy: Features, ks: npt.ArrayLike = (1, 5, 10), truth: Any = None, *,
               ties: str = "expected") -> dict[str, dict[int, float]]:
        """Recall@k in both directions: {"x2y": {k: ...}, "y2x": {k: ...}}. ``ties`` as for ``evaluate``, which has ranks and intervals."""
        (a, keep_a), (b, keep_b) = matrix_of(zx, "zx"), matrix_of(zy, "zy")
        pairs = pairs_of(a, b, Positives(truth, a.rows, b.rows, "truth"))
        asked = index_array(np.atleast_1d(ks), "ks")
        out = np.empty((2, len(asked)))
        work = 2.0 * a.rows * b.rows * a.cols
        self._slots.call(lib.unicon_recall, (pairs, ties_of(ties), asked.ctypes.data, len(asked), out.ctypes.data), work)
        return {name: dict(zip(asked.tolist(), row.tolist())) for name, row in zip(("x2y", "y2x"), out)}

    def evaluate(self, zx: Features, zy: Features, ks: npt.ArrayLike = (1, 5, 10), truth: Any = None, *, ties: str = "expected",
                 exclude_self: bool = False, resamples: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, Any]:
        """Recall@k, mean reciprocal, median and mean rank both ways, with bootstrap intervals paired by query.

        Parameters
        ----------
        zx, zy : n_x x r and n_y x r
            Embeddings.
        ks : ints
        truth : optional
            Which rows match, as ``Positives``.
        ties : {"expected", "lower-index", "optimistic", "pessimistic"}
            What items as similar as the best match do to its rank; "tied" counts the queries concerned.
        exclude_self : bool
            Row i never finds row i: a set against itself.
        resamples : int
            Of the bootstrap, at least 40; 0 leaves the intervals out.
        level : float
            Probability that an interval covers.
        """
        return evaluate(self, zx, zy, ks, truth, ties, exclude_self, resamples, level, seed)

    def items(self, items: Features) -> Items:
        """``Items``, n x r, that stay on the device for many searches."""
        return Items(self, items)

    def gram(self, kernel: _abi.Kernel, a: Features, b: Features) -> Array:
        """The Gram matrix k(a_i, b_j): n x d and m x d to n x m."""
        (va, keep_a), (vb, keep_b) = matrix_of(a, "a", empty=True), matrix_of(b, "b")
        out = new_output((va.rows, vb.rows), va, vb)
        self._slots.call(lib.unicon_gram, (kernel, va, vb, output_of(out)[0]), float(va.rows) * vb.rows * va.cols)
        return out


def _context(given: tuple[Any, ...], devices: Any) -> Context:
    """A context from what __reduce__ kept."""
    return Context(*given, devices=devices)
