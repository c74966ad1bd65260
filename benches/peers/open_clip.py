#!/usr/bin/env python3
"""Time and memory of the losses of unicon_align.torch beside open_clip's formulas in PyTorch: a forward and a backward pass.

    UNICON_LIBRARY=target/release/libunicon.so PYTHONPATH=python python3 benches/peers/open_clip.py [--sizes 4096,8192,16384] [--r 512]

Every measurement is a process of its own. `seconds` is wall time, `cpu` that of all threads, `memory` the most that the process held beyond
what it held before the first pass.
"""

import argparse
import json
import resource
import subprocess
import sys
import time


def measure(loss, n, which, r, repeat):
    import torch
    from unicon_align.torch import ClipLoss, SigLipLoss

    functional = torch.nn.functional

    def formula(image, text, scale, bias=None):
        logits = scale * image @ text.T
        if loss == "siglip":
            return -functional.logsigmoid((2 * torch.eye(len(image)) - 1) * (logits + bias)).sum() / len(image)
        labels = torch.arange(len(image))
        return (functional.cross_entropy(logits, labels) + functional.cross_entropy(scale * text @ image.T, labels)) / 2

    torch.manual_seed(0)
    z = torch.randn(n, r)
    image, text = (functional.normalize(z + 4 * torch.randn(n, r), dim=1).requires_grad_() for _ in range(2))
    parameters = [torch.tensor(50.0, requires_grad=True)] + [torch.tensor(-10.0, requires_grad=True)] * (loss == "siglip")
    criterion = formula if which == "theirs" else SigLipLoss() if loss == "siglip" else ClipLoss()
    # Threads and libraries are there before anything is measured.
    criterion(image[:256], text[:256], *parameters).backward()
    image.grad, text.grad = torch.zeros(n, r), torch.zeros(n, r)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, cpu = [], []
    for _ in range(repeat):
        wall, busy = time.perf_counter(), time.process_time()
        value = criterion(image, text, *parameters)
        value.backward()
        seconds.append(time.perf_counter() - wall)
        cpu.append(time.process_time() - busy)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"loss": value.item(), "seconds": min(seconds), "cpu": min(cpu), "memory": memory}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="4096,8192,16384")
    parser.add_argument("--r", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]), args.one[2], args.r, args.repeat)))
        return
    print("| loss | n | whose | seconds | CPU seconds | memory, MB | value |\n|---|---|---|---|---|---|---|")
    for loss in ("clip", "siglip"):
        for n in args.sizes.split(","):
            for which in ("ours", "theirs"):
                command = [sys.executable, __file__, "--r", str(args.r), "--repeat", str(args.repeat), "--one", loss, n, which]
                got = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                print(f"| {loss} | {n} | {which} | {got['seconds']:.2f} | {got['cpu']:.2f} | {got['memory']:.0f} | {got['loss']:.6f} |", flush=True)


if __name__ == "__main__":
    main()
