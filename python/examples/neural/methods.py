"""Ways to train the same pair of networks, a step at a time."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Callable

import numpy as np
import torch
import unicon_align
from data import Batches, Part, Split
from unicon_align.torch import ContrastiveLoss

Setting = dict[str, Any]
# CLIP's limit of 1/tau.
MOST_SCALE = 100.0
# Shrinkage of the whitening before a spectral step.
WHITEN = 0.1


@dataclass
class Shape:
    """The networks of both sides: input -> hidden -> width features -> r."""

    hidden: int
    width: int
    r: int


class Encoder(torch.nn.Module):
    """One side: a body that makes features, and a linear head on them."""

    def __init__(self, d: int, shape: Shape) -> None:
        super().__init__()
        nn = torch.nn
        self.body = nn.Sequential(nn.Linear(d, shape.hidden), nn.ReLU(), nn.Linear(shape.hidden, shape.width), nn.ReLU())
        self.head = nn.Linear(shape.width, shape.r)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Unit embeddings."""
        return torch.nn.functional.normalize(self.head(self.body(rows)), dim=1)


class Training:
    """Both networks, a temperature that is learned as CLIP's, and AdamW with a half cosine of the time.

    A setting has the learning rate `lr`, the weight decay `decay`, `batch` (pairs a step; None: all), and `rounds`, the number of spectral
    steps: none trains by gradients alone, 1 starts from the closed form, more alternate with it at equal shares of the time.
    """

    def __init__(self, split: Split, shape: Shape, setting: Setting, seed: int, context: unicon_align.Context) -> None:
        torch.manual_seed(seed)
        self.train, self.setting, self.context = split.train, setting, context
        self.x, self.y = Encoder(split.train.x.shape[1], shape), Encoder(split.train.y.shape[1], shape)
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        networks = [*self.x.parameters(), *self.y.parameters()]
        groups = [{"params": networks, "weight_decay": setting["decay"]}, {"params": [self.log_scale], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=setting["lr"])
        self.batches = Batches(split.train, setting["batch"], seed) if setting["batch"] else None
        self.criterion = ContrastiveLoss("clip", context, convention="open_clip")
        self.solved = 0

    def scale(self) -> torch.Tensor:
        """1/tau."""
        return self.log_scale.exp().clamp(max=MOST_SCALE)

    def global_loss(self) -> torch.Tensor:
        """InfoNCE of all training pairs through the library's layer, which makes no n x n logits."""
        return self.criterion(self.x(self.train.x), self.y(self.train.y), self.train.groups, logit_scale=self.scale())

    def batch_loss(self, rows: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """InfoNCE of a mini-batch, as PyTorch has it."""
        logits = self.scale() * self.x(self.train.x[rows[0]]) @ self.y(self.train.y[rows[1]]).T
        labels = torch.arange(len(logits))
        entropy = torch.nn.functional.cross_entropy
        return (entropy(logits, labels) + entropy(logits.T, labels)) / 2

    def step(self, share: float, watch: Callable[[], None] = lambda: None) -> None:
        """A step of gradient, before it a spectral step where one is due; `share` of the time is over. `watch` is called about the latter."""
        if self.solved < self.setting["rounds"] and share >= self.solved / self.setting["rounds"]:
            watch()
            self.solve()
            self.solved += 1
            watch()
        for group in self.optimizer.param_groups:
            group["lr"] = self.setting["lr"] * (1 + math.cos(math.pi * share)) / 2
        self.optimizer.zero_grad()
        loss = self.global_loss() if self.batches is None else self.batch_loss(next(self.batches))
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def solve(self) -> None:
        """Heads in closed form: one whitened spectral update on the networks' features of all training rows."""
        heads = {"x": self.x.head, "y": self.y.head}
        features_x, features_y = self.x.body(self.train.x), self.y.body(self.train.y)
        model, _ = self.context.fit(features_x, features_y, self.x.head.out_features, positives=self.train.groups, n_iters=1,
                                    whiten=WHITEN, center="on", loss=unicon_align.loss("clip", tau=1 / self.scale().item()))
        for side, head in heads.items():
            f, b = model.encoder(side), model.bias(side)
            # Embeddings are normalised: the head keeps its size, which is what Adam's steps are measured by.
            size = float(head.weight.norm()) / float(np.linalg.norm(f))
            head.weight.copy_(torch.from_numpy(size * f))
            head.bias.copy_(torch.from_numpy(size * b))

    @torch.no_grad()
    def embed(self, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of both sides."""
        return self.x(part.x), self.y(part.y)


@dataclass
class Trace:
    """What one training gave, at equally spaced times."""

    seconds: list[float] = field(default_factory=list)
    val: list[float] = field(default_factory=list)
    """Mean reciprocal rank on the validation rows."""
    test: list[dict[str, float]] = field(default_factory=list)
    """Of the best iterate so far by validation."""
    steps: int = 0


def scores(context: unicon_align.Context, training: Training, part: Part) -> dict[str, float]:
    """Means over both directions of Recall@1, Recall@5 and the reciprocal rank; ties by expectation."""
    zx, zy = training.embed(part)
    found = context.evaluate(zx, zy, [1, 5], truth=part.groups, resamples=0)
    both = found["x2y"], found["y2x"]
    return {"r1": sum(w["recall"][1] for w in both) / 2, "r5": sum(w["recall"][5] for w in both) / 2, "mrr": sum(w["mrr"] for w in both) / 2}


def run(training: Training, split: Split, seconds: float, points: int, clock: Callable[[], float] = time.perf_counter,
        test: bool = True) -> Trace:
    """Trains for `seconds`. What judges the iterates is not counted; the test rows are looked at where `test` says so."""
    trace, used = Trace(), 0.0
    while used < seconds:
        begin = clock()
        training.step(used / seconds)
        used += clock() - begin
        trace.steps += 1
        while len(trace.val) < points and used >= seconds * (len(trace.val) + 1) / points:
            score = scores(training.context, training, split.val)["mrr"]
            if test:
                better = not trace.val or score > max(trace.val)
                trace.test.append(scores(training.context, training, split.test) if better else trace.test[-1])
            trace.val.append(score)
            trace.seconds.append(seconds * len(trace.val) / points)
    return trace


def jumps(training: Training, split: Split, seconds: float, clock: Callable[[], float] = time.perf_counter) -> list[dict[str, float]]:
    """What each spectral step of a training does: the loss of all training pairs and the validation score before and after it."""
    seen: list[dict[str, float]] = []

    def watch() -> None:
        with torch.no_grad():
            seen.append({"loss": training.global_loss().item(), "val_mrr": scores(training.context, training, split.val)["mrr"]})

    used = 0.0
    while used < seconds:
        begin, before = clock(), len(seen)
        training.step(used / seconds, watch)
        # Steps that are watched take longer than they do in `run`: they are not counted.
        used += clock() - begin if len(seen) == before else 0.0
    return [{f"{key}_{when}": at[key] for when, at in (("before", a), ("after", b)) for key in a} for a, b in zip(seen[::2], seen[1::2])]
