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
        values = {f[0]: getattr(self, f[0]) for f in self._fields_ if f[1] in plain and f[0] not in ("struct_size", "reserved", "family")}
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


AllGatherFn = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p, c_int64, c_int32, c_void_p)
SendRecvFn = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_int64, c_int32, c_void_p, c_int64, c_int32, c_int32, c_void_p)


class Communicator(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("rank", c_int32),
        ("size", c_int32),
        ("allgather", AllGatherFn),
        ("send_recv", SendRecvFn),
        ("user", c_void_p),
    ]


WarningFn = CFUNCTYPE(None, c_char_p, c_void_p)


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
        ("warning", WarningFn),
        ("warning_user", c_void_p),
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


class Pairs(Structure):
    _fields_ = [("struct_size", c_size_t), ("x", POINTER(Matrix)), ("y", POINTER(Matrix)), ("positives", POINTER(Positives))]


class Kernel(Options):
    _kinds_ = ("linear", "cosine", "angular", "arccos", "exp_cosine", "rbf", "matern32", "precomputed")
    _fields_ = [
        ("struct_size", c_size_t),
        ("kind", c_int32),
        ("reserved", c_int32),
        ("beta", c_double),
        ("gamma", c_double),
        ("lengthscale", c_double),
        ("cos_clamp", c_double),
    ]


class WeightsOptions(Structure):
    _fields_ = [("struct_size", c_size_t), ("loss", POINTER(Loss)), ("n_negatives", c_int64), ("seed", c_uint64)]


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
        ("dimension", c_int32),
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
        ("reserved", c_int32),
        ("validation", POINTER(Pairs)),
        ("warm_start", c_void_p),
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
        ("center", c_int32),
        ("validation", POINTER(Pairs)),
        ("warm_start", c_void_p),
        ("damping", POINTER(Damping)),
        ("refine", POINTER(Refine)),
        ("checkpoint", c_char_p),
        ("budget", c_double),
        ("progress", ProgressFn),
        ("progress_user", c_void_p),
        ("batch_score", c_int32),
        ("reserved", c_int32),
        ("cos_clamp", c_double),
    ]


class Sizes(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("n_x", c_int64),
        ("n_y", c_int64),
        ("d1", c_int64),
        ("d2", c_int64),
        ("m_x", c_int64),
        ("m_y", c_int64),
        ("dtype", c_int32),
        ("reserved", c_int32),
    ]


class EvaluationOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t),
        ("ks", c_void_p),
        ("n_ks", c_int64),
        ("ties", c_int32),
        ("exclude_self", c_int32),
        ("resamples", c_int64),
        ("level", c_double),
        ("seed", c_uint64),
    ]


# The keys of reports, UNICON_REPORT_...: reals below 1000, integers from 1000 on, series from 2000 on.
KEYS: dict[str, int] = {
    "final_loss": 1, "sampling_error": 2, "whiten": 3, "power": 4, "tau": 5, "seconds": 6, "seconds_load": 7, "seconds_features": 8,
    "seconds_encode": 9, "seconds_statistics": 10, "seconds_weights": 11, "seconds_spectral": 12, "seconds_validation": 13,
    "matching_accuracy": 101, "mrr_x2y": 102, "mrr_y2x": 103, "mrr_x2y_low": 104, "mrr_x2y_high": 105, "mrr_y2x_low": 106,
    "mrr_y2x_high": 107, "median_rank_x2y": 108, "median_rank_y2x": 109, "mean_rank_x2y": 110, "mean_rank_y2x": 111, "outcome": 1001,
    "n_iters": 1002, "rejected_update": 1003, "rows_without_positives": 1004, "cols_without_positives": 1005, "zero_rows_x": 1006,
    "zero_rows_y": 1007, "rows_dropped": 1008, "workspace_bytes": 1009, "peak_bytes": 1010, "evaluations": 1011, "r": 1012,
    "rows_held_back": 1013, "cols_held_back": 1014, "held_apart": 1015, "distinct_x": 1016, "distinct_y": 1017, "centred_x": 1018,
    "centred_y": 1019, "returned": 1020, "tied_x2y": 1101, "tied_y2x": 1102, "loss": 2001, "change": 2002, "singular_values": 2003,
    "trace_seconds": 2004, "trace_loss": 2005, "trace_score": 2006, "trace_negatives": 2007, "trace_evaluations": 2008,
    "trace_sampling_error": 2009, "recall_x2y": 2101, "recall_y2x": 2102, "recall_x2y_low": 2103, "recall_x2y_high": 2104,
    "recall_y2x_low": 2105, "recall_y2x_high": 2106,
}

_handle = c_void_p
_matrix, _positives, _loss, _pairs = POINTER(Matrix), POINTER(Positives), POINTER(Loss), POINTER(Pairs)
_weights_options = POINTER(WeightsOptions)

# name -> (result, arguments); the library is asked for exactly these.
FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "unicon_status_string": (c_char_p, [c_int32]),
    "unicon_version": (c_char_p, []),
    "unicon_version_number": (c_int32, []),
    "unicon_abi_version": (c_int32, []),
    "unicon_capabilities": (c_uint64, []),
    "unicon_device_count": (c_int32, [c_int32, POINTER(c_int32)]),
    "unicon_context_options_init": (c_int32, [POINTER(ContextOptions), c_size_t]),
    "unicon_context_create": (c_int32, [POINTER(ContextOptions), POINTER(_handle)]),
    "unicon_context_destroy": (None, [_handle]),
    "unicon_last_error": (c_size_t, [_handle, c_void_p, c_size_t]),
    "unicon_cancel": (c_int32, [_handle]),
    "unicon_cancel_clear": (c_int32, [_handle]),
    "unicon_communicator_init": (c_int32, [POINTER(Communicator), c_size_t]),
    "unicon_context_device_type": (c_int32, [_handle]),
    "unicon_loss_init": (c_int32, [_loss, c_size_t, c_int32]),
    "unicon_family_init": (c_int32, [POINTER(Family), c_size_t]),
    "unicon_positives_init": (c_int32, [_positives, c_size_t]),
    "unicon_kernel_init": (c_int32, [POINTER(Kernel), c_size_t, c_int32]),
    "unicon_weights_options_init": (c_int32, [_weights_options, c_size_t]),
    "unicon_weights_create": (c_int32, [_handle, _weights_options, _pairs, POINTER(_handle)]),
    "unicon_weights_create_similarity": (c_int32, [_handle, _weights_options, _matrix, _positives, POINTER(_handle)]),
    "unicon_weights_destroy": (None, [_handle]),
    "unicon_weights_loss": (c_int32, [_handle, POINTER(c_double), POINTER(c_double), POINTER(c_double)]),
    "unicon_weights_unmatched": (c_int32, [_handle, POINTER(c_int64), POINTER(c_int64)]),
    "unicon_weights_dense": (c_int32, [_handle, _matrix]),
    "unicon_weights_apply": (c_int32, [_handle, _matrix, _matrix]),
    "unicon_weights_apply_transpose": (c_int32, [_handle, _matrix, _matrix]),
    "unicon_weights_cross": (c_int32, [_handle, _matrix, _matrix, _matrix]),
    "unicon_contrastive_grad": (
        c_int32,
        [_handle, _weights_options, _pairs, POINTER(c_double), _matrix, _matrix],
    ),
    "unicon_weights_workspace": (c_int32, [_handle, c_int64, c_int64, c_int64, c_int32, POINTER(c_uint64)]),
    "unicon_model_create_linear": (c_int32, [_handle, _matrix, _matrix, POINTER(_handle)]),
    "unicon_model_destroy": (None, [_handle]),
    "unicon_model_describe": (c_int32, [_handle, POINTER(ModelDescription)]),
    "unicon_model_bias": (c_int32, [_handle, _handle, c_int32, _matrix]),
    "unicon_model_encoder": (c_int32, [_handle, _handle, c_int32, _matrix]),
    "unicon_model_encode": (c_int32, [_handle, _handle, c_int32, _matrix, _matrix]),
    "unicon_model_compress": (
        c_int32,
        [_handle, _handle, _matrix, _matrix, c_int64, POINTER(c_double), POINTER(_handle)],
    ),
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
    "unicon_fit": (c_int32, [_handle, POINTER(FitOptions), _pairs, POINTER(_handle), POINTER(_handle)]),
    "unicon_fit_best": (c_int32, [_handle, POINTER(BestOptions), _pairs, POINTER(_handle), POINTER(_handle)]),
    "unicon_report_real": (c_int32, [_handle, c_int32, POINTER(c_double)]),
    "unicon_report_integer": (c_int32, [_handle, c_int32, POINTER(c_int64)]),
    "unicon_report_series": (c_int32, [_handle, c_int32, c_void_p, c_int64, POINTER(c_int64)]),
    "unicon_report_destroy": (None, [_handle]),
    "unicon_sizes_init": (c_int32, [POINTER(Sizes), c_size_t]),
    "unicon_fit_workspace": (c_int32, [_handle, POINTER(FitOptions), POINTER(Sizes), POINTER(c_uint64)]),
    "unicon_fit_best_workspace": (c_int32, [_handle, POINTER(BestOptions), POINTER(Sizes), POINTER(c_uint64)]),
    "unicon_partial_fit_create": (
        c_int32,
        [_handle, POINTER(FitOptions), c_int32, c_int64, c_int64, c_int32, POINTER(_handle)],
    ),
    "unicon_partial_fit_add": (c_int32, [_handle, _pairs, POINTER(c_double)]),
    "unicon_partial_fit_model": (c_int32, [_handle, POINTER(_handle)]),
    "unicon_partial_fit_finish": (c_int32, [_handle, POINTER(_handle)]),
    "unicon_partial_fit_destroy": (None, [_handle]),
    "unicon_search": (c_int32, [_handle, _matrix, _matrix, c_int64, _matrix, c_void_p]),
    "unicon_recall": (c_int32, [_handle, _pairs, c_int32, c_void_p, c_int64, c_void_p]),
    "unicon_evaluation_options_init": (c_int32, [POINTER(EvaluationOptions), c_size_t]),
    "unicon_evaluate": (c_int32, [_handle, POINTER(EvaluationOptions), _pairs, POINTER(_handle)]),
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
    "unicon_pairs": Pairs,
    "unicon_kernel": Kernel,
    "unicon_weights_options": WeightsOptions,
    "unicon_model_description": ModelDescription,
    "unicon_progress": Progress,
    "unicon_damping": Damping,
    "unicon_refine": Refine,
    "unicon_minibatch": Minibatch,
    "unicon_best_options": BestOptions,
    "unicon_fit_options": FitOptions,
    "unicon_sizes": Sizes,
    "unicon_evaluation_options": EvaluationOptions,
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
    return {"abi": ABI_VERSION, "keys": KEYS, "structs": structs, "functions": functions}


if __name__ == "__main__":
    import json

    print(json.dumps(describe()))
