"""Closed-form contrastive alignment, over the C ABI of libunicon.

    import unicon
    context = unicon.Context()
    model, info = context.fit(x, y, r=128, whiten=0.1)
    zx, zy = model.encode(x, "x"), model.encode(y, "y")
    context.recall(zx, zy, ks=[1, 5, 10])

Rows are samples. Matrices are NumPy arrays or anything with ``__dlpack__`` (torch, CuPy, JAX, on any device that the
context can read); none is ever copied on the way in. One of the two strides must be one element: a layout that the
library cannot read is an error, not a copy.
"""

import ctypes
import weakref

import numpy as np

from . import _abi
from ._dlpack import matrix_of
from ._fit import FitInfo, Results, best_options, fit_options, index_array, on_progress

_lib = _abi.load()

_LOSSES = {"clip": 0, "sigmoid": 1, "triplet_hard": 2, "triplet_smooth": 3}
_KERNELS = {"linear": 0, "cosine": 1, "angular": 2, "arccos": 3, "exp_cosine": 4, "rbf": 5, "matern32": 6}
_SIDES = {"x": 0, "y": 1}


class Error(RuntimeError):
    """A failed call. ``status`` is the code of unicon.h."""

    def __init__(self, status, text):
        name = _lib.unicon_status_string(status).decode()
        super().__init__(text if text.startswith(name) else f"{name}: {text}")
        self.status = status


class Cancelled(Error):
    """The call was cancelled."""


def _check(status, context=None):
    if status == 0:
        return
    length = _lib.unicon_last_error(context, None, 0)
    buffer = ctypes.create_string_buffer(length + 1)
    _lib.unicon_last_error(context, buffer, length + 1)
    raise (Cancelled if status == 7 else Error)(status, buffer.value.decode(errors="replace"))


def _pick(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return choices[value]


def version():
    """The version of the library."""
    return _lib.unicon_version().decode()


def device_count(device="cuda"):
    """Usable devices of a kind."""
    count = ctypes.c_int32()
    _check(_lib.unicon_device_count({"cpu": 1, "cuda": 2}[device], count))
    return count.value


def loss(kind="clip", **parameters):
    """A loss: kind clip, sigmoid, triplet_hard or triplet_smooth, and tau, nu, margin, eps_pos, eps_neg, log_eps."""
    out = _abi.Loss()
    _check(_lib.unicon_loss_init(out, ctypes.sizeof(out), _pick("loss", kind, _LOSSES)))
    return _set(out, parameters)


def kernel(kind="angular", **parameters):
    """A kernel: linear, cosine, angular, arccos, exp_cosine, rbf or matern32, and beta, gamma, lengthscale, cos_clamp."""
    out = _abi.Kernel()
    _check(_lib.unicon_kernel_init(out, ctypes.sizeof(out), _pick("kernel", kind, _KERNELS)))
    return _set(out, parameters)


def _set(struct, parameters):
    hidden = ("struct_size", "kind", "reserved", "stages", "n_stages")
    names = [name for name, _ in struct._fields_ if name not in hidden]
    for name, value in parameters.items():
        if name not in names:
            raise TypeError(f"{name}: expected one of {', '.join(names)}")
        setattr(struct, name, value)
    return struct


def damping(**parameters):
    """Damped updates: first, halvings, tol."""
    out = _abi.Damping()
    _check(_lib.unicon_damping_init(out, ctypes.sizeof(out)))
    return _set(out, parameters)


def refine(stages=None, **parameters):
    """Refinement by L-BFGS: max_steps, tol, memory, patience, first_step, and stages, the negatives of each (0: all)."""
    out = _abi.Refine()
    _check(_lib.unicon_refine_init(out, ctypes.sizeof(out)))
    if stages is not None:
        out.array = index_array(stages)  # kept by the struct's instance
        out.stages, out.n_stages = out.array.ctypes.data, len(out.array)
    return _set(out, parameters)


def minibatch(**parameters):
    """Descent on mini-batches: batch (0: none), epochs, min_steps, max_steps, rate, momentum, patience."""
    out = _abi.Minibatch()
    _check(_lib.unicon_minibatch_init(out, ctypes.sizeof(out)))
    return _set(out, parameters)


class _Positives:
    """Positives as the library takes them, with the arrays that they borrow.

    None is the diagonal, a pair of arrays (ids of x, ids of y) are groups, and anything with ``indptr`` and ``indices``
    (a scipy.sparse CSR matrix) is CSR.
    """

    def __init__(self, positives, n_x, n_y):
        self.raw = raw = _abi.Positives()
        _check(_lib.unicon_positives_init(raw, ctypes.sizeof(raw)))
        if positives is None:
            self.arrays = ()
        elif hasattr(positives, "indptr"):
            indptr, indices = self.arrays = index_array(positives.indptr), index_array(positives.indices)
            if len(indptr) != n_x + 1:
                raise ValueError(f"positives: expected {n_x} rows, got {len(indptr) - 1}")
            raw.kind, raw.indptr, raw.indices, raw.nnz = 2, indptr.ctypes.data, indices.ctypes.data, len(indices)
        else:
            x, y = self.arrays = index_array(positives[0]), index_array(positives[1])
            if x.shape != (n_x,) or y.shape != (n_y,):
                raise ValueError(f"positives: expected ids of shapes ({n_x},) and ({n_y},), got {x.shape} and {y.shape}")
            raw.kind, raw.x_groups, raw.y_groups = 1, x.ctypes.data, y.ctypes.data


class Model:
    """A pair of encoders. Immutable; made by Context.fit, Context.load or Context.linear_model."""

    def __init__(self, context, handle):
        self._context = context
        self._handle = handle
        self._finalizer = weakref.finalize(self, _lib.unicon_model_destroy, handle)
        d = _abi.ModelDescription(struct_size=ctypes.sizeof(_abi.ModelDescription))
        _check(_lib.unicon_model_describe(handle, d))
        self.d1, self.d2, self.r, self.members = d.d1, d.d2, d.r, d.members

    def encode(self, features, side, out=None):
        """Unit rows: n x d to n x r. `out` may be given, of any dtype and device that the context can reach."""
        view, keep = matrix_of(features)
        if out is None:
            out = np.empty((view.rows, self.r), np.float64 if view.dtype == 2 else np.float32)
        target, keep_out = matrix_of(out)
        self._context._call("unicon_model_encode", self._handle, _pick("side", side, _SIDES), view, target)
        return out

    def similarity(self, x, y):
        """Cosines of all pairs, n_x x n_y."""
        (a, keep_a), (b, keep_b) = matrix_of(x), matrix_of(y)
        out = np.empty((a.rows, b.rows), np.float64 if 2 in (a.dtype, b.dtype) else np.float32)
        self._context._call("unicon_model_similarity", self._handle, a, b, matrix_of(out)[0])
        return out

    def encoder(self, side):
        """The encoder matrix of a linear model, r x d, in float64."""
        out = np.empty((self.r, self.d1 if side == "x" else self.d2))
        self._context._call("unicon_model_encoder", self._handle, _pick("side", side, _SIDES), matrix_of(out)[0])
        return out

    def save(self, path):
        """Writes a safetensors file."""
        self._context._call("unicon_model_save", self._handle, str(path).encode())


class Weights:
    """S(gamma) = -dL/ds of a batch of embeddings as an operator; never n x n unless dense() is asked for."""

    def __init__(self, context, zx, zy, loss=None, positives=None):
        (a, keep_a), (b, keep_b) = matrix_of(zx), matrix_of(zy)
        p = _Positives(positives, a.rows, b.rows)
        self._make(context, (a.rows, b.rows), (a, b), "unicon_weights_create", loss, a, b, p.raw)

    @classmethod
    def of_similarity(cls, context, similarity, loss=None, positives=None):
        """S of any matrix of cosines, n_x x n_y, for small n."""
        s, keep = matrix_of(similarity)
        out = cls.__new__(cls)
        p = _Positives(positives, s.rows, s.cols)
        out._make(context, (s.rows, s.cols), (s,), "unicon_weights_create_similarity", loss, s, p.raw)
        return out

    def _make(self, context, shape, views, name, *arguments):
        self._context, self.shape = context, shape
        self._dtype = np.float64 if any(v.dtype == 2 for v in views) else np.float32
        self._handle = ctypes.c_void_p()
        context._call(name, *arguments, self._handle)
        self._finalizer = weakref.finalize(self, _lib.unicon_weights_destroy, self._handle)

    @property
    def loss(self):
        """The loss L."""
        return self.losses()[0]

    def losses(self):
        """L, and the shares of the rows and of the columns."""
        values = [ctypes.c_double() for _ in range(3)]
        _check(_lib.unicon_weights_loss(self._handle, *values), self._context._handle)
        return tuple(v.value for v in values)

    def _product(self, name, inputs, shape):
        views = [matrix_of(m) for m in inputs]
        out = np.empty(shape, self._dtype)
        _check(getattr(_lib, name)(self._handle, *(v for v, _ in views), matrix_of(out)[0]), self._context._handle)
        return out

    def dense(self):
        """S itself, for small n."""
        return self._product("unicon_weights_dense", [], self.shape)

    def apply(self, v):
        """S V."""
        return self._product("unicon_weights_apply", [v], (self.shape[0], v.shape[1]))

    def apply_t(self, u):
        """S^T U."""
        return self._product("unicon_weights_apply_t", [u], (self.shape[1], u.shape[1]))

    def cross(self, x, y):
        """X^T S Y."""
        return self._product("unicon_weights_cross", [x, y], (x.shape[1], y.shape[1]))


class PartialFit:
    """A linear fit whose batches arrive one by one; finish() ends a pass and gives the model.

    stream "sums" (Gram matrices and C summed: one solution of all batches, also with whitening) or "solutions" (one per batch,
    averaged with the score on `validation` pairs: the batched mode of the paper).
    """

    def __init__(self, context, d1, d2, r, *, stream="sums", dtype="float32", validation=None, validation_positives=None,
                 warm_start=None, **options):
        self._context = context
        raw, keep = fit_options(_lib, _check, r, options)
        held_out, keep_held = _validation(validation, validation_positives)
        handle = ctypes.c_void_p()
        start = warm_start._handle if warm_start is not None else None
        code = {"float32": 1, "float64": 2}[str(dtype)]
        kind = _pick("stream", stream, {"sums": 0, "solutions": 1})
        context._call("unicon_partial_fit_create", raw, kind, d1, d2, code, held_out, start, handle)
        self._handle = handle
        self._finalizer = weakref.finalize(self, _lib.unicon_partial_fit_destroy, handle)

    def add(self, x, y, positives=None):
        """Adds one batch and returns its loss before the update."""
        (a, keep_a), (b, keep_b) = matrix_of(x), matrix_of(y)
        p = _Positives(positives, a.rows, b.rows)
        value = ctypes.c_double()
        _check(_lib.unicon_partial_fit_add(self._handle, a, b, p.raw, value), self._context._handle)
        return value.value

    def model(self):
        """The model of the batches of this pass so far; more may follow."""
        handle = ctypes.c_void_p()
        _check(_lib.unicon_partial_fit_model(self._handle, handle), self._context._handle)
        return Model(self._context, handle)

    def finish(self):
        """Ends a pass: its model, from which the next pass begins."""
        handle = ctypes.c_void_p()
        _check(_lib.unicon_partial_fit_finish(self._handle, handle), self._context._handle)
        return Model(self._context, handle)


def _validation(pair, positives):
    """Held-out pairs as the library takes them, and what they borrow."""
    if pair is None:
        return None, None
    (a, keep_a), (b, keep_b) = matrix_of(pair[0]), matrix_of(pair[1])
    p = _Positives(positives, a.rows, b.rows)
    pointers = _abi.Validation(ctypes.pointer(a), ctypes.pointer(b), ctypes.pointer(p.raw))
    return pointers, (keep_a, keep_b, a, b, p)


class Context:
    """A device ("cpu", "cuda" or "auto"), its threads and its limits. One call at a time; any number of contexts.

    precision is that of similarities and weights where features are not float64: "float32", "bfloat16", on CUDA also "float16".
    stream is the address of a CUDA stream to work on.
    """

    def __init__(self, device="cpu", device_id=0, stream=None, n_threads=0, precision="default", workspace_limit=0):
        options = _abi.ContextOptions()
        _check(_lib.unicon_context_options_init(options, ctypes.sizeof(options)))
        options.device_type = _pick("device", device, {"auto": 0, "cpu": 1, "cuda": 2})
        options.device_id, options.stream = device_id, stream
        options.n_threads, options.workspace_limit = n_threads, workspace_limit
        options.precision = _pick("precision", precision, {"default": 0, "float32": 1, "float16": 3, "bfloat16": 4})
        handle = ctypes.c_void_p()
        _check(_lib.unicon_context_create(options, handle))
        self._handle = handle
        self._finalizer = weakref.finalize(self, _lib.unicon_context_destroy, handle)

    def _call(self, name, *arguments):
        _check(getattr(_lib, name)(self._handle, *arguments), self._handle)

    @property
    def device(self):
        """"cpu" or "cuda"."""
        return {1: "cpu", 2: "cuda"}[_lib.unicon_context_device_type(self._handle)]

    def cancel(self):
        """Stops the call in progress; from any thread."""
        _lib.unicon_cancel(self._handle)

    def fit(self, x, y, r, *, positives=None, validation=None, validation_positives=None, warm_start=None,
            progress=None, **options):
        """Fits encoders. Returns (Model, FitInfo).

        loss, kernel, landmarks, similarity, damping, refine, checkpoint, budget, preset and every plain field of
        unicon_fit_options_t (n_iters, tol, rho, ridge, factorization, power, svd, init, scale_inputs, final_loss, drop_trailing,
        whiten, batch_size, n_batches, n_negatives, growth, exact_last, kernel_ridge, n_landmarks, seed) are options. validation is a pair of feature
        matrices; progress is called with a dict and cancels by returning False.
        """
        raw, keep = fit_options(_lib, _check, r, options)
        return self._fit("unicon_fit", raw, keep, x, y, r, positives, validation, validation_positives, warm_start, progress)

    def fit_best(self, x, y, r="auto", *, positives=None, validation=None, validation_positives=None, warm_start=None,
                 progress=None, **options):
        """The fit that needs no tuning. Returns (Model, FitInfo).

        r is a number, "auto", or a share of the energy below 1. Shrinkage, power and, with tau="auto", the temperature are chosen on
        the validation pairs, or on a tenth of the rows that is held back. loss, tau, kernel, landmarks, whiten, powers and
        widths (lists of candidates), refine, minibatch, n_negatives, exact, final_loss, checkpoint, budget and seed are options.
        """
        raw, keep = best_options(_lib, _check, r, options)
        room = raw.r if raw.r > 0 else min(np.shape(x)[1], np.shape(y)[1])
        return self._fit("unicon_fit_best", raw, keep, x, y, room, positives, validation, validation_positives, warm_start, progress)

    def _fit(self, name, raw, keep, x, y, r, positives, validation, validation_positives, warm_start, progress):
        (a, keep_a), (b, keep_b) = matrix_of(x), matrix_of(y)
        thrown = []
        if progress is not None:
            raw.progress = on_progress(progress, thrown)
        held_out, keep_held = _validation(validation, validation_positives)
        p = _Positives(positives, a.rows, b.rows)
        results = Results(_lib, _check, r)
        handle = ctypes.c_void_p()
        start = warm_start._handle if warm_start is not None else None
        status = getattr(_lib, name)(self._handle, raw, a, b, p.raw, held_out, start, handle, results.raw)
        if thrown:
            raise thrown[0]
        _check(status, self._handle)
        return Model(self, handle), results.info()

    def partial_fit(self, d1, d2, r, **options):
        """A PartialFit on this context."""
        return PartialFit(self, d1, d2, r, **options)

    def weights(self, zx, zy, loss=None, positives=None):
        """A Weights on this context."""
        return Weights(self, zx, zy, loss, positives)

    def load(self, path):
        """Reads a model."""
        handle = ctypes.c_void_p()
        self._call("unicon_model_load", str(path).encode(), handle)
        return Model(self, handle)

    def linear_model(self, f1, f2):
        """A model from encoder matrices r x d1 and r x d2."""
        handle = ctypes.c_void_p()
        (a, keep_a), (b, keep_b) = matrix_of(f1), matrix_of(f2)
        self._call("unicon_model_create_linear", a, b, handle)
        return Model(self, handle)

    def contrastive_grad(self, zx, zy, loss=None, positives=None, dzx=None, dzy=None):
        """The loss of unit-row embeddings and its gradients with respect to them: (value, dzx, dzy)."""
        (a, keep_a), (b, keep_b) = matrix_of(zx), matrix_of(zy)
        dtype = np.float64 if 2 in (a.dtype, b.dtype) else np.float32
        dzx = np.empty((a.rows, a.cols), dtype) if dzx is None else dzx
        dzy = np.empty((b.rows, b.cols), dtype) if dzy is None else dzy
        (ga, keep_ga), (gb, keep_gb) = matrix_of(dzx), matrix_of(dzy)
        p = _Positives(positives, a.rows, b.rows)
        value = ctypes.c_double()
        self._call("unicon_contrastive_grad", loss, a, b, p.raw, value, ga, gb)
        return value.value, dzx, dzy

    def search(self, queries, items, k):
        """The k nearest items of every query: (scores, indices), each n_q x k; index -1 beyond the last item."""
        (a, keep_a), (b, keep_b) = matrix_of(queries), matrix_of(items)
        scores = np.empty((a.rows, k), np.float64 if 2 in (a.dtype, b.dtype) else np.float32)
        indices = np.empty((a.rows, k), np.int64)
        self._call("unicon_search", a, b, k, matrix_of(scores)[0], indices.ctypes.data)
        return scores, indices

    def recall(self, zx, zy, ks=(1, 5, 10), truth=None):
        """Recall@k in both directions: {"x2y": {k: ...}, "y2x": {k: ...}}."""
        (a, keep_a), (b, keep_b) = matrix_of(zx), matrix_of(zy)
        p = _Positives(truth, a.rows, b.rows)
        ks = index_array(ks)
        out = np.empty((2, len(ks)))
        self._call("unicon_recall", a, b, p.raw, ks.ctypes.data, len(ks), out.ctypes.data)
        return {name: dict(zip(ks.tolist(), row.tolist())) for name, row in zip(("x2y", "y2x"), out)}

    def gram(self, kernel, a, b):
        """The Gram matrix k(a_i, b_j)."""
        (va, keep_a), (vb, keep_b) = matrix_of(a), matrix_of(b)
        out = np.empty((va.rows, vb.rows), np.float64 if 2 in (va.dtype, vb.dtype) else np.float32)
        self._call("unicon_gram", kernel, va, vb, matrix_of(out)[0])
        return out
