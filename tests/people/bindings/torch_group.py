"""Fits over the processes of torch.distributed (gloo), against one process; what a rank that dies does to the others.

Run without arguments; it starts its own ranks.
"""

import multiprocessing
import os
import sys
import time

import numpy as np

RANKS, N, D1, D2, R = 3, 1700, 12, 9, 4
FIRST = [0, 100, 900, N]


def data():
    rng = np.random.default_rng(3)
    z = rng.standard_normal((N, R))
    make = lambda d: (z @ rng.standard_normal((R, d)) + 0.3 * rng.standard_normal((N, d))).astype(np.float32)
    return make(D1), make(D2), rng.integers(0, 400, N)


def fits(context, x, y, ids, csr):
    """What the ranks and one process do alike: encoders and losses."""
    out = []
    for positives, options in [(None, {"whiten": 0.1, "n_iters": 2}), ((ids, ids), {"n_negatives": 200}), (csr, {"n_iters": 1})]:
        model, info = context.fit(x, y, r=R, positives=positives, **options)
        out += [model.encoder("x"), model.encoder("y"), info.loss, info.final_loss]
    model, info = context.fit_best(x, y, r=R)
    return out + [model.encode(x[:50], "x"), info.tau]


def rows(first, last):
    """Row i matches column N - 1 - i, as CSR of these rows with columns of all."""
    return np.arange(last - first + 1), N - 1 - np.arange(first, last)


def start(rank, name, timeout=60):
    import datetime

    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{name}", rank=rank, world_size=RANKS,
                            timeout=datetime.timedelta(seconds=timeout))
    return dist


def same(rank, name, results):
    dist = start(rank, name)
    import unicon_align as unicon

    x, y, ids = data()
    part = slice(FIRST[rank], FIRST[rank + 1])
    context = unicon.Context(n_threads=1, group=dist.group.WORLD)
    results.put((rank, fits(context, x[part], y[part], ids[part], rows(FIRST[rank], FIRST[rank + 1]))))
    for wrong, text in [(np.ones((3, 3), bool), "positives: expected (groups_x, groups_y), (indptr, indices)"), ([[0, 1]], "from one of several")]:
        try:
            context.fit(x[part], y[part], r=R, positives=wrong)
        except TypeError as e:
            assert text in str(e), e
        else:
            raise AssertionError(text)
    # One rank's mistake is everybody's, with its reason.
    bad = x[part].copy()
    if rank == 2:
        bad[3, 1] = np.nan
    try:
        context.fit(bad, y[part], r=R)
    except unicon.Error as e:
        assert ("rank 2" in str(e) or rank == 2) and "x" in str(e), e
    else:
        raise AssertionError("not refused")
    dist.barrier()
    dist.destroy_process_group()


def dies(rank, name, results):
    start(rank, name)
    import unicon_align as unicon
    from unicon_align.torch import group

    x, y, _ = data()
    part = slice(FIRST[rank], FIRST[rank + 1])
    context = unicon.Context(n_threads=1, group=group(timeout=5))
    begin = time.monotonic()
    leave = lambda p: os._exit(0) if rank == 1 and p["done"] >= 3 else None
    try:
        context.fit(x[part], y[part], r=R, n_iters=1000000, tol=0, progress=leave)
    except unicon.Error as e:
        results.put((rank, (e.status, str(e), type(e.__cause__).__name__, time.monotonic() - begin)))
        # Written before the process ends without ceremony: its group is broken.
        results.close()
        results.join_thread()
        os._exit(0)


def run(target):
    import tempfile

    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [spawn.Process(target=target, args=(k, os.path.join(folder, "meeting"), results)) for k in range(RANKS)]
        for p in ranks:
            p.start()
        found = dict(results.get(timeout=120) for _ in range(RANKS - (target is dies)))
        for p in ranks:
            p.join(60)
            assert p.exitcode == 0, (p.exitcode, target.__name__)
    return found


def main():
    import unicon_align as unicon

    x, y, ids = data()
    alone = fits(unicon.Context(n_threads=1), x, y, ids, rows(0, N))
    for rank, shared in run(same).items():
        for k, (a, b) in enumerate(zip(alone, shared)):
            # fit_best's last encodes other rows on each rank, as it is given.
            if k != len(alone) - 2 or rank == 0:
                assert np.array_equal(a, b), (rank, k, a, b)
    for rank, (status, text, cause, seconds) in run(dies).items():
        assert status == 8 and "communicator" in text and cause == "RuntimeError" and seconds < 40, (rank, status, text, cause, seconds)
    try:
        unicon.Context(group=object())
    except RuntimeError as e:
        assert "torch.distributed has not been initialised" in str(e), e
    else:
        raise AssertionError("not refused")
    print("torch_group: ok", file=sys.stderr)


if __name__ == "__main__":
    main()
