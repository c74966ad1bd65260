"""A program that mypy --strict checks against the package's types; it is not run."""

from typing import Any

import numpy as np
import numpy.typing as npt
import unicon_align
from unicon_align.sklearn import Alignment
from unicon_align.torch import ClipLoss

x = np.zeros((40, 8), np.float32)
context = unicon_align.Context("cpu", n_threads=2)
model, info = context.fit_best(x, x.astype(np.float64), "auto", loss=unicon_align.loss("clip", tau=0.1), progress=True)
best: unicon_align.Model = model
history: npt.NDArray[np.float64] = info.loss
z: npt.NDArray[Any] = model.encode(x, "x")
out: npt.NDArray[np.float32] = model.encode(x, "x", out=np.zeros((40, 4), np.float32))
scores, indices = context.search(z, [[1.0, 2.0]], 3)
first: np.int64 = indices[0, 0]
share: float = context.recall(z, z, [1])["x2y"][1]
data: bytes = model.to_bytes()
fitted: Alignment = Alignment(4).fit(x, x)
criterion: ClipLoss = ClipLoss(local_loss=True)
