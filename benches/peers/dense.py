#!/usr/bin/env python3
"""Dense S(gamma) and C = X^T S Y of the clip loss, as one writes them in NumPy (and PyTorch where it is installed),
beside `unicon bench` in the same run.

    python3 benches/peers/dense.py [--unicon target/release/unicon] [--sizes 512,1024,2048,4096,8192] [--json out.json]

float32, r = 128, d = 512/384, tau = 0.07, one-to-one. Seconds are the median of `--repeat` runs after a warm-up; memory is
the n x n part (bytes of arrays alive at once), which ours does not have.
"""
import argparse
import json
import statistics
import subprocess
import time

import numpy as np

R, D1, D2, TAU = 128, 512, 384, 0.07


def data(n):
    rng = np.random.default_rng(0)
    unit = lambda z: (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    normal = lambda d: rng.standard_normal((n, d), dtype=np.float32)
    return unit(normal(R)), unit(normal(R)), normal(D1), normal(D2)


def numpy_step(zx, zy, x, y):
    """S = (I - (P + Q)/2)/n with the row and column softmax P and Q; then X^T S Y."""
    n = len(zx)
    e = np.exp((zx @ zy.T - 1.0) / np.float32(TAU))
    s = e * (-0.5 / (n * e.sum(1, keepdims=True))) + e * (-0.5 / (n * e.sum(0, keepdims=True)))
    s[np.arange(n), np.arange(n)] += np.float32(1.0 / n)
    return x.T @ (s @ y)


def torch_step(zx, zy, x, y):
    import torch

    s = (zx @ zy.T) / TAU
    w = -(torch.softmax(s, 1) + torch.softmax(s, 0)) / (2 * len(zx))
    w.diagonal().add_(1.0 / len(zx))
    return x.T @ (w @ y)


def median_seconds(step, repeat):
    step()
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def unicon_seconds(program, n, repeat):
    command = [program, "bench", "--json", "--n", str(n), "--rank", str(R), "--d1", str(D1), "--d2", str(D2)]
    out = json.loads(subprocess.run(command + ["--repeat", str(repeat)], check=True, capture_output=True).stdout)
    rows = {row["name"]: row for row in out["rows"] if row["n"] == n}
    return rows["pass 1"]["seconds"] + rows["pass 2"]["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unicon", default="target/release/unicon")
    parser.add_argument("--sizes", default="512,1024,2048,4096,8192")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json")
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        torch = None
    rows = []
    for n in map(int, args.sizes.split(",")):
        arrays = data(n)
        row = {"n": n, "numpy": median_seconds(lambda: numpy_step(*arrays), args.repeat)}
        if torch:
            tensors = [torch.from_numpy(a) for a in arrays]
            row["torch"] = median_seconds(lambda: torch_step(*tensors), args.repeat)
        row["unicon"] = unicon_seconds(args.unicon, n, args.repeat)
        row["dense_bytes"] = 3 * 4 * n * n
        rows.append(row)
        peers = [k for k in ("numpy", "torch") if k in row]
        times = ", ".join(f"{k} {row[k]:.4f} s" for k in peers + ["unicon"])
        print(f"n = {n}: {times}; " + ", ".join(f"{row[k] / row['unicon']:.2f} x faster than {k}" for k in peers))
    if args.json:
        with open(args.json, "w") as out:
            json.dump({"r": R, "d1": D1, "d2": D2, "tau": TAU, "rows": rows}, out, indent=1)


if __name__ == "__main__":
    main()
