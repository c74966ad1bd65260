"""Models: encoders, shared by copies, and bytes."""

import ctypes

import numpy as np

from . import _abi
from ._arrays import matrix_of, new_output, output_of
from ._library import Handle, check, file_name, lib, pick

SIDES = {"x": 0, "y": 1}


def default_context():
    """The context of models that came without one: the CPU, made when it is first needed."""
    global _default
    if _default is None:
        from ._context import Context

        _default = Context()
    return _default


_default = None


class Model:
    """A pair of encoders. Immutable; made by Context.fit, Context.load, Context.linear_model or Model.from_bytes.

    Any number of threads may use one model. Copies share the encoders; pickles (and joblib files) hold their bytes, and what comes out
    of them computes on the CPU unless a call is given another `context`.
    """

    def __init__(self, context, handle):
        self._context = context
        self._handle = handle if isinstance(handle, Handle) else Handle(handle, lib.unicon_model_destroy)
        self._pointer = self._handle.pointer
        d = _abi.ModelDescription(struct_size=ctypes.sizeof(_abi.ModelDescription))
        check(lib.unicon_model_describe(self._pointer, d))
        self.d1, self.d2, self.r, self.members = d.d1, d.d2, d.r, d.members

    def __repr__(self):
        return f"unicon.Model({self.d1} and {self.d2} -> {self.r})"

    def __copy__(self):
        return Model(self._context, self._handle)

    def __deepcopy__(self, memo):
        return self.__copy__()

    def __reduce__(self):
        return Model.from_bytes, (self.to_bytes(),)

    def _slots(self, context):
        context = context or self._context
        if context is None:
            context = self._context = default_context()
        return context._slots

    def encode(self, features, side, out=None, context=None):
        """Unit rows: n x d to n x r. `out` may be given, of any dtype and device that the context can reach.

        `context` is the one that the model was made with, or the CPU.
        """
        view, keep = matrix_of(features, "features")
        if out is None:
            out = new_output((view.rows, self.r), view)
        target, keep_out = output_of(out, "out")
        code = SIDES[side] if side in ("x", "y") else pick("side", side, SIDES)
        self._slots(context).call(lib.unicon_model_encode, (self._pointer, code, view, target),
                                  work=view.rows * view.cols * self.r)
        return out

    def similarity(self, x, y, context=None):
        """Cosines of all pairs, n_x x n_y."""
        (a, keep_a), (b, keep_b) = matrix_of(x, "x"), matrix_of(y, "y")
        out = new_output((a.rows, b.rows), a, b)
        work = a.rows * b.rows * self.r + (a.rows * a.cols + b.rows * b.cols) * self.r
        self._slots(context).call(lib.unicon_model_similarity, (self._pointer, a, b, output_of(out)[0]), work=work)
        return out

    def encoder(self, side):
        """The encoder matrix of a linear model, r x d, in float64."""
        code = pick("side", side, SIDES)
        out = np.empty((self.r, self.d2 if code else self.d1))
        self._slots(None).call(lib.unicon_model_encoder, (self._pointer, code, output_of(out)[0]))
        return out

    def bias(self, side):
        """The bias b of a linear model, r values in float64, where the encoder matrix is F: embeddings are F x + b, divided by
        its length. 0 where no mean is taken out."""
        code = pick("side", side, SIDES)
        out = np.empty((self.r, 1))
        self._slots(None).call(lib.unicon_model_bias, (self._pointer, code, output_of(out)[0]))
        return out[:, 0]

    def save(self, path):
        """Writes a safetensors file: to a path, or to a file that is open for binary writing."""
        if hasattr(path, "write"):
            _write(path, self.to_bytes())
        else:
            self._slots(None).call(lib.unicon_model_save, (self._pointer, file_name("path", path)))

    def to_bytes(self):
        """The bytes that save() writes; equal models give equal bytes."""
        size = ctypes.c_int64()
        check(lib.unicon_model_to_bytes(self._pointer, None, 0, size))
        buffer = ctypes.create_string_buffer(size.value)
        check(lib.unicon_model_to_bytes(self._pointer, buffer, size.value, size))
        return buffer.raw

    @classmethod
    def from_bytes(cls, data, context=None):
        """A model from the bytes of to_bytes() or of a model file. They are checked whole."""
        try:
            handle, data = ctypes.c_void_p(), bytes(memoryview(data))
        except TypeError:
            raise TypeError(f"data: expected bytes, got {type(data).__name__}") from None
        check(lib.unicon_model_from_bytes(data, len(data), handle))
        return cls(context, handle)


def _write(file, data):
    try:
        written = file.write(data)
    except TypeError:
        raise TypeError(f"path: expected a file open for binary writing, got {file!r}") from None
    if written is not None and written != len(data):
        raise OSError(f"path: {file!r} took {written} of {len(data)} bytes")


def load(path, context=None):
    """Reads a model from a path, or from a file that is open for binary reading."""
    if not hasattr(path, "read"):
        handle = ctypes.c_void_p()
        (context or default_context())._slots.call(lib.unicon_model_load, (file_name("path", path), handle))
        return Model(context, handle)
    data = path.read()
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"path: expected a file open for binary reading, got {path!r}")
    return Model.from_bytes(data, context)
