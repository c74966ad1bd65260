"""Ranks that are processes of the caller's, as the library's communicator."""

import ctypes

from . import _abi
from ._library import Error


class Ranks:
    """A group of ranks as the library calls it, and what was raised in it.

    A group has ``rank``, ``size``, ``allgather(sent, received)`` and ``send_recv(sent, to, received, source)``: buffers of bytes in
    host memory, of which `received` is filled when they return. They raise where another rank is gone, and wait for none for ever.
    """

    def __init__(self, group):
        if not hasattr(group, "send_recv"):
            from .torch import group as of_torch

            group = of_torch(group)
        self.size, self.raised = group.size, None

        def guarded(function):
            def call(*arguments):
                try:
                    function(*arguments)
                    return 0
                except BaseException as e:
                    self.raised = e
                    return 1

            return call

        @guarded
        def allgather(_user, sent, received, n, _device, _stream):
            group.allgather(_bytes(sent, n), _bytes(received, n * group.size))

        @guarded
        def send_recv(_user, sent, n, to, received, m, source, _device, _stream):
            group.send_recv(_bytes(sent, n), to, _bytes(received, m), source)

        # Sums are made of the other two.
        self._functions = _abi.AllReduceFn(lambda *_: 1), _abi.AllGatherFn(allgather), _abi.SendRecvFn(send_recv)
        self.raw = _abi.Communicator(group.rank, group.size, *self._functions, None)

    def explain(self, error):
        """Raises a failed call's error again, with what was raised in a callback as its cause, if something was."""
        raised, self.raised = self.raised, None
        if raised is not None:
            raise Error(error.status, f"{error}: {type(raised).__name__}: {raised}") from raised


def _bytes(address, n):
    return (ctypes.c_char * n).from_address(address) if n else b""
