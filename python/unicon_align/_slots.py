"""Contexts of the library behind one Context: as many as threads that call at once, and calls that hear Ctrl-C."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import weakref
from typing import Any, Callable, Optional

from . import _abi
from ._family import family_of
from ._library import Error, Handle, check, lib

# Contexts are made for threads that call at once, each with threads of its own: not more than this; then calls wait.
_MOST = max(4, os.cpu_count() or 1)
# Work, in multiplications, that is done before anyone would press Ctrl-C. Handing it to a thread takes about 50 us.
_BRIEF = 2e8
_POLL = 0.1


class Slot:
    """A context of the library, and the thread that is at work on it."""

    __slots__ = ("handle", "_lock", "_owner", "_state", "_cancelled")

    def __init__(self, options: _abi.ContextOptions) -> None:
        pointer = ctypes.c_void_p()
        check(lib.unicon_context_create(options, pointer))
        self.handle = Handle(pointer, lib.unicon_context_destroy)
        self._lock = threading.Lock()
        self._owner: Optional[int] = None
        # A cancellation stays until a call has used it up: it must be given to calls in progress only, and not outlive them.
        # Entered again where a signal handler cancels while this thread is inside.
        self._state, self._cancelled = threading.RLock(), False

    def take(self, wait: bool) -> bool:
        """Whether it is this thread's now."""
        me = threading.get_ident()
        if self._owner == me or not self._lock.acquire(wait):
            return False
        self._owner = me
        return True

    def give(self) -> None:
        """Ends what take() began."""
        with self._state:
            self._owner = None
            if self._cancelled:
                lib.unicon_cancel_clear(self.handle.pointer)
                self._cancelled = False
        self._lock.release()

    def cancel(self) -> None:
        """Ends the call in progress, if there is one."""
        with self._state:
            if self._owner is not None:
                self._cancelled = True
                lib.unicon_cancel(self.handle.pointer)

    def run(self, function: Any, arguments: tuple[Any, ...], work: float = 0.0, relay: Optional[Relay] = None) -> None:
        """Calls `function`. Above `work` multiplications the main thread listens for signals meanwhile."""
        if (work > _BRIEF or relay) and threading.current_thread() is threading.main_thread():
            status = _listen(function, arguments, self, relay)
        else:
            status = function(*arguments)
            if relay:
                relay.end()
        try:
            check(status, self.handle.pointer)
        except Error as e:
            family = family_of(arguments)
            if family is not None:
                family._raise(e)
            raise

    def bound(self, function: Any, arguments: tuple[Any, ...], work: float = 0.0) -> None:
        """Calls a function of a handle that lives on this context, after those that are at work on it."""
        if self.handle.pid != os.getpid():
            raise Error(2, "made before fork(): make it anew in this process")
        if not self.take(True):
            raise Error(11, "called from a function that this context is calling")
        try:
            self.run(function, arguments, work)
        finally:
            self.give()


class Slots:
    """The contexts of one set of options."""

    def __init__(self, make_options: Callable[[], _abi.ContextOptions]) -> None:
        self._make, self._grow = make_options, threading.Lock()
        self._all: list[Slot] = []
        _everyone.add(self)
        self.primary()

    def primary(self) -> Slot:
        """The first."""
        return self._all[0] if self._all else self._open()

    def _open(self) -> Slot:
        with self._grow:
            slot = Slot(self._make())
            self._all.append(slot)
            return slot

    def take(self) -> Slot:
        """A context that nobody is at work on; the caller gives it back."""
        while True:
            for slot in self._all:
                if slot.take(False):
                    return slot
            if len(self._all) < _MOST:
                slot = self._open()
                if slot.take(False):
                    return slot
            else:
                slot = self._all[threading.get_ident() // 64 % len(self._all)]
                if slot.take(True):
                    return slot
                # This thread's own, which calls it: there is another, or there will be.
                slot = self._open()
                if slot.take(False):
                    return slot

    def call(self, function: Any, arguments: tuple[Any, ...], work: float = 0.0, relay: Optional[Relay] = None) -> Slot:
        """Calls `function(context, *arguments)` on a context that is free."""
        slot = self.take()
        try:
            slot.run(function, (slot.handle.pointer, *arguments), work, relay)
            return slot
        finally:
            slot.give()

    def cancel(self) -> None:
        """Stops all calls in progress."""
        for slot in list(self._all):
            slot.cancel()

    def forget(self) -> None:
        """In the child of a fork: the contexts there have no threads, and others take their place when they are needed."""
        self._all, self._grow = [], threading.Lock()


_everyone: weakref.WeakSet[Slots] = weakref.WeakSet()


def _forget_all() -> None:
    for slots in list(_everyone):
        slots.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


class Relay:
    """Carries what the library reports from the thread of a call to the one that made it, and what is raised there back."""

    def __init__(self, function: Callable[[dict[str, Any]], Any]) -> None:
        self._function, self._answer, self._replied = function, 1, threading.Event()
        self._asked: Optional[dict[str, Any]] = None
        self._wake: Optional[Callable[[], None]] = None
        self.raised: Optional[BaseException] = None

    def begin(self, wake: Callable[[], None]) -> None:
        """The thread that made the call waits for `wake`."""
        self._wake = wake

    def report(self, values: dict[str, Any]) -> int:
        """On the thread of the call: whether to cancel, 0 or 1."""
        if self._wake is None:
            return self._run(values)
        self._replied.clear()
        self._asked = values
        self._wake()
        while not self._replied.wait(_POLL):
            if self.raised is not None:
                return 1
        return self._answer

    def serve(self) -> None:
        """On the thread that made the call: answers a report."""
        if self._asked is not None:
            self._answer = self._run(self._asked)
            self._asked = None
            self._replied.set()

    def _run(self, values: dict[str, Any]) -> int:
        if self.raised is not None:
            return 1
        try:
            return 1 if self._function(values) is False else 0
        except BaseException as e:
            self.raised = e
            return 1

    def end(self) -> None:
        """Raises what the function raised."""
        if self.raised is not None:
            raise self.raised


# Signals that may wait while a thread is started; not those that a fault raises where it happens.
_SIGNALS = signal.valid_signals() - {getattr(signal, name, None) for name in
                                     ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")}


def _listen(function: Any, arguments: tuple[Any, ...], slot: Slot, relay: Optional[Relay]) -> int:
    """Calls on a thread of its own, while this one runs signal handlers; what they raise cancels the call."""
    status: list[int] = []
    thrown: list[BaseException] = []
    wake = threading.Event()

    def work() -> None:
        try:
            status.append(function(*arguments))
        except BaseException as e:
            thrown.append(e)
        finally:
            wake.set()

    if relay:
        relay.begin(wake.set)
    # No interrupt may come between the start and the loop that waits. The thread keeps the mask: signals are for this one.
    masked: Optional[set[Any]] = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    interrupt: Optional[BaseException] = None
    try:
        threading.Thread(target=work, name="unicon-call", daemon=True).start()
    except BaseException:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked or ())
        raise
    while not status and not thrown:
        try:
            if masked is not None:
                before, masked = masked, None
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            # Not for ever: an interrupt may have come before a wake-up was seen, or before the call began.
            wake.wait(_POLL)
            wake.clear()
            if relay:
                relay.serve()
        except BaseException as e:
            interrupt = interrupt or e
        if interrupt is not None:
            if relay:
                relay.raised = interrupt
            slot.cancel()
    if masked is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    if interrupt is not None:
        raise interrupt
    if thrown:
        raise thrown[0]
    if relay:
        relay.end()
    return status[0]
