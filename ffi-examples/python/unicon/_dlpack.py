"""Matrix views of NumPy arrays and DLPack tensors, without copies."""

import ctypes

import numpy as np

from ._abi import Matrix

_NUMPY = {"float32": 1, "float64": 2, "float16": 3}
# (DLPack type code, bits) -> unicon_dtype; code 2 is float, 4 is bfloat.
_DLPACK = {(2, 32): 1, (2, 64): 2, (2, 16): 3, (4, 16): 4}


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def matrix_of(values):
    """(view, owner): a view of a two-dimensional array, and what must live as long as the view."""
    if isinstance(values, np.ndarray):
        return _of_numpy(values), values
    if hasattr(values, "__dlpack__"):
        return _of_dlpack(values)
    raise TypeError(f"expected a NumPy array or a DLPack tensor, got {type(values).__name__}")


def _of_numpy(a):
    if a.ndim != 2:
        raise ValueError(f"expected 2 dimensions, got {a.ndim}")
    if a.dtype.name not in _NUMPY or not a.dtype.isnative:
        raise TypeError(f"expected float32, float64 or float16, got {a.dtype}")
    if any(s % a.itemsize for s in a.strides):
        raise ValueError(f"expected strides of whole elements, got {a.strides} bytes")
    rs, cs = (s // a.itemsize for s in a.strides)
    return Matrix(a.ctypes.data, a.shape[0], a.shape[1], rs, cs, _NUMPY[a.dtype.name], 1, 0, 0)


def _of_dlpack(tensor):
    if hasattr(tensor, "detach"):
        tensor = tensor.detach()
    capsule = tensor.__dlpack__()
    t = _DLTensor.from_address(_pointer(capsule, b"dltensor"))
    if t.ndim != 2:
        raise ValueError(f"expected 2 dimensions, got {t.ndim}")
    dtype = _DLPACK.get((t.code, t.bits)) if t.lanes == 1 else None
    if dtype is None:
        raise TypeError(f"expected float32, float64, float16 or bfloat16, got DLPack type {t.code}/{t.bits}")
    rows, cols = t.shape[0], t.shape[1]
    rs, cs = (t.strides[0], t.strides[1]) if t.strides else (cols, 1)
    data = (t.data or 0) + t.byte_offset
    # The capsule was not consumed: its own destructor frees the tensor when it goes.
    return Matrix(data, rows, cols, rs, cs, dtype, t.device_type, t.device_id, 0), (tensor, capsule)
