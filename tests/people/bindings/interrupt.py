"""Ctrl-C is heard within a second, as KeyboardInterrupt, with and without a progress function, in every long call."""

import os
import signal
import threading
import time

import numpy as np
import unicon_align as unicon
from common import raises

rng = np.random.default_rng(1)
n = 12000
x, y = (rng.normal(size=(n, d)).astype(np.float32) for d in (96, 64))
z = x / np.linalg.norm(x, axis=1, keepdims=True)
context = unicon.Context()
weights = context.weights(z[:2000], z[:2000])
stream = context.partial_fit(96, 64, 8)


def press(after, number=signal.SIGINT):
    timer = threading.Timer(after, lambda: pressed.append(time.monotonic()) or os.kill(os.getpid(), number))
    timer.start()
    return timer


def again(call):
    """A call that would go on for minutes."""
    def forever():
        while True:
            call()
    return forever


long = {
    "fit": lambda: context.fit(x, y, 16, n_iters=100000),
    "fit with progress": lambda: context.fit(x, y, 16, n_iters=100000, progress=lambda p: None),
    "a slow progress": lambda: context.fit(x, y, 16, n_iters=100000, progress=lambda p: time.sleep(0.3)),
    "fit_best": again(lambda: context.fit_best(x, y, 16)),
    "weights": again(lambda: context.weights(z, z)),
    "apply": again(lambda: weights.apply(z[:2000])),
    "stream": again(lambda: stream.add(x, y)),
    "gradient": again(lambda: context.contrastive_grad(z, z)),
    "search": again(lambda: context.search(z, z, 10)),
    "recall": again(lambda: context.recall(z, z)),
}
slowest = 0.0
for name, call in long.items():
    pressed = []
    timer = press(0.2)
    try:
        call()
    except KeyboardInterrupt as e:
        took = time.monotonic() - pressed[0]
        assert e.__cause__ is None and e.__context__ is None, f"{name}: {e.__context__!r}"
    timer.join()
    slowest = max(slowest, took)
    # On a quiet machine within a second; this one may be busy.
    assert took < 5, f"{name}: heard after {took:.1f} s"
    assert context.fit(x[:200], y[:200], 4)[1].r == 4, "the context works afterwards"

# Other signals run their handlers meanwhile; what they raise cancels, what they do not raise does not.
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append(time.monotonic()))
pressed = []
timer = press(0.2, signal.SIGUSR1)
info = context.fit(x, y, 16, refine=unicon.refine(max_steps=100000, tol=0), budget=1)[1]
timer.join()
assert seen and info.outcome == "out of time"


class Timeout(Exception):
    pass


def stop(*_):
    raise Timeout


signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, 0.2)
raises(Timeout, "", lambda: context.fit(x, y, 16, n_iters=100000))

# cancel() from another thread is Cancelled, on the main thread and on others.
timer = threading.Timer(0.2, context.cancel)
timer.start()
raises(unicon.Cancelled, "cancelled", lambda: context.fit(x, y, 16, n_iters=100000))
timer.join()
caught = []
thread = threading.Thread(target=lambda: caught.append(raises(unicon.Cancelled, "", lambda: context.fit(x, y, 16, n_iters=100000))))
thread.start()
while thread.is_alive():
    time.sleep(0.1)
    context.cancel()
assert caught
# A cancellation is of the calls in progress alone: without any, and once they have ended, the next call is made.
context.cancel()
for _ in range(3):
    assert context.fit(x[:200], y[:200], 4)[1].r == 4
for wait in (0.0, 0.0005, 0.001, 0.002, 0.004):
    timer = threading.Timer(wait, context.cancel)
    timer.start()
    try:
        context.fit(x[:1000], y[:1000], 8)
    except unicon.Cancelled:
        pass
    timer.join()
    assert context.fit(x[:200], y[:200], 4)[1].r == 4
print(f"heard within {slowest:.2f} s")
