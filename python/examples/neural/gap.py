"""How far the closed form is from the best encoders of fixed features: the exact loss on the training rows, and recall on held-out ones."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import unicon_align
from data import Part, Split
from unicon_align.torch import ContrastiveLoss

# L-BFGS goes on until a step lowers the loss by less than this share, or so many steps are done.
TOLERANCE, STEPS = 1e-8, 300


def doubled(split: Split) -> Split:
    """The same in float64, with the training rows' mean taken out."""
    mean_x, mean_y = (rows.double().mean(dim=0) for rows in (split.train.x, split.train.y))
    return Split(*(Part(p.x.double() - mean_x, p.y.double() - mean_y, p.groups) for p in (split.train, split.val, split.test)))


def gap(split: Split, r: int, tau: float, context: unicon_align.Context, steps: int = STEPS) -> list[dict[str, Any]]:
    """A row for each way of fitting linear encoders: its loss, the size of the loss's gradient there, recall, seconds."""
    split = doubled(split)
    train, val = split.train, split.val
    loss = unicon_align.loss("clip", tau=tau)
    shared: dict[str, Any] = dict(positives=train.groups, loss=loss, center="off")
    held_out: dict[str, Any] = dict(validation=(val.x, val.y), validation_positives=val.groups)

    def row(name: str, fit: Any, *arguments: Any, **options: Any) -> tuple[dict[str, Any], unicon_align.Model, Any]:
        begin = time.perf_counter()
        model, info = fit(train.x, train.y, *arguments, **shared, **options)
        seconds = time.perf_counter() - begin
        value, slope = exact(model, train, tau, context)
        zx, zy = model.encode(split.test.x, "x"), model.encode(split.test.y, "y")
        found = context.evaluate(zx, zy, [1], truth=split.test.groups, resamples=0)
        recall = (found["x2y"]["recall"][1] + found["y2x"]["recall"][1]) / 2
        return {"fit": name, "loss": value, "slope": slope, "r1": recall, "seconds": seconds}, model, info

    rows = [row(f"spectral step, {n} update{'s' * (n > 1)}", context.fit, r, n_iters=n)[0] for n in (1, 2, 5)]
    step, _, info = row("", context.fit_best, r, refine=unicon_align.refine(max_steps=0), **held_out)
    rows.append({**step, "fit": f"spectral step of best (whiten {info.whiten:g}, power {info.power:g})"})
    best, model, _ = row("best", context.fit_best, r, **held_out)
    rows.append(best)
    # The exact minimum: as far down as L-BFGS goes, from the closed form, from best, and from random encoders.
    refine = unicon_align.refine(max_steps=steps, tol=TOLERANCE, memory=20)
    starts: list[tuple[str, dict[str, Any]]] = [("the spectral step", {"n_iters": 1, "whiten": 0.01}), ("best", {"n_iters": 0, "warm_start": model})]
    starts.append(("random encoders", {"n_iters": 0, "init": "random"}))
    for name, options in starts:
        found, _, info = row("", context.fit, r, refine=refine, **options)
        rows.append({**found, "fit": f"L-BFGS from {name}, {len(info.trace) - 1} steps"})
    least = min(found["loss"] for found in rows)
    return [{**found, "above": found["loss"] / least - 1} for found in rows]


def exact(model: unicon_align.Model, part: Part, tau: float, context: unicon_align.Context) -> tuple[float, float]:
    """The loss of a linear model on all pairs, in float64, and |dL/dA| |A| / L, A the encoders of whitened features."""
    criterion = ContrastiveLoss("clip", context, tau=tau)
    rows = {"x": part.x, "y": part.y}
    encoders = {side: torch.from_numpy(model.encoder(side)).requires_grad_() for side in rows}
    value = criterion(*(rows[side] @ f.T + torch.from_numpy(model.bias(side)) for side, f in encoders.items()), part.groups)
    size = 0.0
    for side, slope in zip(encoders, torch.autograd.grad(value, list(encoders.values()))):
        # F = A G^(-1/2), so that dL/dA = dL/dF G^(-1/2); what no row spans is left out.
        values, basis = torch.linalg.eigh(rows[side].T @ rows[side] / len(rows[side]))
        spanned = values > 1e-10 * values.max()
        root, basis = values[spanned].sqrt(), basis[:, spanned]
        size += float((slope @ basis / root).norm() * (encoders[side].detach() @ basis * root).norm()) ** 2
    return value.item(), size**0.5 / value.item()


def features(body_x: Any, body_y: Any, split: Split) -> Split:
    """What two networks make of the rows, frozen."""
    with torch.no_grad():
        return Split(*(Part(body_x(p.x), body_y(p.y), p.groups) for p in (split.train, split.val, split.test)))
