#!/usr/bin/env python3
"""S(gamma) and C = X^T S Y of the clip loss on the CPU: NumPy and PyTorch, dense and in chunks of rows, float32 and bfloat16,
beside `unicon bench`, all in one run.

    python3 benches/peers/cpu.py [--unicon target/release/unicon] [--sizes 512,2048,8192,32768] [--json out.json]

r = 128, d = 512/384, tau = 0.07, one-to-one. Seconds are the best of `--repeat` runs after a warm-up, of every method in a
process of its own; memory is what a method's process grew by while it ran. Methods take turns, so that a machine that slows
down slows all of them. What would need more than `--most-memory` bytes is left out, and so are peers that are not installed.
"""
import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time

R, D1, D2, TAU = 128, 512, 384, 0.07
CHUNK = 1024


def data(n):
    import numpy as np

    rng = np.random.default_rng(0)
    unit = lambda z: (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    normal = lambda d: rng.standard_normal((n, d), dtype=np.float32)
    return unit(normal(R)), unit(normal(R)), normal(D1), normal(D2)


def numpy_dense(zx, zy, x, y):
    """S = (I - (P + Q)/2)/n with the row and column softmax P and Q; then X^T S Y."""
    import numpy as np

    n = len(zx)
    e = np.exp((zx @ zy.T - 1.0) / np.float32(TAU))
    s = e * (-0.5 / (n * e.sum(1, keepdims=True))) + e * (-0.5 / (n * e.sum(0, keepdims=True)))
    s[np.arange(n), np.arange(n)] += np.float32(1.0 / n)
    return x.T @ (s @ y)


def torch_dense(zx, zy, x, y):
    import torch

    s = (zx @ zy.T) / TAU
    w = -(torch.softmax(s, 1) + torch.softmax(s, 0)) / (2 * len(zx))
    w.diagonal().add_(1.0 / len(zx))
    return x.T @ (w @ y)


def torch_chunked(zx, zy, x, y):
    """The same without an n x n matrix: sums of rows and columns first, then weights, some rows at a time."""
    import torch

    n = len(zx)
    rows, cols = torch.empty(n), torch.zeros(n)
    for i in range(0, n, CHUNK):
        e = torch.exp(((zx[i : i + CHUNK] @ zy.T).float() - 1.0) / TAU)
        rows[i : i + CHUNK] = e.sum(1)
        cols += e.sum(0)
    alpha, beta = -0.5 / (n * rows), -0.5 / (n * cols)
    c = torch.zeros(x.shape[1], y.shape[1])
    for i in range(0, n, CHUNK):
        w = torch.exp(((zx[i : i + CHUNK] @ zy.T).float() - 1.0) / TAU)
        w *= alpha[i : i + CHUNK, None] + beta
        w.diagonal(i).add_(1.0 / n)
        c += (x[i : i + CHUNK].T @ (w.to(y.dtype) @ y)).float()
    return c


def peer(step, dtype=None):
    """What runs a step on `n` pairs in a type."""

    def prepare(n):
        arrays = data(n)
        if dtype:
            import torch

            torch.set_num_threads(int(os.environ["THREADS"]))
            arrays = [torch.from_numpy(a).to(getattr(torch, dtype)) for a in arrays]
        return lambda: step(*arrays)

    return prepare


PEERS = {
    "numpy dense": peer(numpy_dense),
    "torch f32 dense": peer(torch_dense, "float32"),
    "torch f32 chunked": peer(torch_chunked, "float32"),
    "torch bf16 dense": peer(torch_dense, "bfloat16"),
    "torch bf16 chunked": peer(torch_chunked, "bfloat16"),
}
OURS = {"unicon f32": "f32", "unicon bf16": "bf16"}

PRODUCTS = """
import json, os, time
import numpy as np
n, out = 2048, {}
def best(f):
    f()
    times = []
    for _ in range(10):
        begin = time.perf_counter(); f(); times.append(time.perf_counter() - begin)
    return 2 * n**3 / min(times)
a, b = np.random.rand(n, n).astype(np.float32), np.random.rand(n, n).astype(np.float32)
out["numpy f32"] = best(lambda: a @ b)
try:
    import torch
    torch.set_num_threads(int(os.environ["THREADS"]))
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
        s, t = torch.from_numpy(a).to(dtype), torch.from_numpy(b).to(dtype)
        out["torch " + name] = best(lambda: s @ t)
except ImportError:
    pass
print(json.dumps(out))
"""


def one(name, n, repeat):
    """Runs one peer in this process."""
    step = PEERS[name](n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return {"seconds": min(times), "bytes": grown * 1024}


def output(args, *command):
    threads = str(args.threads)
    names = ("THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = dict(os.environ, **{name: threads for name in names})
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env).stdout)


def bench(args, precision, n, repeat):
    shape = ["--rank", str(R), "--d1", str(D1), "--d2", str(D2)]
    session = ["--json", "--threads", str(args.threads), "--precision", precision]
    return output(args, args.unicon, "bench", *session, "--n", str(n), *shape, "--repeat", str(repeat))


def run(args, name, n):
    if name in PEERS:
        repeat = ["--repeat", str(args.repeat)]
        return output(args, sys.executable, __file__, "--one", name, "--sizes", str(n), *repeat)
    out = bench(args, OURS[name], n, args.repeat)
    rows = {row["name"]: row for row in out["rows"] if row["n"] == n}
    first, second = rows["pass 1"], rows["pass 2"]
    return {
        "seconds": first["min"] + second["min"],
        "pass_1": first["min"],
        "pass_2": second["min"],
        # Beside the inputs, as for the others.
        "bytes": max(second["peak_bytes"] - 4 * n * (2 * R + D1 + D2), 0),
        "device": out["device"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unicon", default="target/release/unicon")
    parser.add_argument("--sizes", default="512,1024,2048,4096,8192,16384,32768")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--most-memory", type=float, default=12e9)
    parser.add_argument("--json")
    parser.add_argument("--one", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = [int(n) for n in args.sizes.split(",")]
    if args.one:
        print(json.dumps(one(args.one, sizes[0], args.repeat)))
        return
    torch = importlib.util.find_spec("torch") is not None
    names = [name for name in PEERS if torch or not name.startswith("torch")] + list(OURS)
    rates = output(args, sys.executable, "-c", PRODUCTS)
    rates["unicon f32"] = bench(args, "f32", 256, 1)["product_rate"]
    print("products of 2,048 cubed, GFLOP/s: " + ", ".join(f"{k} {v / 1e9:.0f}" for k, v in rates.items()))
    print("\n| n | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    rows = []
    for n in sizes:
        row = {"n": n}
        for name in names:
            if "dense" not in name or 16 * n * n <= args.most_memory:
                row[name] = run(args, name, n)
        rows.append(row)
        cell = lambda r: f"{r['seconds']:.4f} s, {r['bytes'] / 1e6:.0f} MB" if r else ""
        print(f"| {n:,} | " + " | ".join(cell(row.get(name)) for name in names) + " |", flush=True)
    if args.json:
        with open(args.json, "w") as out:
            shape = {"r": R, "d1": D1, "d2": D2, "tau": TAU, "threads": args.threads, "chunk": CHUNK}
            json.dump({**shape, "products": rates, "rows": rows}, out, indent=1)


if __name__ == "__main__":
    main()
