"""The loaded library: failed calls as exceptions, and handles that are destroyed once."""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections.abc import Mapping
from typing import Any, Callable, NoReturn, Optional, TypeVar

from . import _abi

lib = _abi.load()
log = logging.getLogger("unicon_align")
T = TypeVar("T")


class Error(RuntimeError):
    """A call of the library that failed.

    Attributes
    ----------
    status : int
        The code of ``unicon.h``: 1 invalid argument, 2 unsupported, 3 out of memory, 4 no device, 5 CUDA, 6 numerical, 7 cancelled,
        8 communicator, 9 input or output, 10 bad file, 11 busy, 12 a fault of the library, 13 a report without the value.
    """

    def __init__(self, status: int, text: str) -> None:
        name = lib.unicon_status_string(status).decode()
        super().__init__(text if text.startswith(name) else f"{name}: {text}")
        self.status, self._text = status, text

    def __reduce__(self) -> tuple[type[Error], tuple[int, str]]:
        return type(self), (self.status, self._text)


class Cancelled(Error):
    """The call was cancelled: by ``Context.cancel()``, or by a progress function that returned False."""


def check(status: int, context: Optional[ctypes.c_void_p] = None) -> None:
    """Raises what a call on a context (or, for None, any call of this thread) says of its failure."""
    if status == 0:
        return
    length = lib.unicon_last_error(context, None, 0)
    buffer = ctypes.create_string_buffer(length + 1)
    lib.unicon_last_error(context, buffer, length + 1)
    raise (Cancelled if status == 7 else Error)(status, buffer.value.decode(errors="replace"))


def pick(name: str, value: Any, choices: Mapping[str, T]) -> T:
    """What a name stands for."""
    try:
        return choices[value]
    except (KeyError, TypeError):
        raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}") from None


class Handle:
    """A handle of the library. Objects that share it hold this one, so that it is destroyed once, after the last of them."""

    __slots__ = ("pointer", "pid", "__weakref__")

    def __init__(self, pointer: ctypes.c_void_p, destroy: Callable[[ctypes.c_void_p], Any]) -> None:
        self.pointer, self.pid = pointer, os.getpid()
        weakref.finalize(self, _destroy, destroy, pointer, self.pid)

    def __copy__(self) -> Handle:
        return self

    def __deepcopy__(self, memo: Any) -> Handle:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("handles of libunicon cannot be pickled")


def _destroy(function: Callable[[ctypes.c_void_p], Any], pointer: ctypes.c_void_p, pid: int) -> None:
    # Threads do not survive a fork: in the child nothing may wait for those of the parent.
    if os.getpid() == pid:
        function(pointer)


def file_name(name: str, path: Any) -> bytes:
    """A path as the library takes it."""
    try:
        out = os.fsencode(os.fspath(path))
    except TypeError:
        raise TypeError(f"{name}: expected a path or a binary file object, got {type(path).__name__}") from None
    if b"\0" in out:
        raise ValueError(f"{name}: expected a path without null characters, got {path!r}")
    return out
