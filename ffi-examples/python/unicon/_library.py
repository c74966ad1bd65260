"""The loaded library: failed calls as exceptions, and handles that are destroyed once."""

import ctypes
import os
import weakref

from . import _abi

lib = _abi.load()


class Error(RuntimeError):
    """A failed call. ``status`` is the code of unicon.h."""

    def __init__(self, status, text):
        name = lib.unicon_status_string(status).decode()
        super().__init__(text if text.startswith(name) else f"{name}: {text}")
        self.status, self._text = status, text

    def __reduce__(self):
        return type(self), (self.status, self._text)


class Cancelled(Error):
    """The call was cancelled."""


def check(status, context=None):
    """Raises what a call on a context (or, for None, of this thread) says of its failure."""
    if status == 0:
        return
    length = lib.unicon_last_error(context, None, 0)
    buffer = ctypes.create_string_buffer(length + 1)
    lib.unicon_last_error(context, buffer, length + 1)
    raise (Cancelled if status == 7 else Error)(status, buffer.value.decode(errors="replace"))


def pick(name, value, choices):
    """The code of a name."""
    try:
        return choices[value]
    except (KeyError, TypeError):
        raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}") from None


class Handle:
    """A handle of the library. Objects that share it hold this one, so that it is destroyed once, after the last of them."""

    __slots__ = ("pointer", "pid", "__weakref__")

    def __init__(self, pointer, destroy):
        self.pointer, self.pid = pointer, os.getpid()
        weakref.finalize(self, _destroy, destroy, pointer, self.pid)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        raise TypeError("handles of libunicon cannot be pickled")


def _destroy(function, pointer, pid):
    # Threads do not survive a fork: in the child nothing may wait for those of the parent.
    if os.getpid() == pid:
        function(pointer)


def file_name(name, path):
    """A path as the library takes it."""
    try:
        out = os.fsencode(os.fspath(path))
    except TypeError:
        raise TypeError(f"{name}: expected a path or a binary file object, got {type(path).__name__}") from None
    if b"\0" in out:
        raise ValueError(f"{name}: expected a path without null characters, got {path!r}")
    return out
