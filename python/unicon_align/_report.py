"""Reports of fits and evaluations: values by their key."""

from __future__ import annotations

import ctypes
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from . import _abi
from ._library import Handle, check, lib

_NO_VALUE = 13


class Report:
    """A unicon_report_t, which the call that `pointer` is given to makes.

    Keys are those of ``unicon.h`` in small letters, without their prefix; absent values are None.
    """

    def __init__(self) -> None:
        self.pointer = ctypes.c_void_p()
        self._handle = Handle(self.pointer, lib.unicon_report_destroy)

    def _value(self, function: Any, key: str, out: Any) -> Any:
        status = function(self._handle.pointer, _abi.KEYS[key], out)
        if status == _NO_VALUE:
            return None
        check(status)
        return out.value

    def real(self, key: str) -> Optional[float]:
        """A real number."""
        value: Optional[float] = self._value(lib.unicon_report_real, key, ctypes.c_double())
        return value

    def integer(self, key: str) -> Optional[int]:
        """An integer."""
        value: Optional[int] = self._value(lib.unicon_report_integer, key, ctypes.c_int64())
        return value

    def series(self, key: str) -> Optional[npt.NDArray[np.float64]]:
        """A series, of any length."""
        count = ctypes.c_int64()
        status = lib.unicon_report_series(self._handle.pointer, _abi.KEYS[key], None, 0, count)
        if status == _NO_VALUE:
            return None
        check(status)
        values = np.empty(count.value)
        check(lib.unicon_report_series(self._handle.pointer, _abi.KEYS[key], values.ctypes.data, len(values), count))
        return values
