"""Prints the defaults of every struct that the package makes, and of the parameters that it spells out."""

import ctypes
import importlib.util
import inspect

import unicon_align as unicon
from unicon_align import _abi, _fit, _library


def show(name, struct, skip=()):
    for field, kind in struct._fields_:
        if kind in _fit._PLAIN and field not in skip and not field.startswith(("reserved", "struct_size")):
            print(f"{name}.{field} {float(getattr(struct, field))!r}")


chosen = ("factorization", "svd", "init", "center", "r", "dimension", "kind", "eps_by", "n_landmarks")
show("fit", _fit.fit_options(1, {})[0], chosen)
for preset in ("paper-linear", "paper-kernel", "paper-flickr", "paper-coco-clip", "paper-coco-resnet"):
    show(preset, _fit.fit_options(1, {"preset": preset})[0], chosen)
show("best", _fit.best_options("auto", {})[0], (*chosen, "n_whiten", "n_powers", "n_widths"))
show("loss", unicon.loss("sigmoid"), (*chosen, "family"))
show("kernel", unicon.kernel("rbf"), chosen)
show("damping", unicon.damping())
show("refine", unicon.refine(), ("n_stages",))
show("minibatch", unicon.minibatch())

evaluation = _abi.EvaluationOptions()
_library.check(_library.lib.unicon_evaluation_options_init(evaluation, ctypes.sizeof(evaluation)))
evaluate = inspect.signature(unicon.Context.evaluate).parameters
for field in ("resamples", "level", "seed"):
    assert evaluate[field].default == getattr(evaluation, field), field
    print(f"evaluation.{field} {float(evaluate[field].default)!r}")

if importlib.util.find_spec("sklearn"):
    from unicon_align.sklearn import Alignment

    given = inspect.signature(Alignment).parameters
    assert given["tau"].default == unicon.loss().tau
    assert given["random_state"].default == _fit.best_options("auto", {})[0].seed
    assert given["loss"].default == "clip" and given["center"].default == "auto"
