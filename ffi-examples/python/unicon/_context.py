"""The context: a device and its limits, and every call on it."""

import ctypes

import numpy as np

from . import _abi
from ._arrays import index_array, matrix_of, new_output, output_of
from ._asked import assign
from ._fit import Results, best_options, fit_options, on_progress
from ._group import Ranks
from ._library import Cancelled, Error, check, lib, pick
from ._model import Model, load
from ._positives import Positives
from ._retrieval import Items, evaluate
from ._slots import Relay, Slots
from ._weights import PartialFit, Weights, validation_of

_DEVICES = {"auto": 0, "cpu": 1, "cuda": 2}
_PRECISIONS = {"default": 0, "float32": 1, "float16": 3, "bfloat16": 4}


class Context:
    """A device ("cpu", "cuda" or "auto"), its threads and its limits. What is not given is the library's default: the CPU, all cores.

    Several devices: ``Context("cuda", devices="all")`` or ``devices=[0, 2]`` share the rows of fit and fit_best out, a thread each, and
    every other call works on the first of them. Several processes: ``group=torch.distributed.group.WORLD`` (or unicon.torch.group(...),
    or any object like it) makes fit and fit_best work on the rows that all processes of the group bring, each its own, in rank
    order; all call with the same options, and each gets the model, which on the CPU is that of one process to the bit. Of positives
    each gives the part of its rows: groups of its rows, or CSR whose columns count over all ranks. UNICON_COMM_TIMEOUT says how many
    seconds a rank waits for another (1800). Every other call works on what it is given, on its own.

    precision is that of similarities and weights where features are not float64: "float32", "bfloat16", on CUDA also "float16".
    stream is the address of a CUDA stream to work on. n_threads and workspace_limit hold for every call: threads that call at once
    work on contexts of their own behind this one, each with so many threads and such a limit. After fork() the child makes new ones.

    Long calls on the main thread run on another, so that Ctrl-C (and other Python signal handlers) are heard; they end within a
    panel of rows. `progress` functions are called on the thread that made the call.
    """

    def __init__(self, device=None, device_id=None, stream=None, n_threads=None, precision=None, workspace_limit=None, *,
                 devices=None, group=None):
        given = {"device_id": device_id, "n_threads": n_threads, "workspace_limit": workspace_limit}
        if device is not None:
            given["device_type"] = pick("device", device, _DEVICES)
        if precision is not None:
            given["precision"] = pick("precision", precision, _PRECISIONS)
        if isinstance(devices, str):
            count = ctypes.c_int32()
            check(lib.unicon_device_count(2, count))
            devices = pick("devices", devices, {"all": range(max(count.value, 1))})
        devices = None if devices is None else index_array(devices, "devices").astype(np.int32)
        self._given = device, device_id, stream, n_threads, precision, workspace_limit
        self._devices, self._ranks = devices, None if group is None else Ranks(group)

        def options():
            raw = _abi.ContextOptions()
            check(lib.unicon_context_options_init(raw, ctypes.sizeof(raw)))
            raw.stream = stream
            if devices is not None:
                raw.devices, raw.n_devices = devices.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)), len(devices)
            if group is not None:
                raw.communicator = ctypes.pointer(self._ranks.raw)
            for name, value in given.items():
                if value is not None:
                    assign(raw, name, value)
            return raw

        self._slots = Slots(options)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        if self._given[2] is not None:
            raise TypeError("a context of a CUDA stream cannot be pickled: the stream is of this process")
        if self._ranks is not None:
            raise TypeError("a context of a group cannot be pickled: the group is of this process")
        return _context, (self._given, self._devices)

    @property
    def device(self):
        """"cpu" or "cuda"."""
        return {1: "cpu", 2: "cuda"}[lib.unicon_context_device_type(self._slots.primary().handle.pointer)]

    def cancel(self):
        """Stops the calls in progress; from any thread."""
        self._slots.cancel()

    def fit(self, x, y, r, *, positives=None, validation=None, validation_positives=None, warm_start=None,
            progress=None, **options):
        """Fits encoders. Returns (Model, FitInfo).

        loss, kernel, landmarks, similarity, damping, refine, checkpoint, budget, preset and every plain field of
        unicon_fit_options_t (n_iters, tol, rho, ridge, factorization, power, svd, init, scale_inputs, final_loss, drop_trailing,
        whiten, batch_size, n_batches, n_negatives, growth, exact_last, kernel_ridge, n_landmarks, seed,
        center: "auto", "on" or "off") are options; None is the default
        of each. positives: see unicon.Positives. validation is a pair of feature matrices; progress is called with a dict and cancels by
        returning False.
        """
        raw, keep = fit_options(r, options)
        return self._fit(lib.unicon_fit, raw, keep, x, y, r, positives, validation, validation_positives, warm_start, progress)

    def fit_best(self, x, y, r="auto", *, positives=None, validation=None, validation_positives=None, warm_start=None,
                 progress=None, **options):
        """The fit that needs no tuning. Returns (Model, FitInfo).

        r is a number, "auto", or a share of the energy below 1. Shrinkage, power and, with tau="auto", the temperature are chosen on
        the validation pairs, or on a tenth of the rows that is held back. loss, tau, kernel, landmarks, whiten, powers and
        widths (lists of candidates), refine, minibatch, n_negatives, exact, final_loss, checkpoint, budget, seed and
        center ("auto" judges that too, "on", "off") are options.
        """
        raw, keep = best_options(r, options)
        room = raw.r if raw.r > 0 else None
        return self._fit(lib.unicon_fit_best, raw, keep, x, y, room, positives, validation, validation_positives, warm_start, progress)

    def _fit(self, function, raw, keep, x, y, r, positives, validation, validation_positives, warm_start, progress):
        (a, keep_a), (b, keep_b) = matrix_of(x, "x"), matrix_of(y, "y")
        relay = None
        if progress is not None:
            relay = Relay(progress)
            raw.progress = on_progress(relay.report)
        held_out, keep_held = validation_of(validation, validation_positives)
        p = Positives(positives, a.rows, b.rows, ranks=self._ranks is not None and self._ranks.size > 1)
        results = Results(min(r or a.cols, max(a.rows, a.cols, b.rows, b.cols)))
        handle = ctypes.c_void_p()
        start = warm_start._pointer if warm_start is not None else None
        arguments = raw, a, b, p.raw, held_out, start, handle, results.raw
        try:
            self._slots.call(function, arguments, float("inf"), relay)
            return Model(self, handle), results.info()
        except Cancelled:
            if relay is not None:
                relay.end()
            raise
        except BaseException as e:
            if handle.value:
                lib.unicon_model_destroy(handle)
            if self._ranks is not None and isinstance(e, Error):
                self._ranks.explain(e)
            raise

    def partial_fit(self, d1, d2, r, **options):
        """A PartialFit on this context."""
        return PartialFit(self, d1, d2, r, **options)

    def weights(self, zx, zy, loss=None, positives=None):
        """A Weights on this context."""
        return Weights(self, zx, zy, loss, positives)

    def load(self, path):
        """Reads a model from a path, or from a file that is open for binary reading."""
        return load(path, self)

    def linear_model(self, f1, f2):
        """A model from encoder matrices r x d1 and r x d2."""
        handle = ctypes.c_void_p()
        (a, keep_a), (b, keep_b) = matrix_of(f1, "f1"), matrix_of(f2, "f2")
        self._slots.call(lib.unicon_model_create_linear, (a, b, handle))
        return Model(self, handle)

    def contrastive_grad(self, zx, zy, loss=None, positives=None, dzx=None, dzy=None):
        """The loss of unit-row embeddings and its gradients with respect to them: (value, dzx, dzy).

        Those of clip are tau times open_clip's; see unicon.loss. dzx and dzy may be given to be written to; False: not computed.
        """
        (a, keep_a), (b, keep_b) = matrix_of(zx, "zx"), matrix_of(zy, "zy")
        dzx = new_output((a.rows, a.cols), a, b) if dzx is None else dzx
        dzy = new_output((b.rows, b.cols), a, b) if dzy is None else dzy
        ga, keep_ga = (None, None) if dzx is False else output_of(dzx, "dzx")
        gb, keep_gb = (None, None) if dzy is False else output_of(dzy, "dzy")
        p = Positives(positives, a.rows, b.rows)
        value = ctypes.c_double()
        work = 4.0 * a.rows * b.rows * a.cols
        self._slots.call(lib.unicon_contrastive_grad, (loss, a, b, p.raw, value, ga, gb), work)
        return value.value, dzx, dzy

    def search(self, queries, items, k):
        """The k nearest items of every query: (scores, indices), each n_q x k; index -1 beyond the last item."""
        (a, keep_a), (b, keep_b) = matrix_of(queries, "queries"), matrix_of(items, "items")
        k = index_array([k], "k").item()
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        scores = new_output((a.rows, k), a, b)
        indices = np.empty((a.rows, k), np.int64)
        work = float(a.rows) * b.rows * a.cols
        self._slots.call(lib.unicon_search, (a, b, k, output_of(scores)[0], indices.ctypes.data), work)
        return scores, indices

    def recall(self, zx, zy, ks=(1, 5, 10), truth=None):
        """Recall@k in both directions: {"x2y": {k: ...}, "y2x": {k: ...}}. Of equal items the lower index is first; evaluate has
        other rules, ranks and intervals.
        """
        (a, keep_a), (b, keep_b) = matrix_of(zx, "zx"), matrix_of(zy, "zy")
        p = Positives(truth, a.rows, b.rows, "truth")
        ks = index_array(np.atleast_1d(ks), "ks")
        out = np.empty((2, len(ks)))
        work = 2.0 * a.rows * b.rows * a.cols
        self._slots.call(lib.unicon_recall, (a, b, p.raw, ks.ctypes.data, len(ks), out.ctypes.data), work)
        return {name: dict(zip(ks.tolist(), row.tolist())) for name, row in zip(("x2y", "y2x"), out)}

    def evaluate(self, zx, zy, ks=(1, 5, 10), truth=None, *, ties="expected", exclude_self=False, resamples=1000,
                 level=0.95, seed=0):
        """Recall@k, mean reciprocal, median and mean rank both ways, with bootstrap intervals paired by query.

        ties says what items as similar as the best match do to its rank: "expected" (any order), "lower-index", "optimistic" or
        "pessimistic"; "tied" counts the queries concerned. With exclude_self row i never finds row i: a set against itself.
        resamples=0 leaves the intervals out.
        """
        return evaluate(self, zx, zy, ks, truth, ties, exclude_self, resamples, level, seed)

    def items(self, items):
        """Items that stay on the device for many searches: see Items."""
        return Items(self, items)

    def gram(self, kernel, a, b):
        """The Gram matrix k(a_i, b_j)."""
        (va, keep_a), (vb, keep_b) = matrix_of(a, "a"), matrix_of(b, "b")
        out = new_output((va.rows, vb.rows), va, vb)
        self._slots.call(lib.unicon_gram, (kernel, va, vb, output_of(out)[0]), float(va.rows) * vb.rows * va.cols)
        return out


def _context(given, devices):
    """A context from what __reduce__ kept."""
    return Context(*given, devices=devices)
