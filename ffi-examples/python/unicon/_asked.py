"""What is asked: losses, kernels and the parts of fit options, as structs of the library with its defaults."""

import ctypes
import operator

from . import _abi
from ._arrays import index_array
from ._library import check, lib, pick

_LOSSES = {"clip": 0, "sigmoid": 1, "triplet_hard": 2, "triplet_smooth": 3}
_KERNELS = {"linear": 0, "cosine": 1, "angular": 2, "arccos": 3, "exp_cosine": 4, "rbf": 5, "matern32": 6}
_EPS_BY = {"positives": 0, "diagonal": 1}
_RANGES = {
    ctypes.c_int32: (-(2**31), 2**31 - 1),
    ctypes.c_int64: (-(2**63), 2**63 - 1),
    ctypes.c_uint64: (0, 2**64 - 1),
}


def assign(struct, name, value):
    """Sets a field: what does not fit its type is an error that names it."""
    kind = dict(struct._fields_)[name]
    if kind in _RANGES:
        try:
            value = operator.index(value)
        except TypeError:
            raise TypeError(f"{name}: expected an integer, got {value!r}") from None
        least, most = _RANGES[kind]
        if not least <= value <= most:
            raise ValueError(f"{name}: expected {least} to {most}, got {value}")
    elif kind is ctypes.c_double:
        if isinstance(value, (bool, str, bytes)):
            raise TypeError(f"{name}: expected a number, got {value!r}")
        try:
            value = float(value)
        except (TypeError, ValueError):
            raise TypeError(f"{name}: expected a number, got {value!r}") from None
    setattr(struct, name, value)


def _set(struct, parameters):
    hidden = ("struct_size", "kind", "reserved", "stages", "n_stages")
    names = [name for name, _ in struct._fields_ if name not in hidden]
    for name, value in parameters.items():
        if name not in names:
            raise TypeError(f"{name}: expected one of {', '.join(names)}")
        if name == "eps_by" and isinstance(value, str):
            value = pick("eps_by", value, _EPS_BY)
        assign(struct, name, value)
    return struct


def _made(struct, init, *arguments):
    check(init(struct, ctypes.sizeof(struct), *arguments))
    return struct


def loss(kind="clip", **parameters):
    """A loss: kind clip, sigmoid, triplet_hard or triplet_smooth, and tau, nu, margin, eps_pos, eps_neg, log_eps, eps_by.

    A nu that is not given is that of the kind that the loss has when it is used: 1, or 1.5 for sigmoid.

    The value and the gradients of clip are tau times those of open_clip (the mean of two cross-entropies of logits s / tau).
    """
    return _set(_made(_abi.Loss(), lib.unicon_loss_init, pick("loss", kind, _LOSSES)), parameters)


def kernel(kind, **parameters):
    """A kernel: linear, cosine, angular, arccos, exp_cosine, rbf or matern32, and beta, gamma, lengthscale, cos_clamp."""
    return _set(_made(_abi.Kernel(), lib.unicon_kernel_init, pick("kernel", kind, _KERNELS)), parameters)


def damping(**parameters):
    """Damped updates: first, halvings, tol."""
    return _set(_made(_abi.Damping(), lib.unicon_damping_init), parameters)


def refine(stages=None, **parameters):
    """Refinement by L-BFGS: max_steps, tol, memory, patience, first_step, and stages, the negatives of each (0: all)."""
    out = _made(_abi.Refine(), lib.unicon_refine_init)
    if stages is not None:
        out.array = index_array(stages, "stages")  # kept by the struct's instance
        out.stages, out.n_stages = out.array.ctypes.data, len(out.array)
    return _set(out, parameters)


def minibatch(**parameters):
    """Descent on mini-batches: batch (0: none), epochs, min_steps, max_steps, rate, momentum, patience."""
    return _set(_made(_abi.Minibatch(), lib.unicon_minibatch_init), parameters)
