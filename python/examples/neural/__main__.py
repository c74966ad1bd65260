"""Neural encoders trained four ways in equal time: do the exact global batch and the closed form help them?

    python python/examples/neural [--seeds 5] [--seconds 1] [--data DIR] [--json FILE] [--plot FILE.svg]

Each side has a small network. They are trained by
  (a) InfoNCE of mini-batches, PyTorch's own;
  (b) InfoNCE of all training pairs at once, through the library's loss layer, which needs no n x n logits;
  (c) a start in closed form (the heads by a spectral step on the untrained networks' features), then (a) or (b);
  (d) alternation: spectral steps for the heads, steps of gradient for the networks, in turn.
All learn the temperature, use AdamW with a half cosine and return the best iterate by the validation rows. Each has at most twelve settings
to choose from, which are judged on validation rows by trainings of the full time; the test rows are looked at once, with what was chosen.
Last, for fixed features, raw ones and those of a trained network: how far the closed form is from the minimum of the loss.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import pathlib
import platform
import statistics
import sys
import time
from typing import Any

import data
import methods
import torch
import unicon_align
from gap import STEPS, features, gap
from plot import Line, chart


def grid(**choices: list[Any]) -> list[methods.Setting]:
    """Every combination."""
    return [dict(zip(choices, values)) for values in itertools.product(*choices.values())]


METHODS: dict[str, list[methods.Setting]] = {
    "mini-batches": grid(rounds=[0], lr=[3e-3, 1e-3, 1e-2], batch=[256, 64], decay=[1.0, 0.0]),
    "exact global batch": grid(rounds=[0], lr=[3e-3, 1e-3, 1e-2], batch=[None], decay=[1.0, 0.0]),
    "closed-form start": grid(rounds=[1], lr=[3e-3, 1e-3], batch=[256, 64, None], decay=[1.0, 0.0]),
    "alternation": grid(rounds=[4, 16], lr=[3e-3], batch=[256, 64, None], decay=[1.0, 0.0]),
}
BASELINE = "mini-batches"
# Temperature of the fits of fixed features.
TAU = 0.07
# Shares of the time whose scores the table shows.
SHARES = (0.1, 0.25, 0.5, 1.0)
# Two-sided 95 % quantiles of Student's t with 1, 2, ... degrees of freedom.
T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093]


def interval(values: list[float]) -> tuple[float, float]:
    """The mean over seeds, and half the width of its 95 % interval (0 of one seed)."""
    k = len(values)
    if k == 1:
        return values[0], 0.0
    t = T95[k - 2] if k - 2 < len(T95) else 1.96
    return statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(k)


def shown(pair: tuple[float, float], sign: str = "") -> str:
    """A mean and its interval."""
    return f"{pair[0]:{sign}.3f} ± {pair[1]:.3f}"


class Experiment:
    """The arguments, the context and what follows from them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.set_num_threads(args.threads)
        self.context = unicon_align.Context(n_threads=args.threads)
        self.clock = time.process_time if args.clock == "cpu" else time.perf_counter
        self.folder = data.folder(args.data) if args.data else None
        self.shape = methods.Shape(args.hidden, args.width, args.r)

    def split(self, seed: int) -> data.Split:
        """Rows for a seed; a folder's files are its split."""
        return self.folder if self.folder is not None else data.digits(seed)

    def trained(self, setting: methods.Setting, seed: int, test: bool) -> tuple[methods.Trace, methods.Training]:
        """One training."""
        split = self.split(seed)
        training = methods.Training(split, self.shape, setting, seed, self.context)
        return methods.run(training, split, self.args.seconds, self.args.points, self.clock, test), training

    def tuned(self, name: str) -> dict[str, Any]:
        """A method's settings with their scores on validation rows, and the best."""
        judged: list[dict[str, Any]] = []
        for setting in METHODS[name][: self.args.settings]:
            # Seeds that are not among those of the report.
            traces = [self.trained(setting, 1_000_000 + seed, test=False)[0] for seed in range(self.args.tuning_seeds)]
            judged.append({"setting": setting, "val_mrr": statistics.fmean(max(trace.val) for trace in traces)})
        best = max(judged, key=lambda j: float(j["val_mrr"]))
        print(f"{name}: {best['setting']}, the best of {len(judged)} by validation ({best['val_mrr']:.3f})", flush=True)
        return {"judged": judged, "setting": best["setting"]}

    def reported(self, setting: methods.Setting) -> dict[str, Any]:
        """A setting's scores on the test rows, for every seed."""
        traces = [self.trained(setting, seed, test=True)[0] for seed in range(self.args.seeds)]
        curves = {key: [[point[key] for point in trace.test] for trace in traces] for key in ("r1", "r5", "mrr")}
        return {"seconds": traces[0].seconds, "steps": [trace.steps for trace in traces], **curves}

    def linear(self) -> dict[str, Any]:
        """What needs no network: the library's default on the raw rows."""
        split = self.split(0)
        begin = time.perf_counter()
        model, _ = self.context.fit_best(split.train.x, split.train.y, self.args.r, positives=split.train.groups,
                                         validation=(split.val.x, split.val.y), validation_positives=split.val.groups)
        seconds = time.perf_counter() - begin
        zx, zy = model.encode(split.test.x, "x"), model.encode(split.test.y, "y")
        found = self.context.evaluate(zx, zy, [1, 5], truth=split.test.groups, resamples=0)
        recall = {f"r{k}": (found["x2y"]["recall"][k] + found["y2x"]["recall"][k]) / 2 for k in (1, 5)}
        return {"seconds": seconds, **recall}

    def gaps(self, setting: methods.Setting) -> dict[str, list[dict[str, Any]]]:
        """Fits of fixed features: the raw ones, and those of the networks that a setting trains."""
        split = self.split(0)
        _, network = self.trained(setting, 0, test=False)
        frozen = features(network.x.body, network.y.body, split)
        named = {f"raw, {split.train.x.shape[1]} and {split.train.y.shape[1]} wide": split,
                 f"of trained networks, {self.args.width} wide": frozen}
        return {name: gap(part, self.args.r, TAU, self.context, self.args.gap_steps) for name, part in named.items()}


def recall_table(found: dict[str, Any], seconds: float) -> str:
    """Markdown: test recall of each method over the seeds."""
    out = ["| method | " + " | ".join(f"R@1 after {share * seconds:.3g} s" for share in SHARES) + f" | less {BASELINE} | R@5 | steps |",
           "|---" * (len(SHARES) + 4) + "|"]
    for name, result in found.items():
        points = len(result["seconds"])
        cells = [shown(interval([curve[max(round(share * points), 1) - 1] for curve in result["r1"]])) for share in SHARES]
        paired = interval([a[-1] - b[-1] for a, b in zip(result["r1"], found[BASELINE]["r1"])])
        cells += ["" if name == BASELINE else shown(paired, "+"), shown(interval([curve[-1] for curve in result["r5"]])),
                  f"{statistics.median(result['steps']):.0f}"]
        out.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(out)


def gap_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: loss and recall of fits of fixed features."""
    out = ["| fit | loss | above the least | test R@1 | seconds |", "|---|---|---|---|---|"]
    out += [f"| {row['fit']} | {row['loss']:.4f} | {row['above']:.1%} | {row['r1']:.3f} | {row['seconds']:.2f} |" for row in rows]
    return "\n".join(out)


def jump_table(rows: list[dict[str, float]]) -> str:
    """Markdown: what each spectral step of the alternation did."""
    out = ["| spectral step | loss before | after | validation MRR before | after |", "|---|---|---|---|---|"]
    out += [f"| {k + 1} | {row['loss_before']:.3f} | {row['loss_after']:.3f} | {row['val_mrr_before']:.3f} | {row['val_mrr_after']:.3f} |"
            for k, row in enumerate(rows)]
    return "\n".join(out)


def plotted(found: dict[str, Any], title: str) -> str:
    """The chart of test recall against time."""
    lines = []
    for name, result in found.items():
        bands = [interval(list(at)) for at in zip(*result["r1"])]
        lines.append(Line(name, result["seconds"], [m for m, _ in bands], [m - h for m, h in bands], [m + h for m, h in bands]))
    return chart(title, "seconds of training", "Recall@1 on test rows, both ways", lines)


def machine() -> dict[str, Any]:
    """What it ran on."""
    info = pathlib.Path("/proc/cpuinfo")
    models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return {"processor": models[0] if models else platform.processor(), "cores": os.cpu_count(), "python": platform.python_version(),
            "torch": torch.__version__, "unicon_align": unicon_align.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="DIR", help="your own pairs instead of the digits: {train,val,test}_{x,y}.npy, for many-to-many "
                        "pairs also _gx.npy and _gy.npy, integer ids of rows that match where they are equal")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each method that are reported (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="time of a training (1)")
    parser.add_argument("--tuning-seeds", type=int, default=1, help="trainings of each setting that choose (1)")
    parser.add_argument("--settings", type=int, default=12, help="settings of each method that are tried, at most (12)")
    parser.add_argument("--points", type=int, default=20, help="times at which an iterate is judged (20)")
    parser.add_argument("--r", type=int, default=16, help="dimension of the embeddings (16)")
    parser.add_argument("--hidden", type=int, default=256, help="hidden units (256)")
    parser.add_argument("--width", type=int, default=64, help="features under the head (64)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of PyTorch and of the library (all cores)")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: CPU time of all threads, for machines with other work")
    parser.add_argument("--gap-steps", type=int, default=STEPS,
                        help=f"steps of L-BFGS towards the minimum of fixed features, at most; 0: no such fits ({STEPS})")
    parser.add_argument("--json", metavar="FILE", help="everything, every seed")
    parser.add_argument("--plot", metavar="FILE", help="recall against time, SVG")
    args = parser.parse_args()
    for name in ("seeds", "tuning_seeds", "settings", "points", "r", "hidden", "width", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1, got {getattr(args, name)}")
    if not args.seconds > 0:
        parser.error(f"--seconds: expected more than 0, got {args.seconds}")
    begin = time.perf_counter()
    experiment = Experiment(args)
    # Threads and kernels are there before anything is timed.
    warm = data.digits(0)
    for settings in METHODS.values():
        methods.Training(warm, experiment.shape, settings[0], 0, experiment.context).step(0.0)

    tuned = {name: experiment.tuned(name) for name in METHODS}
    found = {name: experiment.reported(tuned[name]["setting"]) for name in METHODS}
    linear = experiment.linear()
    title = f"{pathlib.Path(args.data).name if args.data else 'digits'}, {args.seconds:g} s of training, {args.seeds} seeds"
    print(f"\n{title}, mean ± 95 % interval over seeds\n\n{recall_table(found, args.seconds)}\n")
    print(f"Without a network, fit_best of the raw rows: R@1 {linear['r1']:.3f}, R@5 {linear['r5']:.3f}, {linear['seconds']:.2f} s\n")

    training = methods.Training(experiment.split(0), experiment.shape, tuned["alternation"]["setting"], 0, experiment.context)
    jumped = methods.jumps(training, experiment.split(0), args.seconds, experiment.clock)
    print(f"Spectral steps of the alternation, seed 0: InfoNCE of all training pairs\n\n{jump_table(jumped)}\n")

    gaps = experiment.gaps(tuned[BASELINE]["setting"]) if args.gap_steps else {}
    for name, rows in gaps.items():
        print(f"Fixed features: {name}, r {args.r}, clip at tau {TAU}\n\n{gap_table(rows)}\n")
    print(f"{time.perf_counter() - begin:.0f} s in all")

    if args.json:
        result = {"command": sys.argv[1:], "machine": machine(), "arguments": vars(args), "tuned": tuned, "methods": found,
                  "linear": linear, "spectral_steps": jumped, "gap": gaps}
        pathlib.Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    if args.plot:
        pathlib.Path(args.plot).write_text(plotted(found, title))


if __name__ == "__main__":
    main()
