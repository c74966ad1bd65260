"""Losses of one's own: psi and phi as functions of arrays."""

from __future__ import annotations

import ctypes
from typing import Any, Callable, NoReturn, Optional

import numpy as np
import numpy.typing as npt

from . import _abi
from ._library import Error, check, lib

Function = Callable[[npt.NDArray[np.float64]], tuple[npt.ArrayLike, npt.ArrayLike]]


class Family:
    """Any psi and phi of the unified loss (the paper's Eq. 2), for ``loss(family, nu=..., eps_pos=..., eps_neg=...)``.

    ``L_x = 1/(2 n_x) sum_i 1/|P(i)| sum_{k in P(i)} phi(u_ik)`` with
    ``u_ik = eps_pos psi((1 - nu) s_ik) + sum_{j not in P(i)} eps_neg psi(s_ij - nu s_ik)``, and the same over columns. The cost is that of
    evaluating psi once a pass for every positive pair and every negative of its row, and of its column. On the CPU only.

    Parameters
    ----------
    psi, phi : callable
        Called with a float64 array of at most 32,768 arguments; returns the values and the derivatives, each an array as long as the
        arguments, or a number that stands for all of them. All must be finite. Calls come from threads of the library, one at a time
        unless ``concurrent``. What a function raises, the call that needed it raises.
    name : str
        What models record of it.
    concurrent : bool
        Whether several threads may be within the functions at once: for functions that release the GIL.

    Examples
    --------
    A squared hinge of margin 0.2 with phi = log(1 + u)::

        def psi(t):
            hinge = np.maximum(t + 0.2, 0)
            return hinge**2, 2 * hinge

        family = unicon_align.Family(psi, lambda u: (np.log1p(u), 1 / (1 + u)), name="squared hinge")
        model, info = context.fit(x, y, 16, loss=unicon_align.loss(family, nu=1.5))
    """

    def __init__(self, psi: Function, phi: Function, *, name: str = "custom", concurrent: bool = False) -> None:
        for what, function in (("psi", psi), ("phi", phi)):
            if not callable(function):
                raise TypeError(f"{what}: expected a function of an array, got {type(function).__name__}")
        self.psi, self.phi, self.name = psi, phi, name
        self._raised: Optional[BaseException] = None
        self._raw = raw = _abi.Family()
        check(lib.unicon_family_init(raw, ctypes.sizeof(raw)))
        self._kept = name.encode(), self._callback("psi", psi), self._callback("phi", phi)
        raw.name, raw.psi, raw.phi = self._kept
        raw.concurrent = int(bool(concurrent))

    def __repr__(self) -> str:
        return f"unicon_align.Family({self.name!r})"

    def __copy__(self) -> Family:
        return self

    def __deepcopy__(self, memo: Any) -> Family:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Family cannot be pickled: its functions are called by the library of this process")

    def _callback(self, what: str, function: Function) -> Any:
        def call(at: int, value: int, derivative: int, count: int, _user: Any) -> int:
            try:
                given = [np.ctypeslib.as_array((ctypes.c_double * count).from_address(p)) for p in (at, value, derivative)]
                # A copy: the library's array does not outlive the call.
                answer = function(given[0].copy())
                if not isinstance(answer, (tuple, list)) or len(answer) != 2:
                    raise TypeError(f"{what}: expected values and derivatives, got {type(answer).__name__}")
                for which, out, got in zip(("values", "derivatives"), given[1:], answer):
                    array = np.asarray(got, dtype=np.float64)
                    if array.shape not in ((), (count,)):
                        raise ValueError(f"{what}: expected {count} {which}, got shape {array.shape}")
                    out[...] = array
            except BaseException as e:  # noqa: B036 - nothing may pass through C
                self._raised = e
                return 1
            return 0

        return _abi.FamilyFn(call)

    def _raise(self, error: Error) -> None:
        """Raises what a function raised, from the error that the library made of it."""
        raised, self._raised = self._raised, None
        if raised is not None:
            raise raised from error


def family_of(arguments: tuple[Any, ...]) -> Optional[Family]:
    """The family that a call with these arguments asks, if any."""
    for argument in arguments:
        found = getattr(argument, "own_family", None)
        if isinstance(found, Family):
            return found
    return None
