"""Models: encoders, shared by copies, and bytes."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Optional, TypeVar, Union, overload

import numpy as np
import numpy.typing as npt

from . import _abi
from ._arrays import Array, Features, index_array, matrix_of, new_output, output_of
from ._library import Handle, check, file_name, lib, pick

if TYPE_CHECKING:
    from ._context import Context
    from ._slots import Slots

SIDES = {"x": 0, "y": 1}
Out = TypeVar("Out")


def default_context() -> Context:
    """The context of models that came without one: the CPU, made when it is first needed."""
    global _default
    if _default is None:
        from ._context import Context

        _default = Context()
    return _default


_default: Optional[Context] = None


class Model:
    """A pair of encoders, immutable; made by ``Context.fit``, ``Context.load``, ``Context.linear_model`` or ``Model.from_bytes``.

    Any number of threads may use one model. Copies share the encoders; pickles (and joblib files) hold their bytes, and what comes out
    of them computes on the CPU unless a call is given another ``context``.

    Attributes
    ----------
    d1, d2 : int
        Dimensions of the features of x and of y.
    r : int
        Dimension of the embeddings.
    members : int
        Solutions whose similarities are averaged: 1, or the batches of a batched kernel fit.
    """

    def __init__(self, context: Optional[Context], handle: Union[Handle, ctypes.c_void_p]) -> None:
        self._context = context
        self._handle = handle if isinstance(handle, Handle) else Handle(handle, lib.unicon_model_destroy)
        self._pointer = self._handle.pointer
        d = _abi.ModelDescription(struct_size=ctypes.sizeof(_abi.ModelDescription))
        check(lib.unicon_model_describe(self._pointer, d))
        self.d1: int = d.d1
        self.d2: int = d.d2
        self.r: int = d.r
        self.members: int = d.members

    def __repr__(self) -> str:
        return f"unicon_align.Model({self.d1} and {self.d2} -> {self.r})"

    def __copy__(self) -> Model:
        return Model(self._context, self._handle)

    def __deepcopy__(self, memo: Any) -> Model:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return Model.from_bytes, (self.to_bytes(),)

    def _slots(self, context: Optional[Context]) -> Slots:
        context = context or self._context
        if context is None:
            context = self._context = default_context()
        return context._slots

    @overload
    def encode(self, features: Features, side: str, out: None = None, context: Optional[Context] = None) -> Array: ...
    @overload
    def encode(self, features: Features, side: str, out: Out, context: Optional[Context] = None) -> Out: ...
    def encode(self, features: Features, side: str, out: Any = None, context: Optional[Context] = None) -> Any:
        """Embeds features.

        Parameters
        ----------
        features : n x d1 (side "x") or n x d2 ("y")
            Read where they lie where rows or columns are contiguous, else copied. n may be 0.
        side : {"x", "y"}
        out : n x r, optional
            Written where it lies, of any floating dtype and device that the context can reach.
        context : Context, optional
            The one that the model was made with, or the CPU.

        Returns
        -------
        n x r, unit rows (zero where the encoder gives exactly zero); of a compressed model rows of other lengths
            ``out``, or an array of float64 for float64 features, else float32.

        Raises
        ------
        Error
            For values that are not finite, by row, and for another number of columns.
        TypeError, ValueError
            For what is no matrix of numbers.
        """
        view, keep = matrix_of(features, "features", empty=True)
        if out is None:
            out = new_output((view.rows, self.r), view)
        target, keep_out = output_of(out, "out")
        code = SIDES[side] if side in ("x", "y") else pick("side", side, SIDES)
        self._slots(context).call(lib.unicon_model_encode, (self._pointer, code, view, target),
                                  work=view.rows * view.cols * self.r)
        return out

    def similarity(self, x: Features, y: Features, context: Optional[Context] = None) -> Array:
        """Cosines of all pairs: n_x x d1 and n_y x d2 to n_x x n_y, float32, or float64 if an input is."""
        (a, keep_a), (b, keep_b) = matrix_of(x, "x", empty=True), matrix_of(y, "y")
        out = new_output((a.rows, b.rows), a, b)
        work = a.rows * b.rows * self.r + (a.rows * a.cols + b.rows * b.cols) * self.r
        self._slots(context).call(lib.unicon_model_similarity, (self._pointer, a, b, output_of(out)[0]), work=work)
        return out

    def compress(self, x: Features, y: Features, r: int, context: Optional[Context] = None) -> tuple[Model, float]:
        """The model with embeddings of ``r`` columns, and what that loses.

        The products of its embeddings, over all pairs of the given rows, are the nearest to those of this model's that ``r`` columns can
        have (Frobenius norm). For models of several ``members``, whose embeddings stand side by side. Rows of the new embeddings are
        not of unit length: search them by products, since dividing by their lengths gives other similarities.

        Parameters
        ----------
        x, y : n_x x d1 and n_y x d2
            Rows whose similarities are to be kept, such as those that trained. They need not match each other.
        r : int
            1 to this model's ``r``.
        context : Context, optional

        Returns
        -------
        Model
            The new one; this one is not changed.
        float
            The relative error of the similarities of all pairs of the given rows.
        """
        (a, keep_a), (b, keep_b) = matrix_of(x, "x"), matrix_of(y, "y")
        columns, handle, error = index_array([r], "r").item(), ctypes.c_void_p(), ctypes.c_double()
        self._slots(context).call(lib.unicon_model_compress, (self._pointer, a, b, columns, error, handle))
        return Model(context or self._context, handle), error.value

    def encoder(self, side: str) -> npt.NDArray[np.float64]:
        """The encoder matrix F of a linear model, r x d1 or r x d2, with any whitening folded in. ``Error`` for a kernel model."""
        code = pick("side", side, SIDES)
        out = np.empty((self.r, self.d2 if code else self.d1))
        self._slots(None).call(lib.unicon_model_encoder, (self._pointer, code, output_of(out)[0]))
        return out

    def bias(self, side: str) -> npt.NDArray[np.float64]:
        """The bias b of a linear model, r values: embeddings are F x + b, divided by its length. 0 where no mean is taken out."""
        code = pick("side", side, SIDES)
        out = np.empty((self.r, 1))
        self._slots(None).call(lib.unicon_model_bias, (self._pointer, code, output_of(out)[0]))
        return out[:, 0]

    def save(self, path: Any) -> None:
        """Writes a safetensors file: to a path, never half a file, or to a file that is open for binary writing."""
        if hasattr(path, "write"):
            _write(path, self.to_bytes())
        else:
            self._slots(None).call(lib.unicon_model_save, (self._pointer, file_name("path", path)))

    def to_bytes(self) -> bytes:
        """The bytes that ``save`` writes; equal models give equal bytes."""
        size = ctypes.c_int64()
        check(lib.unicon_model_to_bytes(self._pointer, None, 0, size))
        buffer = ctypes.create_string_buffer(size.value)
        check(lib.unicon_model_to_bytes(self._pointer, buffer, size.value, size))
        return buffer.raw

    @classmethod
    def from_bytes(cls, data: Any, context: Optional[Context] = None) -> Model:
        """A model from the bytes of ``to_bytes`` or of a model file. They may come from a stranger: they are checked whole (``Error``)."""
        try:
            handle, data = ctypes.c_void_p(), bytes(memoryview(data))
        except TypeError:
            raise TypeError(f"data: expected bytes, got {type(data).__name__}") from None
        check(lib.unicon_model_from_bytes(data, len(data), handle))
        return cls(context, handle)


def _write(file: Any, data: bytes) -> None:
    try:
        written = file.write(data)
    except TypeError:
        raise TypeError(f"path: expected a file open for binary writing, got {file!r}") from None
    if written is not None and written != len(data):
        raise OSError(f"path: {file!r} took {written} of {len(data)} bytes")


def load(path: Any, context: Optional[Context] = None) -> Model:
    """Reads a model from a path, or from a file that is open for binary reading. ``Error`` if it is none."""
    if not hasattr(path, "read"):
        handle = ctypes.c_void_p()
        (context or default_context())._slots.call(lib.unicon_model_load, (file_name("path", path), handle))
        return Model(context, handle)
    data = path.read()
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"path: expected a file open for binary reading, got {path!r}")
    return Model.from_bytes(data, context)
