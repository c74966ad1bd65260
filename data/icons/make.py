"""Makes the bundled icons from full features, and compares what is lost.

usage: make.py FULL OUT

FULL holds {train,val,test}_x.npy (pictures, 1,280-d), _y.npy (captions, 384-d), _gx.npy and _gy.npy (the concept of each row),
test_names.txt and test_texts.txt. Needs NumPy; the same folder gives the same numbers, but for rounding of the eigenvectors.
"""

import pathlib
import shutil
import sys

import numpy as np

SPLITS = ("train", "val", "test")
# Components that are kept, and the standard deviation of the integers, in steps.
PICTURES, CAPTIONS = (384, 2.0), (256, 3.0)


def reduced(full: dict, components: int, deviation: float) -> dict:
    """Principal components of the training rows, each divided by the square root of its deviation, as int8."""
    rows = full["train"]
    mean = rows.mean(0)
    values, vectors = np.linalg.eigh(np.cov((rows - mean).T))
    # The largest first; of each vector the largest entry is positive.
    vectors = vectors[:, ::-1][:, :components]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(components)])
    projection = vectors * values[::-1][:components] ** -0.25
    scale = deviation / ((rows - mean) @ projection).std()
    return {k: np.clip(np.rint((v - mean) @ projection * scale), -127, 127).astype(np.int8) for k, v in full.items()}


def recall(x: dict, y: dict, groups: dict, shrinkage: float = 0.1, rank: int = 128) -> str:
    """Test R@1 and R@10 both ways after one whitened update from zeros."""
    means = x["train"].mean(0), y["train"].mean(0)
    x, y = ({k: v - m for k, v in side.items()} for side, m in zip((x, y), means))
    gx, gy = groups["train"]
    n = max(gx.max(), gy.max()) + 1
    sums = [np.zeros((n, side["train"].shape[1])) for side in (x, y)]
    for total, side, g in zip(sums, (x, y), (gx, gy)):
        np.add.at(total, g, side["train"])
    pairs = np.bincount(gx, minlength=n) * np.bincount(gy, minlength=n)
    cross = (sums[0] / np.sqrt(np.maximum(pairs, 1))[:, None]).T @ sums[1]

    def whitening(rows):
        c = rows.T @ rows / len(rows)
        values, vectors = np.linalg.eigh(c + shrinkage * np.trace(c) / len(c) * np.eye(len(c)))
        return vectors * values**-0.5 @ vectors.T

    wx, wy = whitening(x["train"]), whitening(y["train"])
    u, s, vt = np.linalg.svd(wx @ cross @ wy)
    zx, zy = x["test"] @ wx @ u[:, :rank] * s[:rank] ** 0.5, y["test"] @ wy @ vt[:rank].T * s[:rank] ** 0.5
    k = (zx / np.linalg.norm(zx, axis=1, keepdims=True)) @ (zy / np.linalg.norm(zy, axis=1, keepdims=True)).T
    match = groups["test"][0][:, None] == groups["test"][1][None]

    def hits(k, match, top):
        return np.take_along_axis(match, np.argsort(-k, axis=1)[:, :top], 1).any(1).mean()

    return "R@1 {:.3f}/{:.3f} R@10 {:.3f}/{:.3f}".format(*(f for t in (1, 10) for f in (hits(k, match, t), hits(k.T, match.T, t))))


def main() -> None:
    folder, out = map(pathlib.Path, sys.argv[1:])
    x, y = ({k: np.load(folder / f"{k}_{side}.npy").astype(np.float64) for k in SPLITS} for side in "xy")
    groups = {}
    for k in SPLITS:
        gx, gy = (np.load(folder / f"{k}_{side}.npy") for side in ("gx", "gy"))
        # Concepts are numbered from 0 in every split.
        ids = np.unique(np.concatenate([gx, gy]))
        groups[k] = np.searchsorted(ids, gx), np.searchsorted(ids, gy)
    small_x, small_y = reduced(x, *PICTURES), reduced(y, *CAPTIONS)
    out.mkdir(parents=True, exist_ok=True)
    for k in SPLITS:
        gx, gy = (g.astype(np.int16) for g in groups[k])
        np.savez_compressed(out / f"{k}.npz", x=small_x[k], y=small_y[k], groups_x=gx, groups_y=gy)
    for name in ("test_names.txt", "test_texts.txt"):
        shutil.copyfile(folder / name, out / name)
    print("all features, float16:", recall(x, y, groups))
    print("bundled, int8:        ", recall(*({k: v.astype(np.float64) for k, v in s.items()} for s in (small_x, small_y)), groups))


if __name__ == "__main__":
    main()
