"""Models that are copied, pickled, shared by threads and taken through a fork."""

import concurrent.futures
import copy
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time

import numpy as np
import unicon_align as unicon
from common import model, raises, x, y

SECONDS = 20


def in_child(work):
    """What work() returns in the child of a fork: "ok", or the exception; a child that hangs is a failure."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, repr(work()).encode())
        except BaseException as e:
            os.write(write, repr(e).encode())
        os._exit(0)
    os.close(write)
    end = time.monotonic() + SECONDS
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise AssertionError("the child hangs")
        time.sleep(0.01)
    with os.fdopen(read) as pipe:
        return pipe.read()


def of_pool(features):
    return shared.encode(features, "x")


def of_argument(pair):
    return pair[0].encode(pair[1], "x")


if __name__ == "__main__":
    m = model()
    want = m.encode(x, "x")

    # Copies share the encoders: whichever goes first, the others work.
    for make in (copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: copy.copy(copy.deepcopy(m))):
        first = unicon.Model.from_bytes(m.to_bytes())
        second = make(first)
        del first
        gc.collect()
        third = make(second)
        assert np.array_equal(second.encode(x, "x"), want) and (second.d1, second.d2, second.r) == (16, 12, 8)
        del second
        gc.collect()
        assert np.array_equal(third.encode(x, "x"), want)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.dumps(m, protocol) == pickle.dumps(pickle.loads(pickle.dumps(m, protocol)), protocol)
    assert [copy.deepcopy(v).r for v in copy.deepcopy([m, m])] == [8, 8]
    kernel, _ = unicon.Context().fit(x, y, 4, kernel=unicon.kernel("rbf", gamma=0.01), n_landmarks=20)
    assert np.array_equal(pickle.loads(pickle.dumps(kernel)).encode(x, "x"), kernel.encode(x, "x"))
    loss = unicon.loss("sigmoid", tau=0.3)
    assert pickle.loads(pickle.dumps(loss)).tau == copy.deepcopy(loss).tau == 0.3
    context = unicon.Context(n_threads=1)
    assert copy.deepcopy(context) is context and pickle.loads(pickle.dumps(context)).device == "cpu"
    weights = context.weights(want, m.encode(y, "y"))
    dense, twin = weights.dense(), copy.copy(weights)
    del weights
    gc.collect()
    assert np.array_equal(twin.dense(), dense)
    raises(TypeError, "cannot be pickled", lambda: pickle.dumps(twin))
    stream = context.partial_fit(16, 12, 4)
    raises(TypeError, "cannot be copied", lambda: copy.copy(stream))
    raises(TypeError, "cannot be copied", lambda: copy.deepcopy(stream))
    raises(TypeError, "cannot be pickled", lambda: pickle.dumps(stream))
    error = pickle.loads(pickle.dumps(unicon.Cancelled(7, "text")))
    assert type(error) is unicon.Cancelled and error.status == 7 and str(error) == "cancelled: text"

    # The kind of a loss that is changed afterwards has its own nu.
    changed = unicon.loss("clip", tau=0.2)
    changed.kind = 1
    z = want.astype(np.float64), m.encode(y, "y").astype(np.float64)
    assert context.weights(*z, changed).loss == context.weights(*z, unicon.loss("sigmoid", tau=0.2)).loss
    assert context.weights(*z, changed).loss == context.weights(*z, unicon.loss("sigmoid", tau=0.2, nu=1.5)).loss

    # One model, many threads; one context, many threads; calls of one batch's weights wait for each other.
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(z, want) for z in pool.map(lambda _: m.encode(x, "x"), range(40)))
        fits = list(pool.map(lambda _: context.fit(x, y, 4)[0].encode(x, "x"), range(8)))
        assert all(np.array_equal(z, fits[0]) for z in fits)
        assert all(np.array_equal(s, dense) for s in pool.map(lambda _: twin.dense(), range(40)))
        other = unicon.Context(n_threads=1)
        assert all(np.array_equal(z, want) for z in pool.map(lambda _: m.encode(x, "x", context=other), range(8)))
    # A model and its context are usable inside a progress function of theirs.
    inner = []
    outer = context.fit(x, y, 4, progress=lambda p: inner.append(context.fit(x, y, 2)[1].r) if len(inner) < 2 else None)
    assert outer[1].r == 4 and inner[:2] == [2, 2]
    raises(unicon.Cancelled, "cancelled", lambda: context.fit(x, y, 4, progress=lambda p: False))
    raises(ZeroDivisionError, "", lambda: context.fit(x, y, 4, progress=lambda p: 1 / 0))
    on = []
    context.fit(x, y, 4, progress=lambda p: on.append(threading.get_ident()))
    assert set(on) == {threading.get_ident()}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        raises(ZeroDivisionError, "", pool.submit(context.fit, x, y, 4, progress=lambda p: 1 / 0).result)

    # fork: everything that was used before works in the child, or is an error at once.
    assert in_child(lambda: np.array_equal(m.encode(x, "x"), want)) == "True"
    assert in_child(lambda: context.fit(x, y, 4)[1].r) == "4"
    assert in_child(lambda: unicon.Context().fit_best(x, y, 4)[1].r) == "4"
    assert in_child(lambda: context.recall(want, want, ks=[1])["x2y"][1]) == "1.0"
    assert "made before fork" in in_child(lambda: twin.dense())
    assert "made before fork" in in_child(lambda: stream.add(x, y))
    assert in_child(lambda: in_child(lambda: m.encode(x[:3], "x").shape)) == repr("(3, 8)")
    assert in_child(lambda: (copy.copy(m), gc.collect(), sys.stdout.flush())[2]) == "None"
    shared = m
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            pairs = [(m, x[:9]), (m, x)]
            for z, (_, part) in zip(pool.map_async(of_argument, pairs).get(SECONDS), pairs):
                assert np.abs(z - want[: len(part)]).max() < 1e-6
            if method == "fork":
                assert np.array_equal(pool.map_async(of_pool, [x, x]).get(SECONDS)[1], want)
    assert np.array_equal(m.encode(x, "x"), want) and np.array_equal(twin.dense(), dense)

    try:
        import joblib
    except ImportError:
        print("skipped: joblib not found; get it with pip install joblib")
    else:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            joblib.dump({"model": m, "loss": loss}, folder + "/m.joblib")
            assert np.array_equal(joblib.load(folder + "/m.joblib")["model"].encode(x, "x"), want)
        assert joblib.hash(m) == joblib.hash(copy.deepcopy(m)) == joblib.hash(pickle.loads(pickle.dumps(m)))
        for z in joblib.Parallel(2)(joblib.delayed(of_argument)((m, x[:5])) for _ in range(4)):
            assert np.abs(z - want[:5]).max() < 1e-6
    print("copies, threads and forks")
