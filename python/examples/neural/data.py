"""Paired features in three parts: training, validation, test."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
import unicon_align

# Rows of the digits that no fit and no choice sees.
DIGITS_TEST = 297
DIGITS_VAL = 250


@dataclass
class Part:
    """Rows of both sides and who matches whom."""

    x: torch.Tensor
    """n_x x d1, float32."""
    y: torch.Tensor
    """n_y x d2, float32."""
    groups: Optional[tuple[Any, Any]] = None
    """Ids of the rows of x and of y: equal ids match. None: x_i matches y_i."""


@dataclass
class Split:
    """What trains, what chooses, what is reported."""

    train: Part
    val: Part
    test: Part


def _scaled(parts: list[tuple[Any, Any, Any]]) -> Split:
    """Float32 with the training rows' mean taken out, in units of their root mean square."""
    sides = []
    for side in range(2):
        rows = [np.asarray(p[side], dtype=np.float32) for p in parts]
        mean = rows[0].mean(axis=0)
        scale = np.sqrt(np.square(rows[0] - mean).mean())
        sides.append([torch.from_numpy((r - mean) / scale) for r in rows])
    return Split(*(Part(x, y, p[2]) for x, y, p in zip(*sides, parts)))


def digits(seed: int) -> Split:
    """Halves of the digits: the last 297 images are the test set, of the others the seed draws 250 for validation."""
    left, right, _ = unicon_align.digits()
    n = len(left)
    order = np.random.default_rng(seed).permutation(n - DIGITS_TEST)
    rows = order[DIGITS_VAL:], order[:DIGITS_VAL], np.arange(n - DIGITS_TEST, n)
    return _scaled([(left[k], right[k], None) for k in rows])


def folder(path: str) -> Split:
    """``{train,val,test}_{x,y}.npy`` of a folder; with ``_gx.npy`` and ``_gy.npy`` (ids of rows) pairs are many-to-many."""
    parts = []
    for name in ("train", "val", "test"):
        files = {key: pathlib.Path(path) / f"{name}_{key}.npy" for key in ("x", "y", "gx", "gy")}
        for key in ("x", "y"):
            if not files[key].is_file():
                raise SystemExit(f"--data: expected {files[key]}, there is no such file")
        groups = (np.load(files["gx"]), np.load(files["gy"])) if files["gx"].is_file() and files["gy"].is_file() else None
        parts.append((np.load(files["x"]), np.load(files["y"]), groups))
    return _scaled(parts)


class Batches:
    """Batches of matching pairs without end, no two of one group in a batch; each epoch in another order."""

    def __init__(self, part: Part, size: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        gx, gy = part.groups if part.groups is not None else (np.arange(len(part.x)), np.arange(len(part.y)))
        rows_x, rows_y = _rows_of(gx), _rows_of(gy)
        self._rows = [(rows_x[g], rows_y[g]) for g in rows_x if g in rows_y]
        self._one_to_one = part.groups is None
        self._size = min(size, len(self._rows))
        self._order: Any = np.empty(0, np.int64)

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        if len(self._order) < self._size:
            self._order = self._rng.permutation(len(self._rows))
        now, self._order = self._order[: self._size], self._order[self._size :]
        if self._one_to_one:
            rows = torch.from_numpy(now)
            return rows, rows
        drawn = [[side[self._rng.integers(len(side))] for side in self._rows[k]] for k in now]
        x, y = torch.tensor(drawn).T
        return x, y


def _rows_of(ids: Any) -> dict[int, Any]:
    """Rows of each id."""
    order = np.argsort(ids, kind="stable")
    values, first = np.unique(np.asarray(ids)[order], return_index=True)
    return dict(zip(values.tolist(), np.split(order, first[1:])))
