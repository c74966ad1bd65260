"""Progress of a fit: a bar of tqdm where that is installed, else lines of the logger "unicon_align"."""

from __future__ import annotations

from typing import Any, Callable, Optional, Union

from ._library import log

Progress = Union[None, bool, Callable[[dict[str, Any]], Any]]
# UNICON_PHASE_ITERATION: updates and steps; the other phases are panels of rows within one.
_ITERATION = 3


class Bar:
    """Shows the steps of a fit."""

    def __init__(self) -> None:
        self._bar: Any = None
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return
        self._bar = tqdm(desc="fit", unit="step")

    def __call__(self, p: dict[str, Any]) -> None:
        if p["phase"] != _ITERATION:
            return
        if self._bar is None:
            log.info("fit: step %d of %d, loss %.4g, %.1f s", p["done"], p["total"], p["loss"], p["seconds"])
            return
        self._bar.total = p["total"] or None
        self._bar.n = p["done"]
        self._bar.set_postfix(loss=f"{p['loss']:.4g}")

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def reporter(progress: Progress) -> Optional[Callable[[dict[str, Any]], Any]]:
    """What a fit calls."""
    if progress is None or progress is False:
        return None
    if progress is True:
        return Bar()
    if not callable(progress):
        raise TypeError(f"progress: expected a function of a dict, or True for a bar, got {type(progress).__name__}")
    return progress
