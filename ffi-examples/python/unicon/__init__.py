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
from dataclasses import dataclass, field

import numpy as np

from . import _abi
from ._dlpack import matrix_of

_lib = _abi.load()

STATUSES = ["ok", "invalid argument", "unsupported", "out of memory", "no device", "cuda", "numerical", "cancelled",
            "comm", "io", "bad file", "busy", "panic"]
_LOSSES = {"clip": 0, "sigmoid": 1, "triplet_hard": 2, "triplet_smooth": 3}
_KERNELS = {"linear": 0, "cosine": 1, "angular": 2, "arccos": 3, "exp_cosine": 4, "rbf": 5, "matern32": 6}
_CHOICES = {
    "factorization": {"sqrt": 0, "orthonormal": 1, "power": 2},
    "svd": {"full": 0, "randomized": 1},
    "init": {"zeros": 0, "random": 1, "similarity": 2},
}
_OUTCOMES = ["completed", "converged", "cancelled"]
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
    names = [name for name, _ in struct._fields_ if name not in ("struct_size", "kind", "reserved")]
    for name, value in parameters.items():
        if name not in names:
            raise TypeError(f"{name}: expected one of {', '.join(names)}")
        setattr(struct, name, value)
    return struct


def _index_array(values):
    return np.ascontiguousarray(values, dtype=np.int64)


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
            indptr, indices = self.arrays = _index_array(positives.indptr), _index_array(positives.indices)
            if len(indptr) != n_x + 1:
                raise ValueError(f"positives: expected {n_x} rows, got {len(indptr) - 1}")
            raw.kind, raw.indptr, raw.indices, raw.nnz = 2, indptr.ctypes.data, indices.ctypes.data, len(indices)
        else:
            x, y = self.arrays = _index_array(positives[0]), _index_array(positives[1])
            if x.shape != (n_x,) or y.shape != (n_y,):
                raise ValueError(f"positives: expected ids of shapes ({n_x},) and ({n_y},), got {x.shape} and {y.shape}")
            raw.kind, raw.x_groups, raw.y_groups = 1, x.ctypes.data, y.ctypes.data


@dataclass
class FitInfo:
    """What a fit did; the fields are those of unicon_fit_info_t."""

    outcome: str
    n_iters: int
    loss: np.ndarray
    change: np.ndarray
    singular_values: np.ndarray
    final_loss: float
    rows_without_positives: int
    cols_without_positives: int
    zero_rows: tuple
    rows_dropped: int
    workspace_bytes: int
    peak_bytes: int
    seconds: dict = field(default_factory=dict)


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
        self._context = context
        (a, keep_a), (b, keep_b) = matrix_of(zx), matrix_of(zy)
        self.shape = (a.rows, b.rows)
        self._dtype = np.float64 if 2 in (a.dtype, b.dtype) else np.float32
        handle = ctypes.c_void_p()
        p = _Positives(positives, a.rows, b.rows)
        context._call("unicon_weights_create", loss, a, b, p.raw, handle)
        self._handle = handle
        self._finalizer = weakref.finalize(self, _lib.unicon_weights_destroy, handle)

    @property
    def loss(self):
        """The loss L."""
        value = ctypes.c_double()
        _check(_lib.unicon_weights_loss(self._handle, value), self._context._handle)
        return value.value

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
    """A batched linear fit whose batches arrive one by one; finish() ends a pass and gives the model."""

    def __init__(self, context, d1, d2, r, *, dtype="float32", warm_start=None, **options):
        self._context = context
        raw, keep = context._options(r, options)
        handle = ctypes.c_void_p()
        start = warm_start._handle if warm_start is not None else None
        code = {"float32": 1, "float64": 2}[str(dtype)]
        context._call("unicon_partial_fit_create", raw, d1, d2, code, None, start, handle)
        self._handle = handle
        self._finalizer = weakref.finalize(self, _lib.unicon_partial_fit_destroy, handle)

    def add(self, x, y, positives=None):
        """Solves one batch and returns its loss before the update."""
        (a, keep_a), (b, keep_b) = matrix_of(x), matrix_of(y)
        p = _Positives(positives, a.rows, b.rows)
        value = ctypes.c_double()
        _check(_lib.unicon_partial_fit_add(self._handle, a, b, p.raw, value), self._context._handle)
        return value.value

    def finish(self):
        """The model of everything added since the last finish()."""
        handle = ctypes.c_void_p()
        _check(_lib.unicon_partial_fit_finish(self._handle, handle), self._context._handle)
        return Model(self._context, handle)


class Context:
    """A device, its threads and its limits. One call at a time; any number of contexts."""

    def __init__(self, device="cpu", device_id=0, stream=None, n_threads=0, workspace_limit=0):
        options = _abi.ContextOptions()
        _check(_lib.unicon_context_options_init(options, ctypes.sizeof(options)))
        options.device_type = _pick("device", device, {"auto": 0, "cpu": 1, "cuda": 2})
        options.device_id, options.stream = device_id, stream
        options.n_threads, options.workspace_limit = n_threads, workspace_limit
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

    def _options(self, r, options):
        raw = _abi.FitOptions()
        _check(_lib.unicon_fit_options_init(raw, ctypes.sizeof(raw)))
        raw.r = r
        keep = []
        if options.pop("preset", "default") == "paper":
            _check(_lib.unicon_fit_options_preset(raw, 1))
        for name in ("loss", "kernel"):
            value = options.pop(name, None)
            if value is not None:
                keep.append(value)
                setattr(raw, name, ctypes.pointer(value))
        value = options.pop("landmarks", None)
        if value is not None:
            value = _index_array(value)
            keep.append(value)
            raw.n_landmarks, raw.landmarks = len(value), value.ctypes.data
        value = options.pop("similarity", None)
        if value is not None:
            view, owner = matrix_of(value)
            keep.append((view, owner))
            raw.init, raw.similarity = 2, ctypes.pointer(view)
        known = [name for name, t in raw._fields_ if t in (ctypes.c_int32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_double)]
        for name, value in options.items():
            if name not in known:
                raise TypeError(f"{name}: not an option of fit")
            setattr(raw, name, _pick(name, value, _CHOICES[name]) if name in _CHOICES else value)
        return raw, keep

    def fit(self, x, y, r, *, positives=None, validation=None, validation_positives=None, warm_start=None,
            progress=None, **options):
        """Fits encoders. Returns (Model, FitInfo).

        loss, kernel, landmarks, similarity, preset and every plain field of unicon_fit_options_t (n_iters, tol, rho, ridge,
        factorization, power, svd, init, scale_inputs, final_loss, drop_trailing, whiten, batch_size, n_batches,
        n_negatives, kernel_ridge, n_landmarks, seed) are options. validation is a pair of feature matrices;
        progress is called with a dict and cancels by returning False.
        """
        (a, keep_a), (b, keep_b) = matrix_of(x), matrix_of(y)
        raw, keep = self._options(r, options)
        thrown = []

        def on_progress(p, _user):
            p = p.contents
            try:
                names = [n for n, _ in p._fields_ if n not in ("struct_size", "reserved")]
                return 1 if progress({n: getattr(p, n) for n in names}) is False else 0
            except BaseException as e:  # carried across the C call and raised below
                thrown.append(e)
                return 1

        if progress is not None:
            raw.progress = _abi.ProgressFn(on_progress)
        held_out = None
        if validation is not None:
            (va, keep_va), (vb, keep_vb) = matrix_of(validation[0]), matrix_of(validation[1])
            vp = _Positives(validation_positives, va.rows, vb.rows)
            held_out = _abi.Validation(ctypes.pointer(va), ctypes.pointer(vb), ctypes.pointer(vp.raw))
        p = _Positives(positives, a.rows, b.rows)
        info = _abi.FitInfo()
        _check(_lib.unicon_fit_info_init(info, ctypes.sizeof(info)))
        losses, changes, singular = (np.zeros(max(n, 1)) for n in (raw.n_iters, raw.n_iters, r))
        info.loss, info.change, info.history_capacity = losses.ctypes.data, changes.ctypes.data, len(losses)
        info.singular_values, info.singular_capacity = singular.ctypes.data, len(singular)
        handle = ctypes.c_void_p()
        start = warm_start._handle if warm_start is not None else None
        status = _lib.unicon_fit(self._handle, raw, a, b, p.raw, held_out, start, handle, info)
        if thrown:
            raise thrown[0]
        _check(status, self._handle)
        return Model(self, handle), FitInfo(
            outcome=_OUTCOMES[info.outcome],
            n_iters=info.n_iters,
            loss=losses[: info.n_loss],
            change=changes[: info.n_change],
            singular_values=singular[: info.n_singular_values],
            final_loss=info.final_loss,
            rows_without_positives=info.rows_without_positives,
            cols_without_positives=info.cols_without_positives,
            zero_rows=(info.zero_rows_x, info.zero_rows_y),
            rows_dropped=info.rows_dropped,
            workspace_bytes=info.workspace_bytes,
            peak_bytes=info.peak_bytes,
            seconds={
                "total": info.seconds,
                **{n[8:]: getattr(info, n) for n, _ in info._fields_ if n.startswith("seconds_")},
            },
        )

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
        ks = _index_array(ks)
        out = np.empty((2, len(ks)))
        self._call("unicon_recall", a, b, p.raw, ks.ctypes.data, len(ks), out.ctypes.data)
        return {name: dict(zip(ks.tolist(), row.tolist())) for name, row in zip(("x2y", "y2x"), out)}

    def gram(self, kernel, a, b):
        """The Gram matrix k(a_i, b_j)."""
        (va, keep_a), (vb, keep_b) = matrix_of(a), matrix_of(b)
        out = np.empty((va.rows, vb.rows), np.float64 if 2 in (va.dtype, vb.dtype) else np.float32)
        self._call("unicon_gram", kernel, va, vb, matrix_of(out)[0])
        return out
