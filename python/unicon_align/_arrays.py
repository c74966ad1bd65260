"""Matrices of any kind as the library takes them: arrays and tensors where they lie, everything else copied, converted or refused."""

from __future__ import annotations

import ctypes
from typing import Any, Optional, Protocol, Union

import numpy as np
import numpy.typing as npt

from ._abi import Matrix
from ._dlpack import is_read_only, of_dlpack
from ._library import log


class SupportsDLPack(Protocol):
    """A tensor of another library: torch, CuPy, JAX."""

    def __dlpack__(self, *, stream: Any = ...) -> Any: ...


class SupportsToNumpy(Protocol):
    """A data frame, or a column of Arrow."""

    def to_numpy(self) -> Any: ...


Features = Union[npt.ArrayLike, SupportsDLPack, SupportsToNumpy]
Array = npt.NDArray[Any]

_CODES = {np.dtype(np.float32): 1, np.dtype(np.float64): 2, np.dtype(np.float16): 3}
# Small integers are exact in float32, the others (to 2^53) in float64.
_NARROW = {np.dtype(t) for t in ("bool", "int8", "uint8", "int16", "uint16")}
_WIDE = {np.dtype(t) for t in ("int32", "uint32", "int64", "uint64")}


def matrix_of(values: Any, name: str = "matrix", empty: bool = False) -> tuple[Matrix, Any]:
    """(view, owner): an input as a matrix, and what must live as long as the view.

    Floating-point arrays and tensors whose rows or columns are contiguous are read where they lie. Others are copied; integers, lists,
    data frames and other byte orders are converted, exactly. `empty`: there may be no rows.
    """
    if type(values) is np.ndarray and values.dtype in _CODES:
        return _input(values, name, empty)
    if not isinstance(values, np.ndarray):
        if hasattr(values, "__dlpack__"):
            found = of_dlpack(values, name, empty=empty)
            if found is not None:
                return found
            values = values.detach() if hasattr(values, "detach") else values
        values = array_of(values, name)
    if isinstance(values, np.ma.MaskedArray):
        values = unmasked(values, name)
    dtype = values.dtype.newbyteorder("=")
    if dtype not in _CODES:
        if dtype not in _NARROW and dtype not in _WIDE:
            raise TypeError(f"{name}: expected float16, float32, float64, integers or booleans, got {_type(values)}")
        dtype = np.dtype(np.float32 if dtype in _NARROW else np.float64)
        if values.dtype.itemsize == 8 and values.size and max(int(values.max()), -int(values.min())) > 2**53:
            raise ValueError(f"{name}: expected integers to 2^53, which float64 holds, got larger ones")
    return _input(np.asarray(values, dtype), name, empty)


def output_of(values: Any, name: str = "out") -> tuple[Matrix, Any]:
    """(view, owner): an output, written where it lies."""
    if not isinstance(values, np.ndarray):
        if not hasattr(values, "__dlpack__"):
            raise TypeError(f"{name}: expected a NumPy array or a DLPack tensor to write to, got {type(values).__name__}")
        if is_read_only(values):
            raise ValueError(f"{name}: expected memory that may be written, got a read-only {type(values).__name__}")
        found = of_dlpack(values, name, output=True, empty=True)
        assert found is not None
        return found
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a plain array to write to, got a masked array")
    if not values.flags.writeable:
        raise ValueError(f"{name}: expected memory that may be written, got a read-only array")
    if values.dtype not in _CODES:
        raise TypeError(f"{name}: expected float16, float32 or float64 of this machine's byte order, got {values.dtype}")
    view = _view(values, name, empty=True)
    if view is None:
        raise ValueError(f"{name}: expected aligned memory with rows or columns that are contiguous and do not overlap, got strides "
                         f"{values.strides} (bytes) of shape {values.shape}")
    return view, values


def new_output(shape: tuple[int, ...], *views: Matrix) -> Array:
    """An array for a result: float64 if an input is, else float32."""
    return np.empty(shape, np.float64 if any(v.dtype == 2 for v in views) else np.float32)


def _input(a: Array, name: str, empty: bool) -> tuple[Matrix, Array]:
    view = _view(a, name, empty)
    if view is None:
        log.debug("%s: copied, %.3g MB: neither its rows nor its columns are contiguous in aligned memory", name, a.nbytes / 1e6)
        a = np.array(a, order="C", copy=True, subok=False)
        view = _view(a, name, empty)
        assert view is not None
    return view, a


def _view(a: Array, name: str, empty: bool) -> Optional[Matrix]:
    """A view of an array of a type that the library reads; None of one that must be copied."""
    shape = a.shape
    if len(shape) != 2 or not shape[1] or not (shape[0] or empty):
        _wrong_shape(shape, name, empty)
    rows, cols = shape
    flags = a.flags
    address = None
    if flags.c_contiguous:
        rs, cs = cols, 1
        if flags.writeable and rows:
            # A third of the time of a.ctypes.
            address = ctypes.addressof(ctypes.c_char.from_buffer(a))  # type: ignore[arg-type,unused-ignore]
    elif flags.f_contiguous:
        rs, cs = 1, rows
    else:
        size = a.itemsize
        rs, cs = (s // size for s in a.strides)
        in_rows, in_cols = (cs == 1 or cols == 1) and (rs >= cols or rows == 1), (rs == 1 or rows == 1) and (cs >= rows or cols == 1)
        if any(s % size for s in a.strides) or not (in_rows or in_cols):
            return None
    if not flags.aligned:
        return None
    return Matrix(address or a.ctypes.data, rows, cols, rs, cs, _CODES[a.dtype], 1, 0, 0)


def _wrong_shape(shape: tuple[int, ...], name: str, empty: bool) -> None:
    if len(shape) == 1:
        raise ValueError(f"{name}: expected 2 dimensions (rows are samples), got shape {shape}; pass {name}[None, :] for one sample")
    if len(shape) == 2:
        raise ValueError(f"{name}: expected at least {'' if empty else 'one row and '}one column, got shape {shape}")
    raise ValueError(f"{name}: expected 2 dimensions (rows are samples), got {len(shape)}: shape {shape}")


def _type(a: Array) -> str:
    if a.dtype == object:
        for value in a.flat:
            if not isinstance(value, (int, float, np.number)):
                return f"objects, among them {value!r} ({type(value).__name__})"
    return str(a.dtype)


def array_of(values: Any, name: str) -> Array:
    """A list, a data frame or another holder of values as an array."""
    kind = type(values).__name__
    if hasattr(values, "tocsr"):
        raise TypeError(f"{name}: expected a dense matrix, got a sparse {kind}; pass {name}.toarray()")
    if isinstance(values, (str, bytes, dict, set, frozenset)) or values is None:
        raise TypeError(f"{name}: expected a matrix, got {kind}")
    try:
        out: Array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    except ValueError as e:
        # Arrow's columns with nulls or lists are copied, where asked for.
        if not type(values).__module__.startswith("pyarrow"):
            raise ValueError(f"{name}: expected rows of equal length, got a {kind} that is none: {e}") from None
        out = values.to_numpy(zero_copy_only=False)
    except (RuntimeError, TypeError) as e:
        raise TypeError(f"{name}: expected a dense matrix, got a {kind} that is none: {e}") from None
    if out.dtype == object and out.ndim == 0:
        raise TypeError(f"{name}: expected a matrix, got {kind}")
    if out.dtype == object and out.ndim == 1 and out.size and all(isinstance(row, (list, np.ndarray)) for row in out):
        # A column of embeddings, one in each cell.
        try:
            out = np.array(list(out))
        except ValueError:
            raise ValueError(f"{name}: expected rows of equal length, got a {kind} of others") from None
    if out.dtype == object and hasattr(values, "to_numpy"):
        # Nullable columns of a data frame: pandas' missing values become NaN, which the library names by row and column.
        try:
            out = values.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError):
            raise TypeError(f"{name}: expected columns of numbers, got {_type(out)}") from None
    return out


def unmasked(values: Any, name: str) -> Array:
    """The data of a masked array that masks nothing."""
    masked = int(np.ma.count_masked(values))  # type: ignore[no-untyped-call,unused-ignore]
    if masked:
        raise ValueError(f"{name}: expected values everywhere, got {masked} masked entries; fill them or drop their rows")
    return np.asarray(values.data)


def index_array(values: Any, name: str = "indices") -> npt.NDArray[np.int64]:
    """int64, as the library takes indices and ids: integers, or floats that are whole numbers."""
    if hasattr(values, "detach") and hasattr(values, "cpu"):
        values = values.detach().cpu()
    if isinstance(values, np.ma.MaskedArray):
        values = unmasked(values, name)
    out = np.asarray(values)
    if out.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got shape {out.shape}")
    if out.dtype.kind == "f":
        if not (np.abs(out) <= 2.0**53).all() or (out != np.floor(out)).any():
            raise ValueError(f"{name}: expected whole numbers, got {out.dtype} with others")
    elif out.size and out.dtype.kind not in "iu":
        hint = "; number names with numpy.unique(names, return_inverse=True)" if out.dtype.kind in "OUST" else ""
        raise TypeError(f"{name}: expected integers, got {out.dtype}{hint}")
    elif out.dtype.kind == "u" and out.size and out.max() > np.iinfo(np.int64).max:
        raise ValueError(f"{name}: expected integers below 2^63, got {out.max()}")
    return np.ascontiguousarray(out, dtype=np.int64)
