"""The loss layer for PyTorch against PyTorch's own operations, in float64."""

import copy
import io
import pickle

import numpy as np
import torch
import unicon_align as unicon
from common import raises
from unicon_align.torch import ContrastiveLoss

torch.manual_seed(0)
torch.set_num_threads(1)
ce = torch.nn.functional.cross_entropy


def embeddings(n=24, r=6, dtype=torch.float64):
    return [torch.randn(n, r, dtype=dtype, requires_grad=True) for _ in range(2)]


def clip(x, y, scale):
    """open_clip's loss of logits scale * s."""
    logits = scale * torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(y, dim=1).T
    labels = torch.arange(len(x))
    return (ce(logits, labels) + ce(logits.T, labels)) / 2


def sigmoid(x, y, tau, nu=1.5):
    s = torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(y, dim=1).T
    n, total = len(s), 0.0
    for s in (s, s.T):
        own = s.diagonal()[:, None]
        terms = torch.nn.functional.softplus((s - nu * own) / tau)
        terms = torch.where(torch.eye(n, dtype=torch.bool), torch.nn.functional.softplus((1 - nu) * own / tau), terms)
        total = total + terms.sum() / (2 * n)
    return total


def same(got, want, tolerance=1e-9):
    got, want = (torch.as_tensor(v, dtype=torch.float64) for v in (got, want))
    assert torch.isfinite(got).all() and (got - want).abs().max() <= tolerance * (1 + want.abs().max()), (got, want)


# A temperature that is learned gets its gradient, in every convention.
x, y = embeddings()
for value in (0.05, 0.3, 2.0):
    tau = torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))
    scale = torch.tensor(1 / value, dtype=torch.float64, requires_grad=True)
    cases = [
        (ContrastiveLoss("clip", tau=tau)(x, y), tau * clip(x, y, 1 / tau), (x, y, tau)),
        (ContrastiveLoss("clip", tau=tau, convention="open_clip")(x, y), clip(x, y, 1 / tau), (x, y, tau)),
        (ContrastiveLoss("clip", convention="open_clip")(x, y, logit_scale=scale), clip(x, y, scale), (x, y, scale)),
        (ContrastiveLoss("clip")(x, y, logit_scale=scale), clip(x, y, scale) / scale, (x, y, scale)),
        (ContrastiveLoss("clip", convention="open_clip", reduction="sum")(x, y, logit_scale=scale), 24 * clip(x, y, scale), (x, y, scale)),
        (ContrastiveLoss("sigmoid", tau=tau)(x, y), sigmoid(x, y, tau), (x, y, tau)),
        (ContrastiveLoss("clip", tau=value)(x, y), value * clip(x, y, 1 / value), (x, y)),
        (ContrastiveLoss("clip", tau=value, convention="open_clip")(x, y), clip(x, y, 1 / value), (x, y)),
    ]
    for ours, theirs, wrt in cases:
        same(ours, theirs)
        for got, want in zip(torch.autograd.grad(ours, wrt), torch.autograd.grad(theirs, wrt)):
            assert got.shape == want.shape and got.dtype == want.dtype
            same(got, want)

# As open_clip has it: the parameter is the logarithm of the scale. A step of an optimiser moves it as it moves theirs.
moved = []
for ours in (True, False):
    log_scale = torch.nn.Parameter(torch.tensor(np.log(1 / 0.07)))
    optimizer, criterion = torch.optim.SGD([log_scale], lr=0.1), ContrastiveLoss("clip", convention="open_clip")
    for _ in range(3):
        optimizer.zero_grad()
        (criterion(x, y, logit_scale=log_scale.exp()) if ours else clip(x, y, log_scale.exp())).backward()
        optimizer.step()
    moved.append(log_scale.item())
assert abs(moved[0] - moved[1]) < 1e-6 and abs(moved[0] - np.log(1 / 0.07)) > 1e-3

# Checked by differences, with every form of positives; one side only; no side at all.
tau = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
ids = torch.arange(8) % 3
mask = ids[:, None] == ids[None, :]
a, b = embeddings(8, 3)
for kind in ("clip", "sigmoid"):
    layer = ContrastiveLoss(kind, tau=tau)
    for positives in (None, (ids, ids), mask, mask.nonzero(), mask.to_sparse()):
        if positives is not None and kind == "clip":
            same(layer(a, b, positives), layer(a, b, (ids, ids)))
        assert torch.autograd.gradcheck(lambda a, b, t: ContrastiveLoss(kind, tau=t)(a, b, positives), (a, b, tau))
for kind in ("triplet_hard", "triplet_smooth"):
    assert torch.autograd.gradcheck(lambda a, b: ContrastiveLoss(kind, tau=0.3)(a, b), (a, b))
layer = ContrastiveLoss("clip", tau=0.2)
both = torch.autograd.grad(layer(x, y), (x, y))
same(torch.autograd.grad(layer(x, y.detach()), x)[0], both[0], 0)
same(torch.autograd.grad(layer(x.detach(), y), y)[0], both[1], 0)
same(torch.autograd.grad(ContrastiveLoss("clip", tau=tau)(x.detach(), y.detach()), tau)[0],
     torch.autograd.grad(ContrastiveLoss("clip", tau=tau)(x, y), tau)[0], 0)
with torch.no_grad():
    quiet = layer(x, y)
assert not quiet.requires_grad and not layer(x.detach(), y.detach()).requires_grad
same(quiet, layer(x, y), 0)

# Second derivatives are refused, not invented.
first = torch.autograd.grad(layer(x, y), x, create_graph=True)[0]
raises(RuntimeError, "first derivatives only", lambda: torch.autograd.grad(first.sum(), x, retain_graph=True))
for wrt in (y, [x, y]):
    raises(RuntimeError, "first derivatives only", lambda: torch.autograd.grad(first.square().sum(), wrt, retain_graph=True))
upstream = torch.ones((), dtype=torch.float64, requires_grad=True)
linear = torch.autograd.grad(layer(x, y), x, upstream, create_graph=True)[0]
same(torch.autograd.grad(linear.sum(), upstream)[0], both[0].sum())  # linear in what comes from above, and that is known
first = torch.autograd.grad(ContrastiveLoss("clip", tau=tau)(x, y), tau, create_graph=True)[0]
raises(RuntimeError, "first derivatives only", lambda: torch.autograd.grad(first, tau))

# Layouts and precisions. The loss is float32 also under autocast and of half precision.
wide = [torch.randn(24, 12, dtype=torch.float64, requires_grad=True) for _ in range(2)]
for cut in (lambda z: z[:, ::2], lambda z: z[:, 3:9], lambda z: z[:, :6].t().contiguous().t(), lambda z: z.flip(0)[:, :6]):
    u, v = (cut(z) for z in wide)
    same(layer(u, v), layer(u.contiguous(), v.contiguous()), 1e-12)
    for got, want in zip(torch.autograd.grad(layer(u, v), wide), torch.autograd.grad(0.2 * clip(u, v, 5.0), wide)):
        same(got, want)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    u, v = (z.detach().to(dtype).requires_grad_() for z in (x, y))
    exact = [z.detach().double().requires_grad_() for z in (u, v)]
    theirs = 0.2 * clip(*exact, 5.0)
    for cast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
            ours = layer(u, v)
            grads = torch.autograd.grad(ours, (u, v))
        assert ours.dtype == torch.float32 and grads[0].dtype == dtype
        same(ours, theirs, 1e-6)
        for got, want in zip(grads, torch.autograd.grad(theirs, exact, retain_graph=True)):
            same(got, want, {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype])
with torch.autocast("cpu", dtype=torch.bfloat16):
    linear = torch.nn.Linear(6, 6)
    out = layer(linear(x.float()), y.float())
    out.backward()
assert out.dtype == torch.float32 and torch.isfinite(linear.weight.grad).all()
mixed = layer(x.detach().float().requires_grad_(), y)
assert mixed.dtype == torch.float64
same(mixed, layer(x, y), 1e-6)

# The scale of a row does not matter, whatever it is; a zero row stays one.
for factor in (1e-30, 1e30, 1e-42):
    u = x.detach().float() * torch.tensor([factor, 1.0]).repeat(12)[:, None]
    same(layer(u, y.float()), layer(x.float(), y.float()), 1e-2 if factor == 1e-42 else 1e-5)
zero = x.detach().clone()
zero[3] = 0
zero.requires_grad_()
grad = torch.autograd.grad(layer(zero, y), zero)[0]
assert torch.isfinite(grad).all()

# Copies and files.
module = torch.nn.ModuleDict({"loss": ContrastiveLoss("clip", tau=tau), "encoder": torch.nn.Linear(6, 4)})
twin = copy.deepcopy(module)
with torch.no_grad():
    twin["loss"].tau.mul_(2)
assert tau.item() == 0.3 and twin["loss"].tau.item() == 0.6 and [n for n, _ in module.named_parameters()][0] == "loss.tau"
same(twin["loss"](x, y), ContrastiveLoss("clip", tau=0.6)(x, y), 1e-12)
same(pickle.loads(pickle.dumps(module))["loss"](x, y), module["loss"](x, y), 0)
file = io.BytesIO()
torch.save(module, file)
file.seek(0)
options = {"weights_only": False} if torch.__version__ >= "2" else {}
same(torch.load(file, **options)["loss"](x, y), module["loss"](x, y), 0)
module.load_state_dict(twin.state_dict())
assert tau.item() == 0.6


class Rows(torch.utils.data.Dataset):
    """Encodes in the workers of a loader, which are forks."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return torch.from_numpy(self.model.encode(np.ones((1, 6), np.float32) * (i + 1), "x")[0])


model = unicon.Context().linear_model(np.eye(3, 6), np.eye(3, 6))
rows = torch.cat(list(torch.utils.data.DataLoader(Rows(model), batch_size=2, num_workers=2, timeout=20)))
same(rows, np.full((8, 3), 3**-0.5), 1e-6)

for kind, text, call in [
    (ValueError, "convention", lambda: ContrastiveLoss("clip", convention="clip")),
    (ValueError, "convention", lambda: ContrastiveLoss("sigmoid", convention="open_clip")),
    (ValueError, "reduction", lambda: ContrastiveLoss("clip", reduction="none")),
    (ValueError, "learned with clip or sigmoid", lambda: ContrastiveLoss("triplet_smooth", tau=tau)),
    (ValueError, "one floating-point value", lambda: ContrastiveLoss("clip", tau=torch.ones(2))),
    (ValueError, "temperature of its own", lambda: ContrastiveLoss("clip", tau=tau)(x, y, logit_scale=3.0)),
    (ValueError, "n x r", lambda: layer(x[0], y[0])), (TypeError, "floating-point", lambda: layer(x.long(), y.long())),
    (unicon.Error, "tau", lambda: layer(x, y, logit_scale=-1.0)), (unicon.Error, "tau", lambda: layer(x, y, logit_scale=float("nan"))),
    (ValueError, "as many rows", lambda: ContrastiveLoss("clip", reduction="sum")(x, y[:5], (ids.repeat(3), ids[:5]))),
    (unicon.Error, "row 2", lambda: layer(torch.where(torch.arange(24)[:, None] == 2, float("nan"), 1.0) * x, y)),
    (TypeError, "positives", lambda: layer(x, y, torch.ones(24, 24))),
]:
    raises(kind, text, call)

# Sampled negatives: others in each call of training, the same in eval(), a derivative of the temperature that is that of the estimate.
many = torch.nn.functional.normalize(torch.randn(300, 6, dtype=torch.float64), dim=1)
near = torch.nn.functional.normalize(many + 0.5 * torch.randn(300, 6, dtype=torch.float64), dim=1)
learned = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
sampled, exact = ContrastiveLoss("clip", tau=learned, n_negatives=64, seed=5), ContrastiveLoss("clip", tau=0.3)
first, second = sampled(many, near).item(), sampled(many, near).item()
assert first != second and abs(first - exact(many, near).item()) < 0.1 * first
sampled.eval()
assert sampled(many, near).item() == sampled(many, near).item() == first
slope = torch.autograd.grad(sampled(many, near), learned)[0].item()
values = []
for step in (-1e-5, 1e-5):
    values.append(ContrastiveLoss("clip", tau=0.3 + step, n_negatives=64, seed=5).eval()(many, near).item())
assert abs((values[1] - values[0]) / 2e-5 - slope) < 1e-6 * max(1, abs(slope)), (values, slope)
assert "n_negatives=64, seed=5" in repr(sampled)

# No rows are no rows of results.
linear = unicon.Context().linear_model(np.eye(3, 6), np.eye(3, 6))
assert linear.encode(torch.zeros(0, 6), "x").shape == (0, 3)
assert linear.encode(torch.zeros(0, 6), "x", out=torch.zeros(0, 3)).shape == (0, 3)

# Tensors as features and outputs, where they lie.
context = unicon.Context()
f = torch.randn(50, 6)
for features in (f, f.double(), f.bfloat16(), f.half(), f.t().contiguous().t(), f.requires_grad_()):
    z = context.linear_model(np.eye(3, 6), np.eye(3, 6)).encode(features, "x")
    same(z, torch.nn.functional.normalize(features.detach().double()[:, :3], dim=1), 1e-6)
for out in (torch.zeros(50, 3), torch.zeros(50, 3, dtype=torch.bfloat16), torch.zeros(3, 50).t()):
    assert model.encode(f, "x", out=out) is out and (out.norm(dim=1) - 1).abs().max() < 1e-2
raises(ValueError, "f[None, :]".replace("f", "features"), lambda: model.encode(torch.ones(6), "x"))
raises((TypeError, ValueError), "features", lambda: model.encode(torch.ones(2, 6).to_sparse(), "x"))
same(model.encode(f.detach().repeat_interleave(2, 1)[:, ::2], "x"), model.encode(f, "x"), 0)
for dtype in (torch.int64, torch.int8, torch.bool):
    same(model.encode(torch.ones(2, 6).to(dtype), "x"), np.full((2, 3), 3**-0.5), 1e-6)
half = f.detach().bfloat16().repeat_interleave(2, 1)
same(model.encode(half[:, ::2], "x"), model.encode(half[:, ::2].contiguous(), "x"), 0)
raises(ValueError, "out: expected", lambda: model.encode(f, "x", out=torch.zeros(50, 6)[:, ::2].numpy()))
raises(unicon.Error, "stride", lambda: model.encode(f, "x", out=torch.zeros(50, 6)[:, ::2]))
print(f"PyTorch {torch.__version__}")
