#!/usr/bin/env python3
"""The clip loss, its gradients and C = X^T S Y as PyTorch computes them, beside UniCon on the same data: values and times.

    python3 scripts/gpu_reference.py --device cuda:0 --precisions fp16,bf16,f32 [--sizes 4096,27593] [--repeat 10]
    python3 scripts/gpu_reference.py --device cuda:0 --titles FOLDER    # train_x.npy train_y.npy test_x.npy test_y.npy
    python3 scripts/gpu_reference.py --device cuda:0 --fit              # the same of made-up features, 512 and 384 wide
    python3 scripts/gpu_reference.py --device cuda:0 --roofs            # what the device sustains: products and copies

Values are compared with float64, by row chunks (NumPy where PyTorch is missing; then nothing is timed against it). The
chunked PyTorch baseline keeps no n x n matrix either: cuBLAS products with elementwise kernels between. Inf-CL and CCE are
timed where they can be imported. Prints JSON; exit code 1 when a value is beyond its limit.

Loads libunicon through python (UNICON_LIBRARY, or beside the program).
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))
TAU, R, D1, D2 = 0.07, 128, 512, 384
NAMES = {"fp16": "float16", "bf16": "bfloat16", "f32": "float32"}
# Relative Frobenius error of C against float64 at tau = 0.07, and relative error of the loss. Gradients average over fewer
# weights: four times that.
LIMITS = {"fp16": 1e-4, "bf16": 1e-2, "f32": 2e-6, "f64": 1e-12}


def pairs(n, d1=D1, d2=D2, r=R, seed=0):
    """Features with a common latent vector, and their embeddings: the latent directions, unit rows."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, r))
    sides = []
    for d in (d1, d2):
        u = np.linalg.qr(rng.standard_normal((d, r)))[0]
        x = latent @ u.T + 0.2 * rng.standard_normal((n, d))
        z = x @ u
        sides.append((x.astype(np.float32), (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)))
    (x, zx), (y, zy) = sides
    return x, y, zx, zy


def chunked(xp, x, y, zx, zy, chunk=2048, product=lambda a, b: a @ b):
    """L, C, dL/dzx, dL/dzy of the one-to-one clip loss with nu = 1, in two passes over row chunks."""
    n = len(zx)
    weight = lambda b: xp.exp((product(zx[b : b + chunk], zy.T) - 1.0) / TAU)
    starts = range(0, n, chunk)
    rows, cols = [], 0.0
    for b in starts:
        e = weight(b)
        rows.append(e.sum(1))
        cols = cols + e.sum(0)
    row = xp.concatenate(rows) if xp is np else xp.cat(rows)
    paired = (zx * zy).sum(1)
    loss = 0.5 / n * (TAU * (xp.log(row).sum() + xp.log(cols).sum()) + 2 * (1.0 - paired).sum())
    c, dzx, dzy = 0.0, [], 0.0
    for b in starts:
        w = weight(b) * (1.0 / row[b : b + chunk, None] + 1.0 / cols) * (-0.5 / n)
        k = xp.arange(len(w))
        w[k, b + k] += 1.0 / n
        c = c + product(x[b : b + chunk].T, product(w, y))
        dzx.append(-product(w, zy))
        dzy = dzy - product(w.T, zx[b : b + chunk])
    return loss, c, np.concatenate(dzx) if xp is np else xp.cat(dzx), dzy


def dense_torch(torch, x, y, zx, zy):
    """As one writes it: the loss by cross-entropy and autograd, C from both softmaxes; n x n matrices throughout."""
    zx, zy = zx.detach().requires_grad_(), zy.detach().requires_grad_()
    s = zx @ zy.T / TAU
    target = torch.arange(len(zx), device=zx.device)
    loss = TAU * 0.5 * (torch.nn.functional.cross_entropy(s, target) + torch.nn.functional.cross_entropy(s.T, target))
    loss.backward()
    with torch.no_grad():
        w = -(torch.softmax(s, 1) + torch.softmax(s, 0)) / (2 * len(zx))
        w.diagonal().add_(1.0 / len(zx))
        return loss, x.T @ (w @ y), zx.grad, zy.grad


def seconds(step, repeat, wait=lambda: None):
    step()
    times = []
    for _ in range(repeat):
        wait()
        begin = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - begin)
    return {"median": statistics.median(times), "min": min(times), "max": max(times), "runs": repeat}


def relative(got, want):
    got, want = (np.asarray(v, np.float64) for v in (got, want))
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def compare(args, torch):
    import unicon_align as unicon

    cuda = args.device.startswith("cuda")
    on_gpu = cuda and torch is not None and torch.cuda.is_available()
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    rows, good = [], True
    for n in args.sizes:
        arrays = pairs(n) if n > 1000 else pairs(n, 40, 36, 32)
        wide = [a.astype(np.float64) for a in arrays]
        if on_gpu:
            want = [v.cpu().numpy() for v in chunked(torch, *(torch.from_numpy(a).cuda() for a in wide))]
        else:
            want = chunked(np, *wide)
        row = {"n": n, "errors": {}, "unicon": {}, "peers": {}}
        for precision in args.precisions:
            name, index = args.device.partition(":")[::2]
            dtype = np.float64 if precision == "f64" else np.float32
            given = [a.astype(dtype) for a in arrays]
            if on_gpu:
                given = [torch.from_numpy(a).cuda() for a in given]
            context = unicon.Context(name, int(index or 0), precision=NAMES.get(precision, "default"))
            x, y, zx, zy = given
            loss = unicon.loss("clip", tau=TAU)
            gradients = {}
            if on_gpu:
                gradients = {"dzx": torch.empty_like(zx), "dzy": torch.empty_like(zy)}
            value, dzx, dzy = context.contrastive_grad(zx, zy, loss, **gradients)
            c = context.weights(zx, zy, loss).cross(x, y)
            host = lambda v: v.cpu().numpy() if hasattr(v, "cpu") else v
            got = {"loss": value, "C": c, "dzx": host(dzx), "dzy": host(dzy)}
            errors = {k: relative(v, w) for (k, v), w in zip(got.items(), want)}
            row["errors"][precision] = {"limit": LIMITS[precision], **errors}
            # The limit of fp32 mode is one of rounding; tensor cores may truncate, which no card has shown yet.
            gated = precision != "f32" or not cuda
            good &= args.record or not gated or all(e <= LIMITS[precision] * (4 if k.startswith("dz") else 1) for k, e in errors.items())
            row["unicon"][precision] = {
                "loss + gradient": seconds(lambda: context.contrastive_grad(zx, zy, loss, **gradients), args.repeat, wait),
                "S, then C": seconds(lambda: context.weights(zx, zy, loss).cross(x, y), args.repeat, wait),
            }
        if on_gpu:
            row["peers"] = peers(torch, arrays, args.repeat, wait)
        rows.append(row)
    return {"tau": TAU, "reference": "torch" if on_gpu else "numpy", "rows": rows, "ok": good}


def peers(torch, arrays, repeat, wait):
    """Times of others on the same GPU; `waits` says which could not be had."""
    out, waits = {}, []
    wide = [torch.from_numpy(a).cuda() for a in arrays]
    narrow = [a.half() for a in wide]
    half = lambda a, b: (a.half() @ b.half()).float()
    cases = {
        "dense torch, fp32: loss, gradient, C": lambda: dense_torch(torch, *wide),
        "dense torch, fp16: loss, gradient, C": lambda: dense_torch(torch, *narrow),
        "chunked torch, fp16 products: loss, gradient, C": lambda: chunked(torch, *wide, chunk=4096, product=half),
    }
    try:
        from inf_cl import cal_inf_loss

        def inf_cl():
            # Both directions, as the loss has them; its default head_dim does not fit 128 columns.
            a, b = (z.detach().requires_grad_() for z in wide[2:])
            (cal_inf_loss(a / TAU, b, head_dim=R) + cal_inf_loss(b / TAU, a, head_dim=R)).backward()

        cases["Inf-CL: loss, gradient"] = inf_cl
    except Exception as e:  # any of its own dependencies may be missing
        waits.append(f"Inf-CL ({e})")
    try:
        from cut_cross_entropy import linear_cross_entropy

        def cce():
            a, b = (z.half().detach().requires_grad_() for z in wide[2:])
            target = torch.arange(len(a), device="cuda")
            # Without a filter: it would leave small gradients out.
            one, other = ((z / TAU, w) for z, w in ((a, b), (b, a)))
            (linear_cross_entropy(*one, target, filter_eps=None) + linear_cross_entropy(*other, target, filter_eps=None)).backward()

        cases["CCE: loss, gradient"] = cce
    except Exception as e:
        waits.append(f"CCE ({e})")
    for name, step in cases.items():
        try:
            torch.cuda.reset_peak_memory_stats()
            out[name] = {**seconds(step, repeat, wait), "peak_bytes": torch.cuda.max_memory_allocated()}
        except Exception as e:
            out[name] = {"failed": str(e).splitlines()[0]}
    out["waits"] = waits
    return out


def roofs(torch):
    """Operations and bytes a second that the device sustains for half a second, by its own events; beside them the best
    single product, which a falling clock does not reach for long."""

    def rate(step, work, least=0.5):
        def run(count):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(count):
                step()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1e3 / count

        run(3)
        best = min(run(1) for _ in range(5))
        return {"sustained": work / run(int(least / best) + 1), "best": work / best}

    n, out = 8192, {}
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("f32", torch.float32)):
        a = torch.randn(n, n, device="cuda").to(dtype)
        c = torch.empty_like(a)
        out[f"product, {name}"] = rate(lambda: torch.mm(a, a.T, out=c), 2 * n**3)
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    out["copy, bytes read and written"] = rate(lambda: b.copy_(a), 2 << 30)
    return {**out, "ok": True}


def made_up(args, folder):
    """Features with a common latent vector, written as titles are."""
    n, held = (300, 100) if args.quick else (8192, 2048)
    x, y, _, _ = pairs(n + held)
    for name, part in (("train", slice(n)), ("test", slice(n, None))):
        np.save(folder / f"{name}_x.npy", x[part])
        np.save(folder / f"{name}_y.npy", y[part])


def titles(args):
    """The same fit on the CPU and on the device: recall to within 0.002 both ways."""
    folder, results = pathlib.Path(args.titles), {}

    def files(part):
        """Both sides, and where they are several the matches of each row."""
        names = {"--x": "x", "--y": "y", "--pos-indptr": "indptr", "--pos-indices": "indices"}
        there = {option: folder / f"{part}_{name}.npy" for option, name in names.items()}
        return [str(v) for option, path in there.items() if path.exists() for v in (option, path)]

    for device in ("cpu", args.device):
        model = str(pathlib.Path(tempfile.gettempdir()) / f"gpu-proof-{os.getpid()}.safetensors")
        fit = ["fit", *files("train"), "--rank", "128", "--whiten", "0.01", "--iters", "2"]
        evaluate = ["eval", "--model", model, *files("test")]
        run = lambda c: json.loads(
            subprocess.run([args.unicon, *c, "--device", device, "--json"], check=True, capture_output=True).stdout
        )
        results[device] = {"fit": run([*fit, "--out", model]), "eval": run(evaluate)}
        os.unlink(model)
    recall = [results[d]["eval"]["recall"] for d in ("cpu", args.device)]
    worst = max(abs(a - b) for way in ("x_to_y", "y_to_x") for a, b in zip(recall[0][way], recall[1][way]))
    return {**results, "largest difference of recall": worst, "limit": 0.002, "ok": worst <= 0.002}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unicon", default="target/release/unicon")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--precisions", type=lambda s: s.split(","), default=["fp16", "bf16", "f32"])
    parser.add_argument("--sizes", type=lambda s: [int(n) for n in s.split(",")])
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--titles")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--roofs", action="store_true")
    parser.add_argument("--record", action="store_true", help="errors beyond their limits are no failure")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    args.sizes = args.sizes or ([300] if args.quick else [4096] if args.device == "cpu" else [4096, 16384, 27593])
    if args.quick:
        args.repeat = 1
    library = pathlib.Path(args.unicon).with_name("libunicon.so")
    if library.exists():
        os.environ.setdefault("UNICON_LIBRARY", str(library.resolve()))
    try:
        import torch
    except ImportError:
        torch = None
    if args.roofs:
        result = roofs(torch)
    elif args.fit:
        with tempfile.TemporaryDirectory() as folder:
            args.titles = folder
            made_up(args, pathlib.Path(folder))
            result = titles(args)
    else:
        result = titles(args) if args.titles else compare(args, torch)
    print(json.dumps(result, indent=1))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
