"""Closed-form contrastive alignment, over the C ABI of libunicon.

    import unicon
    context = unicon.Context()
    model, info = context.fit(x, y, r=128, whiten=0.1)
    zx, zy = model.encode(x, "x"), model.encode(y, "y")
    context.recall(zx, zy, ks=[1, 5, 10])

Rows are samples. Floating-point NumPy arrays and anything with ``__dlpack__`` (torch, CuPy, JAX, on any device that the context can
read) are never copied on the way in: rows or columns must be contiguous, and another layout is an error. Integers, booleans, lists and
data frames are converted, exactly (8 and 16 bits to float32, more to float64); what has no exact float is refused.
"""

import ctypes

from ._asked import damping, kernel, loss, minibatch, refine
from ._context import Context
from ._fit import FitInfo
from ._library import Cancelled, Error, check, lib, pick
from ._model import Model, load
from ._positives import Positives
from ._retrieval import Items
from ._weights import PartialFit, Weights

__all__ = [
    "Cancelled", "Context", "Error", "FitInfo", "Items", "Model", "PartialFit", "Positives", "Weights",
    "damping", "device_count", "kernel", "load", "loss", "minibatch", "refine", "version",
]


def version():
    """The version of the library."""
    return lib.unicon_version().decode()


def device_count(device="cuda"):
    """Usable devices of a kind."""
    count = ctypes.c_int32()
    check(lib.unicon_device_count(pick("device", device, {"cpu": 1, "cuda": 2}), count))
    return count.value
