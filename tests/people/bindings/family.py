"""Losses of one's own: the built-in numbers where they are the built-in members, and what their functions raise."""

import copy
import gc
import pickle
import threading

import numpy as np
import unicon_align as unicon
from common import raises, rng, unit, x, y

context = unicon.Context(n_threads=2)
zx, zy = unit(rng.normal(size=(700, 6))), unit(rng.normal(size=(700, 6)))
tau = 0.2


def clip(**options):
    def psi(t):
        assert t.dtype == np.float64 and 1 <= len(t) <= 32768
        e = np.exp(t / tau)
        return e, e / tau

    return unicon.Family(psi, lambda u: (tau * np.log(u), tau / u), name="my clip", **options)


# Clip, in one thread at a time and in several, with derivatives that are arrays.
want = context.contrastive_grad(zx, zy, unicon.loss(tau=tau, nu=1.5, eps_pos=0.7))
for options in ({}, {"concurrent": True}):
    got = context.contrastive_grad(zx, zy, unicon.loss(clip(**options), nu=1.5, eps_pos=0.7))
    assert abs(got[0] - want[0]) < 1e-12
    for a, b in zip(got[1:], want[1:]):
        assert np.abs(a - b).max() < 1e-12 * np.abs(b).max()

# A derivative that is one number for all; the loss is -mean of the matches' similarity and the mean of the others' up to eps.
line = unicon.Family(lambda t: (t, 1.0), lambda u: (u, 1.0))
s = zx @ zy.T
n = len(s)
direct = sum((m[i] - m[i, i]).sum() for m in (s, s.T) for i in range(n)) / (2 * n)
assert abs(context.weights(zx, zy, unicon.loss(line)).loss - direct) < 1e-9 * abs(direct)

# Weights keep the functions that they call again.
w = context.weights(zx, zy, unicon.loss(clip()))
reference = context.weights(zx, zy, unicon.loss(tau=tau))
gc.collect()
assert np.abs(w.apply(zy) - reference.apply(zy)).max() < 1e-12

# Fits, streams and models: the name is recorded, and models need no functions.
hinge = unicon.Family(lambda t: (np.maximum(t + 0.2, 0) ** 2, 2 * np.maximum(t + 0.2, 0)), lambda u: (np.log1p(u), 1 / (1 + u)), name="hinge")
model, info = context.fit(x, y, 8, loss=unicon.loss(hinge, nu=1.5), whiten=0.1)
assert np.isfinite(info.final_loss)
model.save("model.safetensors")
again = unicon.load("model.safetensors")
assert np.array_equal(again.encode(x, "x"), model.encode(x, "x"))
assert b"hinge" in open("model.safetensors", "rb").read(4096)
best, info = context.fit_best(x, y, 8, loss=unicon.loss(hinge))
assert np.isfinite(info.loss).all()
stream = context.partial_fit(16, 12, 4, loss=unicon.loss(clip()))
plain = context.partial_fit(16, 12, 4, loss=unicon.loss(tau=tau))
for rows in (slice(0, 200), slice(200, 400)):
    gc.collect()
    assert abs(stream.add(x[rows], y[rows]) - plain.add(x[rows], y[rows])) < 1e-5

# Starts from any similarities: given ones are not cosines, and those that are drawn are of the seed.
kernel = {"kernel": unicon.kernel("angular"), "loss": unicon.loss(tau=0.3), "n_iters": 1, "center": "off"}
start = rng.normal(size=(400, 400))
given = context.fit(x, y, 4, similarity=start, **kernel)[1]
assert np.abs(start).max() > 1 and np.isfinite(given.singular_values).all()
drawn = [context.fit(x, y, 4, init="gaussian", seed=seed, **kernel)[1].singular_values for seed in (1, 1, 2)]
assert np.array_equal(drawn[0], drawn[1]) and not np.allclose(drawn[0], drawn[2])


class Own(Exception):
    pass


def fails(_):
    raise Own("not today")


# What a function raises comes out of the call, from whichever thread it was called; the next call is another.
broken = unicon.Family(fails, lambda u: (u, 1.0))
for call in (
    lambda: context.weights(zx, zy, unicon.loss(broken)),
    lambda: context.contrastive_grad(zx, zy, unicon.loss(broken)),
    lambda: context.fit(x, y, 8, loss=unicon.loss(broken)),
    lambda: context.fit_best(x, y, 8, loss=unicon.loss(broken)),
    lambda: context.partial_fit(16, 12, 4, loss=unicon.loss(broken)).add(x, y),
):
    raises(Own, "not today", call)
switch = {"psi": clip().psi}
w = context.weights(zx, zy, unicon.loss(unicon.Family(lambda t: switch["psi"](t), clip().phi)))
switch["psi"] = fails
raises(Own, "not today", lambda: w.apply(zy))
switch["psi"] = clip().psi
w.apply(zy)

# What is not an answer.
short = unicon.Family(lambda t: (t[:-1], 1.0), lambda u: (u, 1.0))
raises(ValueError, "psi: expected", lambda: context.weights(zx, zy, unicon.loss(short)))
single = unicon.Family(lambda t: t, lambda u: (u, 1.0))
raises(TypeError, "psi: expected values and derivatives", lambda: context.weights(zx, zy, unicon.loss(single)))
with np.errstate(invalid="ignore"):
    log = unicon.Family(lambda t: (np.log(t), 1.0), lambda u: (u, 1.0), name="log")

    def weights():
        return context.weights(zx, zy, unicon.loss(log))

    assert '"log" is nan at t = -' in raises(unicon.Error, "psi of the loss", weights).lower()
raises(TypeError, "psi: expected a function", lambda: unicon.Family(3, 4))
raises(ValueError, "loss: expected one of clip", lambda: unicon.loss("custom"))
raises(unicon.Error, "tau", lambda: context.fit_best(x, y, 8, loss=unicon.loss(hinge), tau="auto"))
assert repr(hinge) == "unicon_align.Family('hinge')" and "custom" in repr(unicon.loss(hinge))

# Losses are copied with their functions, and pickled without any.
copied = copy.deepcopy(unicon.loss(clip(), nu=1.5, eps_pos=0.7))
assert abs(context.contrastive_grad(zx, zy, copied)[0] - want[0]) < 1e-12
raises(TypeError, "cannot be pickled", lambda: pickle.dumps(copied))
assert pickle.loads(pickle.dumps(unicon.loss(tau=0.3))).tau == 0.3

# Several threads at once, with one family.
shared, results = clip(), []


def work():
    results.append(context.weights(zx, zy, unicon.loss(shared)).loss)


threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(results) == 4 and len(set(results)) == 1
