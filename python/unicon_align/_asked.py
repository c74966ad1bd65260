"""What is asked: losses, kernels and the parts of fit options, as structs of the library with its defaults."""

from __future__ import annotations

import ctypes
import operator
from typing import Any, Optional, TypeVar, Union

import numpy.typing as npt

from . import _abi
from ._arrays import index_array
from ._family import Family
from ._library import check, lib, pick

_LOSSES = {name: code for code, name in enumerate(_abi.Loss._kinds_) if name != "custom"}
_KERNELS = {name: code for code, name in enumerate(_abi.Kernel._kinds_)}
_EPS_BY = {"positives": 0, "diagonal": 1}
_RANGES = {
    ctypes.c_int32: (-(2**31), 2**31 - 1),
    ctypes.c_int64: (-(2**63), 2**63 - 1),
    ctypes.c_uint64: (0, 2**64 - 1),
}


S = TypeVar("S", bound=ctypes.Structure)


def assign(struct: ctypes.Structure, name: str, value: Any) -> None:
    """Sets a field: what does not fit its type is an error that names it."""
    kind: Any = next(f[1] for f in struct._fields_ if f[0] == name)
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


def _set(struct: S, parameters: dict[str, Any]) -> S:
    hidden = ("struct_size", "kind", "reserved", "stages", "n_stages", "family")
    names = [f[0] for f in struct._fields_ if f[0] not in hidden]
    for name, value in parameters.items():
        if name not in names:
            raise TypeError(f"{name}: expected one of {', '.join(names)}")
        if name == "eps_by" and isinstance(value, str):
            value = pick("eps_by", value, _EPS_BY)
        assign(struct, name, value)
    return struct


def weights_options(asked: Optional[_abi.Loss], n_negatives: int = 0, seed: int = 0) -> _abi.WeightsOptions:
    """unicon_weights_options_t, which keeps the loss."""
    raw = _made(_abi.WeightsOptions(), lib.unicon_weights_options_init)
    if asked is not None:
        if not isinstance(asked, _abi.Loss):
            raise TypeError(f"loss: expected a loss of unicon_align.loss, got {asked!r}")
        raw.loss = ctypes.pointer(asked)
        raw.own_family = getattr(asked, "own_family", None)
    if n_negatives:
        assign(raw, "n_negatives", n_negatives)
    if seed:
        assign(raw, "seed", seed)
    return raw


def _made(struct: S, init: Any, *arguments: Any) -> S:
    check(init(struct, ctypes.sizeof(struct), *arguments))
    return struct


def loss(kind: Union[str, Family] = "clip", **parameters: Any) -> _abi.Loss:
    """A loss of the contrastive family (the paper's generalised loss).

    The value and the gradients of clip are tau times those of open_clip (the mean of two cross-entropies of logits s / tau).

    Parameters
    ----------
    kind : {"clip", "sigmoid", "triplet_hard", "triplet_smooth"} or Family
        A ``Family`` has a psi and a phi of one's own.
    tau : float, at least 0.001
        Temperature, 0.07 by default. Not used by triplet_hard and by a Family.
    nu : float
        Weight of the positive, 1 by default, 1.5 for sigmoid.
    margin : float
        Of the triplet members, 0.5 by default.
    eps_pos, eps_neg : float, at least 0
        Weights of the positive and of the negatives, 1 by default. ``eps_pos=0`` is the decoupled loss.
    log_eps : float, at least 0
        Added inside clip's logarithm, 0 by default.
    eps_by : {"positives", "diagonal"}
        Which pairs eps_pos weighs.
    """
    if isinstance(kind, Family):
        out = _made(_abi.Loss(), lib.unicon_loss_init, _abi.Loss._kinds_.index("custom"))
        out.family = ctypes.addressof(kind._raw)
        out.own_family = kind  # kept by the struct's instance, and asked for what its functions raised
        return _set(out, parameters)
    return _set(_made(_abi.Loss(), lib.unicon_loss_init, pick("loss", kind, _LOSSES)), parameters)


def kernel(kind: str, **parameters: Any) -> _abi.Kernel:
    """A kernel of both sides.

    Parameters
    ----------
    kind : {"linear", "cosine", "angular", "arccos", "exp_cosine", "rbf", "matern32", "precomputed"}
        "precomputed" (of ``Context.fit``): the values of any kernel take the place of features. x and y are the Gram matrices of the rows
        that train, n x n; what is encoded are values with all of these, n_new x n.
    beta : float
        Of exp_cosine, exp(beta cos): -80 to 80, 1 by default.
    gamma : float
        Of rbf, ``exp(-gamma |a - b|^2)``: 1 by default.
    lengthscale : float
        Of matern32, in units of the features: 1 by default.
    cos_clamp : float
        Cosines are clamped to +-(1 - cos_clamp), 0 by default.
    """
    return _set(_made(_abi.Kernel(), lib.unicon_kernel_init, pick("kernel", kind, _KERNELS)), parameters)


def damping(**parameters: Any) -> _abi.Damping:
    """Damped updates with a line search on the loss: first (length of the first step, 1), halvings (12), tol (1e-4)."""
    return _set(_made(_abi.Damping(), lib.unicon_damping_init), parameters)


def refine(stages: Optional[npt.ArrayLike] = None, **parameters: Any) -> _abi.Refine:
    """Refinement by L-BFGS: max_steps (30), tol (1e-4), memory (10), patience (3), first_step (0.07), and stages, the negatives a row of
    each stage (0: all)."""
    out = _made(_abi.Refine(), lib.unicon_refine_init)
    if stages is not None:
        array = index_array(stages, "stages")
        out.array = array  # kept by the struct's instance
        out.stages, out.n_stages = array.ctypes.data, len(array)
    return _set(out, parameters)


def minibatch(**parameters: Any) -> _abi.Minibatch:
    """Descent on mini-batches: batch (1024; 0: none), epochs (4), min_steps (100), max_steps (0: no limit), rate (0.1), momentum (0.5),
    patience (4)."""
    return _set(_made(_abi.Minibatch(), lib.unicon_minibatch_init), parameters)
