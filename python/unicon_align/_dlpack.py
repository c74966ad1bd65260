"""Matrix views of DLPack tensors."""

from __future__ import annotations

import ctypes
from typing import Any, Optional

from ._abi import Matrix

# (DLPack type code, bits) -> unicon_dtype; code 2 is float, 4 is bfloat.
_TYPES = {(2, 32): 1, (2, 64): 2, (2, 16): 3, (4, 16): 4}
_NAMES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}
_READ_ONLY = 1


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


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
    ]


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype = ctypes.c_int
_is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]


def is_read_only(tensor: Any) -> bool:
    """Whether a tensor says that it must not be written; those that cannot say are taken to allow it."""
    if type(tensor).__module__.startswith(("jax", "tensorflow")):
        return True
    try:
        capsule = _plain(tensor).__dlpack__(max_version=(1, 0))
    except TypeError:
        return False
    if not _is_valid(capsule, b"dltensor_versioned"):
        return False
    return bool(_Versioned.from_address(_pointer(capsule, b"dltensor_versioned")).flags & _READ_ONLY)


def _plain(tensor: Any) -> Any:
    return tensor.detach() if hasattr(tensor, "detach") else tensor


def of_dlpack(tensor: Any, name: str, output: bool = False, empty: bool = False) -> Optional[tuple[Matrix, Any]]:
    """(view, owner) of a tensor of two dimensions. An input that the library cannot read where it lies is made contiguous by its own
    library; None of one in host memory that NumPy must convert."""
    tensor = _plain(tensor)
    # NumPy takes what lies in host memory; nothing is carried there from a device unasked.
    convertible = not output and hasattr(tensor, "__array__") and _is_host(tensor)
    try:
        capsule = tensor.__dlpack__()
    except (BufferError, RuntimeError, TypeError, ValueError) as e:
        if convertible:
            return None
        raise TypeError(f"{name}: expected a dense tensor, got one that its owner does not hand out: {e}") from None
    t = _DLTensor.from_address(_pointer(capsule, b"dltensor"))
    shape = tuple(t.shape[i] for i in range(t.ndim))
    if t.ndim != 2 or not shape[1] or not (shape[0] or empty):
        hint = f"; pass {name}[None, :] for one sample" if t.ndim == 1 else ""
        least = "at least one column" if empty else "none of them 0"
        raise ValueError(f"{name}: expected 2 dimensions (rows are samples), {least}, got shape {shape}{hint}")
    dtype = _TYPES.get((t.code, t.bits)) if t.lanes == 1 else None
    if dtype is None:
        if convertible:
            return None
        got = f"{_NAMES.get(t.code, f'DLPack type {t.code} of ')}{t.bits}"
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {got}; convert it first")
    rows, cols = shape
    rs, cs = (t.strides[0], t.strides[1]) if t.strides else (cols, 1)
    in_rows, in_cols = (cs == 1 or cols == 1) and (rs >= cols or rows == 1), (rs == 1 or rows == 1) and (cs >= rows or cols == 1)
    if not output and not (in_rows or in_cols):
        if hasattr(tensor, "contiguous"):
            return of_dlpack(tensor.contiguous(), name, empty=empty)
        if convertible:
            return None
    data = (t.data or 0) + t.byte_offset
    # The capsule was not consumed: its own destructor frees the tensor when it goes.
    return Matrix(data, rows, cols, rs, cs, dtype, t.device_type, t.device_id, 0), (tensor, capsule)


def _is_host(tensor: Any) -> bool:
    try:
        return int(tensor.__dlpack_device__()[0]) in (1, 3)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        # Sparse tensors have no device in DLPack's sense.
        return str(getattr(tensor, "device", "cpu")) == "cpu"
