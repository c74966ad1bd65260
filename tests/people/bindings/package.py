"""What a package is expected to have: names, texts, logging, progress, pickles, and a clear word where the library is missing."""

import copy
import inspect
import logging
import os
import pickle
import subprocess
import sys

import numpy as np
import unicon_align
from common import model, raises, x, y

# Every public name is there, documented and typed.
for name in unicon_align.__all__:
    thing = getattr(unicon_align, name)
    assert inspect.getdoc(thing), name
    for member, value in vars(thing).items() if inspect.isclass(thing) else []:
        if inspect.isfunction(value) and not member.startswith("_"):
            assert inspect.getdoc(value) and "return" in value.__annotations__, f"{name}.{member}"
assert unicon_align.__version__ == unicon_align.version()

# Things show what they are.
context = unicon_align.Context(n_threads=1)
fitted, info = context.fit(x, y, 4, n_iters=2)
z = fitted.encode(x, "x")
shown = {
    context: "unicon_align.Context(n_threads=1)", fitted: "unicon_align.Model(16 and 12 -> 4)", context.items(z): "unicon_align.Items(400 x 4)",
    context.weights(z, z): "unicon_align.Weights(400 x 400)", context.partial_fit(16, 12, 4): "unicon_align.PartialFit(16 and 12 -> 4)",
}
for thing, text in shown.items():
    assert repr(thing) == text, repr(thing)
for thing, text in [(unicon_align.loss("sigmoid", tau=0.5), "Loss(kind='sigmoid', eps_by=0, tau=0.5, margin"), (info, "FitInfo: completed, r 4, 2 steps, loss"),
                    (unicon_align.kernel("rbf", gamma=2), "Kernel(kind='rbf', beta=1.0, gamma=2.0"), (unicon_align.refine(), "Refine(max_steps=30")]:
    assert text in repr(thing) and "\n" not in repr(thing), repr(thing)
for twin in (copy.deepcopy(info), pickle.loads(pickle.dumps(info))):
    assert twin.r == 4 and np.array_equal(twin.loss, info.loss) and repr(twin) == repr(info)

# The logger tells of fits and copies, to those who ask.
told = []
logger = logging.getLogger("unicon_align")
handler = logging.Handler()
handler.emit = lambda record: told.append((record.levelname, record.getMessage()))
logger.addHandler(handler)
context.fit(x, y, 4, whiten=0.01)
assert not told, told
context.fit(x, y, 4)
assert [level for level, _ in told] == ["WARNING"] and "raised the loss" in told[0][1], told
del told[:]
logger.setLevel(logging.DEBUG)
model().encode(np.repeat(x, 2, axis=1)[:, ::2], "x")
assert [level for level, _ in told] == ["INFO", "DEBUG"] and "FitInfo: completed" in told[0][1] and "features: copied" in told[1][1], told

# Progress: a bar of tqdm, or lines of the logger where there is none.
class NoTqdm:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tqdm":
            raise ImportError(name)


sys.meta_path.insert(0, NoTqdm())
del told[:]
context.fit(x, y, 4, n_iters=3, progress=True)
assert [t for t in told if "fit: step 3 of 3, loss" in t[1]] and told[-1][1].startswith("<unicon_align.FitInfo"), told
raises(TypeError, "progress: expected a function of a dict, or True", lambda: context.fit(x, y, 4, progress="bar"))

# Without a library, with another file, with one that lacks functions: what to do, in one line.
folder = os.path.dirname(os.path.dirname(unicon_align.__file__))
if not os.path.exists(os.path.join(folder, "unicon_align/libunicon.so")):
    for library, text in [("/nowhere/libunicon.so", "cannot load the C library /nowhere/libunicon.so"), (__file__, "cannot load the C library")]:
        environment = {**os.environ, "UNICON_LIBRARY": library, "PYTHONPATH": folder}
        got = subprocess.run([sys.executable, "-c", "import unicon_align"], env=environment, capture_output=True, text=True)
        assert got.returncode == 1 and got.stderr.strip().splitlines()[-1].startswith("ImportError: unicon_align: " + text), got.stderr
        assert "install a wheel of unicon-align, or name the file in UNICON_LIBRARY" in got.stderr

digits = unicon_align.digits()
assert digits.left.shape == digits.right.shape == (1797, 32) and digits.left.dtype == np.uint8 and set(digits.labels) == set(range(10))
print(f"{len(unicon_align.__all__)} names")
