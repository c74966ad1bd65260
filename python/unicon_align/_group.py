"""Ranks that are processes of the caller's, as the library's communicator."""

from __future__ import annotations

import ctypes
from typing import Any, Callable, Optional

from . import _abi
from ._library import Error, check, lib


class Ranks:
    """A group of ranks as the library calls it, and what was raised in it.

    A group has ``rank``, ``size``, ``allgather(sent, received)`` and ``send_recv(sent, to, received, source)``: buffers of bytes in
    host memory, of which `received` is filled when they return. They raise where another rank is gone, and wait for none for ever.
    """

    def __init__(self, group: Any) -> None:
        if not hasattr(group, "send_recv"):
            from .torch import group as of_torch

            group = of_torch(group)
        self.size: int = group.size
        self.raised: Optional[BaseException] = None

        def guarded(function: Callable[..., None]) -> Callable[..., int]:
            def call(*arguments: Any) -> int:
                try:
                    function(*arguments)
                    return 0
                except BaseException as e:
                    self.raised = e
                    return 1

            return call

        @guarded
        def allgather(_user: Any, sent: int, received: int, n: int, _device: int, _stream: Any) -> None:
            group.allgather(_bytes(sent, n), _bytes(received, n * group.size))

        @guarded
        def send_recv(_user: Any, sent: int, n: int, to: int, received: int, m: int, source: int, _device: int, _stream: Any) -> None:
            group.send_recv(_bytes(sent, n), to, _bytes(received, m), source)

        self.raw = raw = _abi.Communicator()
        check(lib.unicon_communicator_init(raw, ctypes.sizeof(raw)))
        self._functions = _abi.AllGatherFn(allgather), _abi.SendRecvFn(send_recv)
        raw.rank, raw.size = group.rank, group.size
        raw.allgather, raw.send_recv = self._functions

    def explain(self, error: Error) -> None:
        """Raises a failed call's error again, with what was raised in a callback as its cause, if something was."""
        raised, self.raised = self.raised, None
        if raised is not None:
            raise Error(error.status, f"{error}: {type(raised).__name__}: {raised}") from raised


def _bytes(address: int, n: int) -> Any:
    return (ctypes.c_char * n).from_address(address) if n else b""
