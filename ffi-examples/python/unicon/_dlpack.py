"""Matrix views of DLPack tensors, without copies."""

import ctypes

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


def is_read_only(tensor):
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


def _plain(tensor):
    return tensor.detach() if hasattr(tensor, "detach") else tensor


def of_dlpack(tensor, name):
    """(view, owner) of a tensor of two dimensions."""
    tensor = _plain(tensor)
    try:
        capsule = tensor.__dlpack__()
    except (BufferError, RuntimeError, TypeError, ValueError) as e:
        raise TypeError(f"{name}: expected a dense tensor, got one that its owner does not hand out: {e}") from None
    t = _DLTensor.from_address(_pointer(capsule, b"dltensor"))
    shape = tuple(t.shape[i] for i in range(t.ndim))
    if t.ndim != 2 or 0 in shape:
        hint = f"; pass {name}[None, :] for one sample" if t.ndim == 1 else ""
        raise ValueError(f"{name}: expected 2 dimensions (rows are samples), none of them 0, got shape {shape}{hint}")
    dtype = _TYPES.get((t.code, t.bits)) if t.lanes == 1 else None
    if dtype is None:
        got = f"{_NAMES.get(t.code, f'DLPack type {t.code} of ')}{t.bits}"
        raise TypeError(f"{name}: expected float32, float64, float16 or bfloat16, got {got}; convert it first")
    rows, cols = shape
    rs, cs = (t.strides[0], t.strides[1]) if t.strides else (cols, 1)
    data = (t.data or 0) + t.byte_offset
    # The capsule was not consumed: its own destructor frees the tensor when it goes.
    return Matrix(data, rows, cols, rs, cs, dtype, t.device_type, t.device_id, 0), (tensor, capsule)
