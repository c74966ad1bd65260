"""Every float64 reference case of tests/golden through the C ABI, in float64 and float32.

    UNICON_LIBRARY=.../libunicon.so PYTHONPATH=python python3 tests/ffi/golden.py tests/golden

Limits. Explicit S and the operator: relative to max|S|, 50 eps/tau in float64 and 4 eps/tau in float32 (s/tau carries |s|/tau eps),
with a floor of 1e-7/n for saturated cases. Linear fits: 1e-8 and 5e-6. Kernel fits: 1e-8 and 2e-4, 2e-3 for the singular linear
kernel. Gram matrices: rounding, and what acos and square roots make of it near their ends.
"""

import json
import pathlib
import sys

import numpy as np
import unicon_align as unicon

KERNELS = ["linear", "cosine", "angular", "arccos", "exp_cosine", "rbf", "matern"]


class Csr:
    def __init__(self, indptr, indices):
        self.indptr, self.indices = indptr, indices


class Case:
    def __init__(self, path, dtype):
        self.path, self.dtype = path, dtype
        self.meta = json.loads((path / "meta.json").read_text())
        self.exact = dtype == np.float64
        self.eps = np.finfo(dtype).eps
        self.checks = []

    def has(self, name):
        return (self.path / f"{name}.npy").exists()

    def array(self, name):
        return np.load(self.path / f"{name}.npy")

    def input(self, name):
        return np.ascontiguousarray(self.array(name), dtype=self.dtype)

    def loss(self):
        options = dict(self.meta["loss_def"])
        kind = options.pop("kind")
        options["eps_by"] = ["positives", "diagonal"].index(options.pop("eps_by", "positives"))
        return unicon.loss(kind, **options)

    def kernel(self, name=None, clamp=None):
        parameters = self.meta.get("kernel_params", self.meta)
        name = name or self.meta["kernel"]
        clamp = self.meta["cos_clamp"] if clamp is None else clamp
        return unicon.kernel(name + "32" if name == "matern" else name, cos_clamp=clamp,
                             **{k: parameters[k] for k in ("beta", "gamma", "lengthscale") if k in parameters})

    def positives(self):
        return Csr(self.array("pos_indptr"), self.array("pos_indices")) if self.has("pos_indptr") else None

    def validation(self):
        return (self.input("x_val"), self.input("y_val")) if self.has("x_val") else None

    def check(self, what, got, want, limit):
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        assert got.shape == want.shape, f"{self.path.name} {what}: shape {got.shape} against {want.shape}"
        error = float(np.max(np.abs(got - want), initial=0.0)) if np.isfinite(got).all() else np.inf
        self.checks.append((error / max(limit, 1e-300), what, error, limit))

    def exponential_limit(self):
        return (50 if self.exact else 4) * self.eps / min(self.meta["loss_def"]["tau"], 1.0)


def explicit(case, context):
    """S1, SM: S and the loss of given similarities."""
    w = unicon.Weights.of_similarity(context, case.input("s"), case.loss(), case.positives())
    limit = case.exponential_limit()
    for key, got in zip(("loss", "loss_rows", "loss_cols"), w.losses()):
        case.check(key, got, case.meta[key], limit * max(1, abs(case.meta[key])))
    floor = (1e-15 if case.exact else 1e-7) / max(w.shape)
    case.check("S", w.dense(), case.array("S"), limit * case.meta["S_max_abs"] + floor)


def operator(case, context):
    """C: similarities of encoders, S as an operator, C = X^T S Y / rho."""
    x, y = case.input("x"), case.input("y")
    f1, f2 = case.array("F1").astype(np.float64), case.array("F2").astype(np.float64)
    model = context.linear_model(f1, f2)
    zx, zy = model.encode(x, "x"), model.encode(y, "y")
    w = context.weights(zx, zy, case.loss(), case.positives())
    limit = 10 * case.exponential_limit()
    case.check("loss", w.loss, case.meta["loss"], limit * max(1, abs(case.meta["loss"])))
    s = w.dense()
    case.check("S", s, case.array("S"), limit * np.abs(case.array("S")).max())
    if case.meta["scale_inputs"]:
        x, y = ((a / np.linalg.norm(a @ f.T, axis=1, keepdims=True)).astype(case.dtype) for a, f in ((x, f1), (y, f2)))
    case.check("C", w.cross(x, y) / case.meta["rho"], case.array("C"), limit * case.meta["C_max_abs"])
    scale = case.meta["C_max_abs"] + np.abs(s @ zy).max()
    case.check("S V", w.apply(zy), s @ zy, limit * scale)
    case.check("S^T U", w.apply_transpose(zx), s.T @ zx, limit * scale)
    value, dzx, dzy = context.contrastive_grad(zx, zy, case.loss(), case.positives())
    case.check("value", value, case.meta["loss"], limit * max(1, abs(case.meta["loss"])))
    case.check("dL/dZx", dzx, -s @ zy, limit * scale)
    case.check("dL/dZy", dzy, -s.T @ zx, limit * scale)


def check_model(case, context, model, limit):
    zx, zy = model.encode(case.input("x_test"), "x"), model.encode(case.input("y_test"), "y")
    want = case.array("sim_test")
    case.check("test similarities", model.similarity(case.input("x_test"), case.input("y_test")), want, limit)
    case.check("products of embeddings", zx @ zy.T, want, limit)
    # Exact wherever the error is far below the smallest top-1 to top-2 gap.
    if 10 * limit < case.meta.get("test_min_top1_margin", 0):
        truth = relation(case.array("test_gt")) if case.has("test_gt") else None
        got = context.recall(zx, zy, [1], truth)["x2y"][1]
        case.check("R@1", got, case.meta["test"]["x2y_R@1"], 1e-12)


def relation(gt):
    rows = [np.flatnonzero(row) for row in gt]
    return Csr(np.cumsum([0] + [len(r) for r in rows]), np.concatenate(rows))


def linear(case, context):
    """LIN: whole fits from given encoders."""
    m = case.meta
    x, y = case.input("x_train"), case.input("y_train")
    options = dict(loss=case.loss(), n_iters=m["n_iters"], rho=m["rho"], factorization=m["factorization"], ridge=m["ridge"],
                   scale_inputs=int(m["scale_inputs"]))
    whole = m["batch_size"] >= len(x)
    if not whole:
        options.update(batch_size=m["batch_size"], n_batches=m["n_batches"] or 0, drop_trailing=1, final_loss=0)
    start = context.linear_model(case.array("F1_init").astype(np.float64), case.array("F2_init").astype(np.float64))
    model, info = context.fit(x, y, m["r"], positives=case.positives(), validation=case.validation(), warm_start=start, **options)
    limit = 1e-8 if case.exact else 5e-6
    g = case.array("G")
    # Sums over negatives of the additive members are not averaged: G scales with the loss.
    case.check("F1^T F2", model.encoder("x").T @ model.encoder("y"), g, limit * max(1, np.abs(g).max()))
    check_model(case, context, model, limit)
    losses = [np.mean(batches) for batches in m["losses_before_each_batch"]]
    case.check("losses", info.loss, losses, limit * max(1, np.abs(losses).max()))
    if whole:
        want = m["loss_train_after"]
        case.check("final loss", info.final_loss, want, limit * max(1, abs(want)))


def kernel_fit(case, context):
    """KER: the exact kernel solver, also in batches and from given similarities."""
    m = case.meta
    options = dict(loss=case.loss(), kernel=case.kernel(), n_landmarks="all", n_iters=m["n_iters"], rho=m["rho"], tol=m["tol"],
                   kernel_ridge=m["ridge"], final_loss=0)
    if m["n_batches"] > 1:
        options.update(batch_size=m["n_batch"], drop_trailing=1)
    if m["s_init"] == "given":
        options["similarity"] = case.input("s_init")
    model, info = context.fit(case.input("x_train"), case.input("y_train"), m["r"], positives=case.positives(),
                              validation=case.validation(), **options)
    singular = m["kernel"] == "linear"
    limit = 1e-8 if case.exact else 2e-3 if singular else 2e-4
    check_model(case, context, model, limit)
    first = np.mean([losses[0] for losses in m["losses_before_each_step"]])
    case.check("first loss", info.loss[0], first, limit * max(1, abs(first)))
    if case.exact:
        case.check("steps", info.n_iters, m["steps"][0], 0)
        case.check("changes", info.change, m["deltas"][0][1:], 1e-7)


def nystrom(case, context):
    """NYS: fits on given landmarks."""
    m = case.meta
    landmarks = case.array("landmarks")
    model, _ = context.fit(case.input("x_train"), case.input("y_train"), m["r"], positives=case.positives(), loss=case.loss(),
                           kernel=case.kernel(), landmarks=landmarks, kernel_ridge=m["ridge"], n_iters=m["n_iters"],
                           factorization=m["factorization"], final_loss=0)
    limit = 1e-8 if case.exact else 2e-4
    check_model(case, context, model, limit)
    if case.has("sim_test_kernel_solver"):
        got = model.similarity(case.input("x_test"), case.input("y_test"))
        case.check("the kernel solver's", got, case.array("sim_test_kernel_solver"),
                   max(limit, 10 * m["kernel_vs_nystrom_max_abs_diff"]))


def gram(case, context):
    """GRAM: Gram matrices, with and without the authors' clamp."""
    a, b = case.input("a"), case.input("b")
    for name in KERNELS:
        for suffix, clamp in (("", 1e-5), ("_noclamp", 0.0)):
            if not case.has(f"K_{name}{suffix}"):
                continue
            want = case.array(f"K_{name}{suffix}")
            # acos near +-1 turns an error e of the cosine into sqrt(2 e) (no clamp) or e/sqrt(2e-5) (clamp); the square root in
            # matern does the same to a distance near 0.
            rounding = 16 * case.eps
            limit = {"angular": rounding / 4e-3 if clamp else rounding**0.5, "arccos": rounding / 4e-3,
                     "matern": rounding**0.5}.get(name, 4 * rounding)
            got = context.gram(case.kernel(name, clamp), a, b)
            case.check(f"K_{name}{suffix}", got, want, limit * max(1, np.abs(want).max()))


def metrics(case, context):
    """MET: recalls of given similarities, as inner products with the unit vectors: exact in both precisions."""
    sim, gt = case.input("sim"), case.array("gt")
    ks = case.meta["ks"]
    got = context.recall(sim, np.eye(sim.shape[1], dtype=case.dtype), ks, relation(gt))
    for direction in ("x2y", "y2x"):
        for k in ks:
            low, high = (case.meta[which][f"{direction}_R@{k}"] for which in ("pessimistic", "optimistic"))
            value = got[direction][k]
            case.check(f"{direction} R@{k}", max(low - value, value - high, 0), 0, 1e-12)
    scores, indices = context.search(sim, np.eye(sim.shape[1], dtype=case.dtype), 3)
    order = np.argsort(-sim, axis=1, kind="stable")[:, :3]
    case.check("search", indices, order, 0)
    case.check("scores", scores, np.take_along_axis(sim, order, 1), 0)


FAMILIES = {"S_one_to_one": explicit, "S_many_to_many": explicit, "C": operator, "linear_fit": linear, "kernel_fit": kernel_fit,
            "nystrom_fit": nystrom, "gram": gram, "metrics": metrics}


def main(folder):
    paths = sorted(p for p in pathlib.Path(folder).iterdir() if p.is_dir())
    context = unicon.Context(n_threads=2)
    failed = checked = 0
    for dtype in (np.float64, np.float32):
        worst = {}
        for path in paths:
            case = Case(path, dtype)
            FAMILIES[case.meta["family"]](case, context)
            assert case.checks, f"{path.name}: nothing was checked"
            checked += len(case.checks)
            for ratio, what, error, limit in case.checks:
                if not ratio <= 1 and not error <= limit:
                    failed += 1
                    print(f"{path.name} {dtype.__name__}: {what}: error {error:.2e} above {limit:.2e}")
            family = path.name.split("_")[0]
            worst[family] = max(worst.get(family, (0,)), max(case.checks) + (path.name,))
        for family, (ratio, what, error, limit, name) in worst.items():
            print(f"{dtype.__name__} {family:4} worst {error:.1e} of {limit:.1e}: {name}, {what}")
    print(f"golden: {len(paths)} cases, {checked} checks, {failed} failed")
    return failed > 0 or not paths


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
