"""Closed-form contrastive alignment of paired embeddings, over the C library of UniCon.

    import unicon_align

    digits = unicon_align.digits()
    context = unicon_align.Context()
    model, info = context.fit_best(digits.left, digits.right, 16)
    zx, zy = model.encode(digits.left, "x"), model.encode(digits.right, "y")
    print(context.recall(zx, zy, ks=[1, 5, 10]))

Rows are samples. NumPy arrays and anything with ``__dlpack__`` (torch, CuPy, JAX, on any device that the context can read) are read where
they lie if their rows or columns are contiguous, and copied otherwise. Integers, booleans, lists, data frames and Arrow columns are
converted, exactly (8 and 16 bits to float32, more to float64); what has no exact float is refused. The logger "unicon_align" tells of
fits (INFO) and copies (DEBUG).

``unicon_align.sklearn`` has an estimator for scikit-learn, ``unicon_align.torch`` losses for PyTorch.
"""

from __future__ import annotations

import ctypes

from ._abi import Damping, Kernel, Loss, Minibatch, Refine
from ._asked import damping, kernel, loss, minibatch, refine
from ._context import Context
from ._digits import Digits, digits
from ._family import Family
from ._fit import FitInfo
from ._library import Cancelled, Error, check, lib, pick
from ._model import Model, load
from ._positives import Positives
from ._retrieval import Items
from ._weights import PartialFit, Weights

__all__ = [
    "Cancelled", "Context", "Damping", "Digits", "Error", "Family", "FitInfo", "Items", "Kernel", "Loss", "Minibatch", "Model", "PartialFit",
    "Positives", "Refine", "Weights", "damping", "device_count", "digits", "kernel", "load", "loss", "minibatch", "refine", "version",
]


def version() -> str:
    """The version of the library."""
    text: bytes = lib.unicon_version()
    return text.decode()


__version__ = version()


def device_count(device: str = "cuda") -> int:
    """Usable devices of a kind: "cpu" (always 1) or "cuda"."""
    count = ctypes.c_int32()
    check(lib.unicon_device_count(pick("device", device, {"cpu": 1, "cuda": 2}), count))
    return count.value
