"""The data set that comes with the package."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Digits(NamedTuple):
    """Halves of 1,797 images of handwritten digits, 8 x 8 pixels (Alpaydin and Kaynak 1998, UCI, CC BY 4.0)."""

    left: npt.NDArray[np.uint8]
    """1797 x 32: the left four columns of every image, values 0 to 16."""
    right: npt.NDArray[np.uint8]
    """1797 x 32: the right four columns."""
    labels: npt.NDArray[np.int64]
    """1797 values: the digit."""


def digits() -> Digits:
    """Paired features to try things on: the left and the right halves of handwritten digits."""
    here = pathlib.Path(__file__).parent
    # In a wheel; in a checkout they are those of the Rust library.
    folder = next(f for f in (here / "digits", here.parents[1] / "data/digits_halves") if f.is_dir())

    def part(name: str) -> Any:
        return np.load(folder / f"{name}.npy")

    return Digits(part("left"), part("right"), part("labels"))
