#!/usr/bin/env python3
"""A roofline of the passes: what the CPU's product and its exponentials allow, and what the passes reach.

    cargo bench --bench tiles
    python3 benches/roofline.py --svg docs/roofline.svg [--unicon target/release/unicon] [--n 512,2048,8192,27648] [--json out.json]

Every entry of S(gamma) costs one exponential and some operations of products: 2r in pass 1, 2(2r) in S Z_y, 2(r + d) in pass 2. So the
horizontal axis is operations per exponential, and the roofs are the product's rate, the exponentials' rate times that number, and
what both allow one after the other, as vector registers do them; matrix units can do both at once. The rates of the product and of
the exponentials are those of one thread in its caches, measured by `cargo bench --bench tiles`, times the threads. Memory is no
roof here: a panel of 512 rows reads r + d numbers of a column for 1,024 (r + d) operations, 256 a byte; the script prints what a
copy of large arrays moves in a second.
"""
import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

STEPS = {"pass 1": lambda r, d: 2 * r, "S Zy": lambda r, d: 4 * r, "pass 2": lambda r, d: 2 * (r + d)}
COLOURS = ["#9ecae1", "#4292c6", "#08519c", "#08306b"]


def criterion(folder, name):
    """Mean seconds of a benchmark that has been run."""
    path = Path(folder) / name / "new" / "estimates.json"
    if not path.exists():
        sys.exit(f"{path} is missing: run `cargo bench --bench tiles` first")
    return json.loads(path.read_text())["mean"]["point_estimate"] * 1e-9


def copied():
    """Bytes a second that a copy of large arrays reads and writes."""
    try:
        import numpy as np
    except ImportError:
        return None
    a, b = np.ones(1 << 27, dtype=np.float32), np.empty(1 << 27, dtype=np.float32)
    best = math.inf
    for _ in range(3):
        begin = time.perf_counter()
        np.copyto(b, a)
        best = min(best, time.perf_counter() - begin)
    return 2 * a.nbytes / best


def measured(args):
    tiles = Path(args.target) / "criterion"
    # First, since the rest takes minutes.
    product, exponentials = criterion(tiles, "tiles/sgemm 2048"), criterion(tiles, "elementwise/exp_sums")
    bench = [args.unicon, "bench", "--n", args.n, "--repeat", str(args.repeat), "--json"]
    report = json.loads(subprocess.run(bench, check=True, capture_output=True, text=True).stdout)
    threads = int(report["device"].split(" threads")[0].split()[-1])
    r, d = report["rank"], min(report["d1"], report["d2"])
    points = [
        {"step": row["name"], "n": row["n"], "intensity": STEPS[row["name"]](r, d), "rate": row["flop"] / row["min"]}
        for row in report["rows"]
        if row["name"] in STEPS
    ]
    return {
        "device": report["device"],
        "r": r,
        "d": d,
        "product": threads * 2 * 2048**3 / product,
        "exponentials": threads * 512**2 / exponentials,
        "copy": copied(),
        "points": points,
    }


def drawn(m):
    """The picture as SVG."""
    width, height, left, right, top, bottom = 760, 420, 70, 170, 40, 60
    low_x, high_x = 64, 2048
    product, exps = m["product"], m["exponentials"]
    high_y = 1.6 * max([product] + [p["rate"] for p in m["points"]])
    low_y = min([p["rate"] for p in m["points"]] + [0.5 * product]) / 1.6
    scale = lambda v, low, high, size: math.log(v / low) / math.log(high / low) * size
    x = lambda v: left + scale(v, low_x, high_x, width - left - right)
    y = lambda v: height - bottom - scale(v, low_y, high_y, height - top - bottom)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="20" font-size="14">{m["device"]}: r = {m["r"]}, d = {m["d"]}</text>',
    ]
    xs = [low_x * (high_x / low_x) ** (k / 60) for k in range(61)]
    roofs = [
        ("product", lambda v: product, "#444", ""),
        ("exponentials", lambda v: exps * v, "#444", "5 4"),
        ("one after the other", lambda v: 1 / (1 / product + 1 / (exps * v)), "#d94801", ""),
    ]
    for name, roof, colour, dash in roofs:
        path = " ".join(f"{x(v):.1f},{y(roof(v)):.1f}" for v in xs if low_y <= roof(v) <= high_y)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-dasharray="{dash}" stroke-width="1.5"/>')
    for k, (name, roof, colour, dash) in enumerate(roofs):
        at = height - bottom - 60 + 18 * k
        out.append(f'<line x1="{width - right + 12}" x2="{width - right + 36}" y1="{at - 4}" y2="{at - 4}" stroke="{colour}" stroke-dasharray="{dash}"/>')
        out.append(f'<text x="{width - right + 42}" y="{at}">{name}</text>')
    sizes = sorted({p["n"] for p in m["points"]})
    for p in m["points"]:
        colour = COLOURS[sizes.index(p["n"]) % len(COLOURS)]
        out.append(f'<circle cx="{x(p["intensity"]):.1f}" cy="{y(p["rate"]):.1f}" r="4.5" fill="{colour}"/>')
    for k, n in enumerate(sizes):
        at = top + 20 + 18 * k
        out.append(f'<circle cx="{width - right + 24}" cy="{at - 4}" r="4.5" fill="{COLOURS[k % len(COLOURS)]}"/>')
        out.append(f'<text x="{width - right + 42}" y="{at}">n = {n:,}</text>')
    for v in [64, 128, 256, 512, 1024, 2048]:
        out.append(f'<line x1="{x(v):.1f}" x2="{x(v):.1f}" y1="{top}" y2="{height - bottom}" stroke="#eee"/>')
        out.append(f'<text x="{x(v):.1f}" y="{height - bottom + 16}" text-anchor="middle">{v:,}</text>')
    for step in {p["step"] for p in m["points"]}:
        at = STEPS[step](m["r"], m["d"])
        out.append(f'<text x="{x(at):.1f}" y="{top - 4}" text-anchor="middle" fill="#666">{step}</text>')
    step = 50e9 if high_y > 150e9 else 20e9
    for k in range(1, 40):
        if low_y <= k * step <= high_y and (k <= 4 or k % 2 == 0):
            out.append(f'<line x1="{left}" x2="{width - right}" y1="{y(k * step):.1f}" y2="{y(k * step):.1f}" stroke="#eee"/>')
            out.append(f'<text x="{left - 8}" y="{y(k * step) + 4:.1f}" text-anchor="end">{k * step / 1e9:.0f}</text>')
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 14}" text-anchor="middle">operations of products per exponential</text>')
    out.append(f'<text x="16" y="{height / 2}" transform="rotate(-90 16 {height / 2})" text-anchor="middle">GFLOP/s</text>')
    return "\n".join(out + ["</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unicon", default="target/release/unicon", help="the program")
    parser.add_argument("--target", default="target", help="cargo's target folder, where criterion keeps its results")
    parser.add_argument("--n", default="512,2048,8192,27648", help="numbers of pairs")
    parser.add_argument("--repeat", type=int, default=5, help="runs, of which the fastest counts")
    parser.add_argument("--svg", help="where the picture goes")
    parser.add_argument("--json", help="where the numbers go")
    args = parser.parse_args()
    m = measured(args)
    line = f"product {m['product'] / 1e9:.0f} GFLOP/s, exponentials {m['exponentials'] / 1e9:.2f} G/s"
    print(line + (f", copies {m['copy'] / 1e9:.1f} GB/s" if m["copy"] else ""))
    for p in m["points"]:
        roof = 1 / (1 / m["product"] + 1 / (m["exponentials"] * p["intensity"]))
        print(f"n = {p['n']:>6}  {p['step']:<7} {p['rate'] / 1e9:6.0f} GFLOP/s, {p['rate'] / roof:.2f} of what both allow one after the other")
    if args.json:
        Path(args.json).write_text(json.dumps(m, indent=1) + "\n")
    if args.svg:
        Path(args.svg).write_text(drawn(m))


if __name__ == "__main__":
    main()
