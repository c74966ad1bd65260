"""The C ABI of libunicon in ctypes: the structs and functions of unicon.h, nothing else.

`python -m unicon_align._abi` prints every size, offset and signature as JSON, for comparison with the header.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any

ABI_VERSION = 1


class Options(Structure):
    """A struct of options, which shows its values."""

    _kinds_: tuple[str, ...] = ()

    def __repr__(self) -> str:
        plain = (c_int32, c_int64, c_uint64, c_double)
        values = {f[0]: getattr(self, f[0]) for f in self._fields_ if f[1] in plain and f[0] not in ("struct_size", "reserved", "reserved2", "family")}
        if self._kinds_:
            # A kind of other software's may be beyond those.
            values["kind"] = dict(enumerate(self._kinds_)).get(values["kind"], values["kind"])
        # The nu of the loss's kind, whichever that is, stands there as -DBL_MAX.
        shown = [f"{name}={value!r}" for name, value in values.items() if value != -sys.float_info.max]
        return f"unicon_align.{type(self).__name__}({', '.join(shown)})"


class Matrix(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("rows", c_int64),
        ("cols", c_int64),
        ("row_stride", c_int64),
        ("col_stride", c_int64),
        ("dtype", c_int32),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("reserved", c_int32),
    ]


AllReduceFn = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_int64, c_int32, c_int32, c_void_p)
AllGatherFn = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p, c_int64, c_int32, c_void_p)
SendRecvFn = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_int64, c_int32, c_void_p, c_int64, c_int32, c_int32, c_void_p)


class Communicator(Structure):
    _fields_ = [
        ("rank", c_int32),
        ("size", c_int32),
        ("allreduce_sum", AllReduceFn),
        ("allgather", AllGatherFn),
        ("send_recv", SendRecvFn),
        ("user", c_void_p),
    ]


class ContextOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("stream", c_void_p),
        ("n_threads", c_int32),
        ("precision", c_int32),
        ("workspace_limit", c_uint64),
        ("allocator", c_void_p),
        ("communicator", POINTER(Communicator)),
        ("devices", POINTER(c_int32)),
        ("n_devices", c_int64),
    ]


FamilyFn = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p, c_int64, c_void_p)


class Family(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("name", c_char_p),
        ("psi", FamilyFn),
        ("phi", FamilyFn),
        ("user", c_void_p),
        ("concurrent", c_int32),
        ("reserved", c_int32),
    ]


class Loss(Options):
    _kinds_ = ("clip", "sigmoid", "triplet_hard", "triplet_smooth", "custom")
    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_int32),
        ("eps_by", c_int32),
        ("tau", c_double),
        ("nu", c_double),
        ("margin", c_double),
        ("eps_pos", c_double),
        ("eps_neg", c_double),
        ("log_eps", c_double),
        # An address: ctypes pickles no struct with pointers, and losses without functions of one's own are pickled.
        ("family", c_size_t),
    ]


class Positives(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_int32),
        ("reserved", c_int32),
        ("x_groups", c_void_p),
        ("y_groups", c_void_p),
        ("indptr", c_void_p),
        ("indices", c_void_p),
        ("nnz", c_int64),
    ]


class Kernel(Options):
    _kinds_ = ("linear", "cosine", "angular", "arccos", "exp_cosine", "rbf", "matern32")
    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_int32),
        ("reserved", c_int32),
        ("beta", c_double),
        ("gamma", c_double),
        ("lengthscale", c_double),
        ("cos_clamp", c_double),
    ]


class ModelDescription(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("d1", c_int64),
        ("d2", c_int64),
        ("r", c_int64),
        ("kernel_x", c_int32),
        ("kernel_y", c_int32),
        ("members", c_int64),
    ]


class Progress(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("phase", c_int32),
        ("reserved", c_int32),
        ("done", c_int64),
        ("total", c_int64),
        ("loss", c_double),
        ("seconds", c_double),
    ]


ProgressFn = CFUNCTYPE(c_int32, POINTER(Progress), c_void_p)


class Validation(Structure):
    _fields_ = [("x", POINTER(Matrix)), ("y", POINTER(Matrix)), ("positives", POINTER(Positives))]


class Damping(Options):
    _fields_ = [("struct_size", c_size_t), ("first", c_double), ("halvings", c_int64), ("tol", c_double)]


class Refine(Options):
    _fields_ = [
        ("struct_size", c_size_t),
        ("max_steps", c_int64),
        ("tol", c_double),
        ("memory", c_int64),
        ("patience", c_int64),
        ("first_step", c_double),
        ("stages", c_void_p),
        ("n_stages", c_int64),
    ]


class Minibatch(Options):
    _fields_ = [
        ("struct_size", c_size_t),
        ("batch", c_int64),
        ("epochs", c_int64),
        ("min_steps", c_int64),
        ("max_steps", c_int64),
        ("rate", c_double),
        ("momentum", c_double),
        ("patience", c_int64),
    ]


class BestOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("rank", c_int32),
        ("tau_auto", c_int32),
        ("r", c_int64),
        ("energy", c_double),
        ("loss", POINTER(Loss)),
        ("kernel", POINTER(Kernel)),
        ("n_landmarks", c_int64),
        ("landmarks", c_void_p),
        ("kernel_ridge", c_double),
        ("whiten", c_void_p),
        ("n_whiten", c_int64),
        ("powers", c_void_p),
        ("n_powers", c_int64),
        ("refine", POINTER(Refine)),
        ("minibatch", POINTER(Minibatch)),
        ("n_negatives", c_int64),
        ("exact", c_int32),
        ("final_loss", c_int32),
        ("checkpoint", c_char_p),
        ("budget", c_double),
        ("seed", c_uint64),
        ("progress", ProgressFn),
        ("progress_user", c_void_p),
        ("widths", c_void_p),
        ("n_widths", c_int64),
        ("center", c_int32),
        ("reserved2", c_int32),
    ]


class TracePoint(Structure):
    _fields_ = [
        ("seconds", c_double),
        ("loss", c_double),
        ("score", c_double),
        ("negatives", c_int64),
        ("evaluations", c_int64),
        ("sampling_error", c_double),
    ]


class FitOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("r", c_int64),
        ("loss", POINTER(Loss)),
        ("kernel", POINTER(Kernel)),
        ("n_landmarks", c_int64),
        ("landmarks", c_void_p),
        ("kernel_ridge", c_double),
        ("n_iters", c_int64),
        ("tol", c_double),
        ("rho", c_double),
        ("ridge", c_double),
        ("factorization", c_int32),
        ("svd", c_int32),
        ("init", c_int32),
        ("scale_inputs", c_int32),
        ("final_loss", c_int32),
        ("drop_trailing", c_int32),
        ("power", c_double),
        ("similarity", POINTER(Matrix)),
        ("whiten", c_double),
        ("batch_size", c_int64),
        ("n_batches", c_int64),
        ("n_negatives", c_int64),
        ("seed", c_uint64),
        ("growth", c_double),
        ("exact_last", c_int32),
        ("reserved", c_int32),
        ("damping", POINTER(Damping)),
        ("refine", POINTER(Refine)),
        ("checkpoint", c_char_p),
        ("budget", c_double),
        ("progress", ProgressFn),
        ("progress_user", c_void_p),
        ("center", c_int32),
        ("batch_score", c_int32),
        ("cos_clamp", c_double),
    ]


class FitInfo(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("outcome", c_int32),
        ("reserved", c_int32),
        ("n_iters", c_int64),
        ("loss", c_void_p),
        ("change", c_void_p),
        ("history_capacity", c_int64),
        ("n_loss", c_int64),
        ("n_change", c_int64),
        ("singular_values", c_void_p),
        ("singular_capacity", c_int64),
        ("n_singular_values", c_int64),
        ("final_loss", c_double),
        ("rows_without_positives", c_int64),
        ("cols_without_positives", c_int64),
        ("zero_rows_x", c_int64),
        ("zero_rows_y", c_int64),
        ("rows_dropped", c_int64),
        ("seconds", c_double),
        ("seconds_load", c_double),
        ("seconds_features", c_double),
        ("seconds_encode", c_double),
        ("seconds_statistics", c_double),
        ("seconds_weights", c_double),
        ("seconds_spectral", c_double),
        ("seconds_validation", c_double),
        ("workspace_bytes", c_uint64),
        ("peak_bytes", c_uint64),
        ("trace", POINTER(TracePoint)),
        ("trace_capacity", c_int64),
        ("n_trace", c_int64),
        ("evaluations", c_int64),
        ("sampling_error", c_double),
        ("whiten", c_double),
        ("power", c_double),
        ("tau", c_double),
        ("r", c_int64),
        ("rows_held_back", c_int64),
        ("cols_held_back", c_int64),
        ("distinct_x", c_int64),
        ("distinct_y", c_int64),
        ("centred_x", c_int32),
        ("centred_y", c_int32),
        ("returned", c_int64),
        ("held_apart", c_int64),
    ]


class Evaluation(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("ties", c_int32),
        ("exclude_self", c_int32),
        ("resamples", c_int64),
        ("level", c_double),
        ("seed", c_uint64),
        ("matching_accuracy", c_double),
        ("mrr_x2y", c_double),
        ("mrr_y2x", c_double),
        ("mrr_x2y_low", c_double),
        ("mrr_x2y_high", c_double),
        ("mrr_y2x_low", c_double),
        ("mrr_y2x_high", c_double),
        ("median_rank_x2y", c_double),
        ("median_rank_y2x", c_double),
        ("mean_rank_x2y", c_double),
        ("mean_rank_y2x", c_double),
        ("tied_x2y", c_int64),
        ("tied_y2x", c_int64),
    ]


_handle = c_void_p
_matrix, _positives, _loss = POINTER(Matrix), POINTER(Positives), POINTER(Loss)

# name -> (result, arguments); the library is asked for exactly these.
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "unicon_status_string": (c_char_p, [c_int32]),
    "unicon_version": (c_char_p, []),
    "unicon_abi_version": (c_int32, []),
    "unicon_capabilities": (c_uint64, []),
    "unicon_device_count": (c_int32, [c_int32, POINTER(c_int32)]),
    "unicon_context_options_init": (c_int32, [POINTER(ContextOptions), c_size_t]),
    "unicon_context_create": (c_int32, [POINTER(ContextOptions), POINTER(_handle)]),
    "unicon_context_destroy": (None, [_handle]),
    "unicon_last_error": (c_size_t, [_handle, c_void_p, c_size_t]),
    "unicon_cancel": (c_int32, [_handle]),
    "unicon_context_device_type": (c_int32, [_handle]),
    "unicon_loss_init": (c_int32, [_loss, c_size_t, c_int32]),
    "unicon_family_init": (c_int32, [POINTER(Family), c_size_t]),
    "unicon_positives_init": (c_int32, [_positives, c_size_t]),
    "unicon_kernel_init": (c_int32, [POINTER(Kernel), c_size_t, c_int32]),
    "unicon_weights_create": (c_int32, [_handle, _loss, _matrix, _matrix, _positives, POINTER(_handle)]),
    "unicon_weights_create_similarity": (c_int32, [_handle, _loss, _matrix, _positives, POINTER(_handle)]),
    "unicon_weights_destroy": (None, [_handle]),
    "unicon_weights_loss": (c_int32, [_handle, POINTER(c_double), POINTER(c_double), POINTER(c_double)]),
    "unicon_weights_unmatched": (c_int32, [_handle, POINTER(c_int64), POINTER(c_int64)]),
    "unicon_weights_dense": (c_int32, [_handle, _matrix]),
    "unicon_weights_apply": (c_int32, [_handle, _matrix, _matrix]),
    "unicon_weights_apply_t": (c_int32, [_handle, _matrix, _matrix]),
    "unicon_weights_cross": (c_int32, [_handle, _matrix, _matrix, _matrix]),
    "unicon_contrastive_grad": (
        c_int32,
        [_handle, _loss, _matrix, _matrix, _positives, POINTER(c_double), _matrix, _matrix],
    ),
    "unicon_weights_workspace": (c_int32, [_handle, c_int64, c_int64, c_int64, c_int32, POINTER(c_uint64)]),
    "unicon_model_create_linear": (c_int32, [_handle, _matrix, _matrix, POINTER(_handle)]),
    "unicon_model_destroy": (None, [_handle]),
    "unicon_model_describe": (c_int32, [_handle, POINTER(ModelDescription)]),
    "unicon_model_bias": (c_int32, [_handle, _handle, c_int32, _matrix]),
    "unicon_model_encoder": (c_int32, [_handle, _handle, c_int32, _matrix]),
    "unicon_model_encode": (c_int32, [_handle, _handle, c_int32, _matrix, _matrix]),
    "unicon_model_similarity": (c_int32, [_handle, _handle, _matrix, _matrix, _matrix]),
    "unicon_model_save": (c_int32, [_handle, _handle, c_char_p]),
    "unicon_model_load": (c_int32, [_handle, c_char_p, POINTER(_handle)]),
    "unicon_model_to_bytes": (c_int32, [_handle, c_void_p, c_int64, POINTER(c_int64)]),
    "unicon_model_from_bytes": (c_int32, [c_char_p, c_int64, POINTER(_handle)]),
    "unicon_damping_init": (c_int32, [POINTER(Damping), c_size_t]),
    "unicon_refine_init": (c_int32, [POINTER(Refine), c_size_t]),
    "unicon_minibatch_init": (c_int32, [POINTER(Minibatch), c_size_t]),
    "unicon_best_options_init": (c_int32, [POINTER(BestOptions), c_size_t]),
    "unicon_fit_options_init": (c_int32, [POINTER(FitOptions), c_size_t]),
    "unicon_fit_options_preset": (c_int32, [POINTER(FitOptions), c_int32]),
    "unicon_fit_info_init": (c_int32, [POINTER(FitInfo), c_size_t]),
    "unicon_fit": (
        c_int32,
        [_handle, POINTER(FitOptions), _matrix, _matrix, _positives, POINTER(Validation), _handle,
         POINTER(_handle), POINTER(FitInfo)],
    ),
    "unicon_fit_best": (
        c_int32,
        [_handle, POINTER(BestOptions), _matrix, _matrix, _positives, POINTER(Validation), _handle,
         POINTER(_handle), POINTER(FitInfo)],
    ),
    "unicon_fit_workspace": (
        c_int32,
        [_handle, POINTER(FitOptions), c_int64, c_int64, c_int64, c_int64, c_int32, POINTER(c_uint64)],
    ),
    "unicon_fit_best_workspace": (
        c_int32,
        [_handle, POINTER(BestOptions), c_int64, c_int64, c_int64, c_int64, c_int64, c_int64, c_int32, POINTER(c_uint64)],
    ),
    "unicon_partial_fit_create": (
        c_int32,
        [_handle, POINTER(FitOptions), c_int32, c_int64, c_int64, c_int32, POINTER(Validation), _handle, POINTER(_handle)],
    ),
    "unicon_partial_fit_add": (c_int32, [_handle, _matrix, _matrix, _positives, POINTER(c_double)]),
    "unicon_partial_fit_model": (c_int32, [_handle, POINTER(_handle)]),
    "unicon_partial_fit_finish": (c_int32, [_handle, POINTER(_handle)]),
    "unicon_partial_fit_destroy": (None, [_handle]),
    "unicon_search": (c_int32, [_handle, _matrix, _matrix, c_int64, _matrix, c_void_p]),
    "unicon_recall": (c_int32, [_handle, _matrix, _matrix, _positives, c_void_p, c_int64, c_void_p]),
    "unicon_evaluation_init": (c_int32, [POINTER(Evaluation), c_size_t]),
    "unicon_evaluate": (
        c_int32,
        [_handle, _matrix, _matrix, _positives, c_void_p, c_int64, POINTER(Evaluation), c_void_p, c_void_p],
    ),
    "unicon_items_create": (c_int32, [_handle, _matrix, POINTER(_handle)]),
    "unicon_items_destroy": (None, [_handle]),
    "unicon_items_search": (c_int32, [_handle, _handle, _matrix, c_int64, c_int64, _matrix, c_void_p]),
    "unicon_gram": (c_int32, [_handle, POINTER(Kernel), _matrix, _matrix, _matrix]),
}


def find() -> str:
    """The shared library: that of this package (a wheel has one), else what UNICON_LIBRARY names, else what the system's loader finds."""
    own = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libunicon.dylib" if sys.platform == "darwin" else "libunicon.so")
    if os.path.exists(own):
        return own
    return os.environ.get("UNICON_LIBRARY") or ctypes.util.find_library("unicon") or "libunicon.so.1"


def load() -> ctypes.CDLL:
    """The shared library with its functions declared."""
    path = find()
    try:
        library = ctypes.CDLL(path)
    except OSError as e:
        raise ImportError(f"unicon_align: cannot load the C library {path} ({e}); install a wheel of unicon-align, or name the file in "
                          "UNICON_LIBRARY") from None
    library.unicon_abi_version.restype = c_int32
    if library.unicon_abi_version() != ABI_VERSION:
        raise ImportError(f"unicon_align: {path} has ABI {library.unicon_abi_version()}, this package needs {ABI_VERSION}")
    for name, (result, arguments) in FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError:
            raise ImportError(f"unicon_align: {path} is older than this package: it has no {name}") from None
        function.restype = result
        function.argtypes = arguments
    return library


STRUCTS: dict[str, type[Structure]] = {
    "unicon_matrix": Matrix,
    "unicon_communicator": Communicator,
    "unicon_context_options": ContextOptions,
    "unicon_loss": Loss,
    "unicon_family": Family,
    "unicon_positives": Positives,
    "unicon_kernel": Kernel,
    "unicon_model_description": ModelDescription,
    "unicon_progress": Progress,
    "unicon_validation": Validation,
    "unicon_damping": Damping,
    "unicon_refine": Refine,
    "unicon_minibatch": Minibatch,
    "unicon_best_options": BestOptions,
    "unicon_trace_point": TracePoint,
    "unicon_fit_options": FitOptions,
    "unicon_fit_info": FitInfo,
    "unicon_evaluation": Evaluation,
}


def _kind(t: Any) -> str:
    """A ctypes type as the comparison names it: integers and floats by size, everything else a pointer."""
    if t is None:
        return "void"
    for name, known in [("i32", c_int32), ("i64", c_int64), ("u64", c_uint64), ("usize", c_size_t), ("f64", c_double)]:
        if t is known:
            return name
    return "ptr"


def describe() -> dict[str, Any]:
    """Layout and signatures, for comparison with the header."""
    structs = {
        name: {
            "size": ctypes.sizeof(s),
            "fields": [[f[0], getattr(s, f[0]).offset, getattr(s, f[0]).size] for f in s._fields_],
        }
        for name, s in STRUCTS.items()
    }
    functions = {name: [_kind(result)] + [_kind(a) for a in arguments] for name, (result, arguments) in FUNCTIONS.items()}
    return {"abi": ABI_VERSION, "structs": structs, "functions": functions}


if __name__ == "__main__":
    import json

    print(json.dumps(describe()))
