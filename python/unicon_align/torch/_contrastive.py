"""The loss family as a PyTorch module."""

from __future__ import annotations

import copy
from typing import Any, Optional

import torch

from .. import Context, Loss
from .. import loss as make_loss

# Kinds whose derivative by tau follows from the gradients.
_LEARNABLE = {"clip", "sigmoid"}


def gradients(context: Context, zx: torch.Tensor, zy: torch.Tensor, loss: Loss, positives: Any, needed: bool, n_negatives: int = 0,
              seed: int = 0) -> tuple[float, Any, Any]:
    """The loss of rows of norm at most 1, and where needed its gradients."""
    dzx, dzy = (torch.empty_like(zx), torch.empty_like(zy)) if needed else (False, False)
    if zx.is_cuda:
        torch.cuda.current_stream(zx.device).synchronize()
    value, _, _ = context.contrastive_grad(zx, zy, loss, positives, dzx, dzy, n_negatives=n_negatives, seed=seed)
    return value, dzx, dzy


class First(torch.autograd.Function):
    """A first derivative: itself, and an error where it is differentiated."""

    @staticmethod
    def forward(ctx: Any, derivative: torch.Tensor, *of: torch.Tensor) -> torch.Tensor:
        return derivative.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        raise RuntimeError("unicon_align.torch: the loss has first derivatives only, the second cannot be had from this layer")


class Contrastive(torch.autograd.Function):
    """L of rows of norm at most 1 and a temperature (a tensor of one element), with its first derivatives."""

    @staticmethod
    def forward(ctx: Any, zx: torch.Tensor, zy: torch.Tensor, tau: torch.Tensor, context: Context, loss: Loss, positives: Any,
                by_tau: str, n_negatives: int = 0, seed: int = 0) -> torch.Tensor:
        needed, given = any(ctx.needs_input_grad), (zx, zy, tau)
        zx, zy = zx.detach(), zy.detach()
        value, dzx, dzy = gradients(context, zx, zy, loss, positives, needed, n_negatives, seed)
        if needed:
            # Of psi(s / tau) the derivative by tau is -sum_ij s_ij dL/ds_ij / tau; clip has a factor tau besides.
            dtau = 0.0
            if by_tau:
                along = (zx.double() * dzx.double()).sum().item()
                dtau = ((value if by_tau == "clip" else 0.0) - along) / loss.tau
            ctx.save_for_backward(*given, dzx, dzy, tau.new_tensor(dtau))
        return zx.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *upstreams: torch.Tensor) -> Any:
        (upstream,) = upstreams
        *given, dzx, dzy, dtau = ctx.saved_tensors
        if torch.is_grad_enabled():
            # create_graph: what is returned depends on the inputs, and autograd would take it for constant.
            dzx, dzy, dtau = (First.apply(d, *given) for d in (dzx, dzy, dtau))
        return upstream * dzx, upstream * dzy, upstream.to(dtau) * dtau, None, None, None, None, None, None


def wide(z: torch.Tensor, name: str) -> torch.Tensor:
    """Embeddings in float32 or float64."""
    if z.dim() != 2 or 0 in z.shape:
        raise ValueError(f"{name}: expected embeddings n x r, got shape {tuple(z.shape)}")
    if not z.is_floating_point():
        raise TypeError(f"{name}: expected floating-point embeddings, got {z.dtype}")
    return z if z.dtype == torch.float64 else z.float()


def _unit(z: torch.Tensor, name: str) -> torch.Tensor:
    """Unit rows in float32 or float64, whatever the scale of the rows."""
    z = wide(z, name)
    # The norm of a very large or small row is beyond the number type: it is taken of the row over its largest value.
    most = z.detach().abs().amax(dim=1, keepdim=True)
    far = (most > 0) & ((most < 1e-10) | (most > 1e10)) & torch.isfinite(most)
    if far.any():
        z = z / torch.where(far, most, torch.ones_like(most))
    return torch.nn.functional.normalize(z, dim=1)


class Contexts:
    """A context for each device that is met, or the one that was given."""

    def __init__(self, given: Optional[Context] = None) -> None:
        self._given = given
        self._made: dict[torch.device, Context] = {}

    def of(self, device: torch.device) -> Context:
        """The context of a device."""
        if self._given is not None:
            return self._given
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"x: expected embeddings on the CPU or on CUDA, got {device}")
        if device not in self._made:
            self._made[device] = Context("cuda", device.index or 0) if device.type == "cuda" else Context("cpu")
        return self._made[device]


class ContrastiveLoss(torch.nn.Module):
    """The loss of two batches of embeddings, which it normalises to unit rows: a tensor of one value, float32 (float64 of float64).

    kind and parameters are those of ``unicon_align.loss``. tau may be a Parameter (or any tensor of one element), which then gets its gradient:
    clip and sigmoid. The value and gradients of clip are tau times those of open_clip; ``convention="open_clip"`` divides by tau, so that
    clip is the mean of two cross-entropies of logits s / tau. ``reduction="sum"`` is n times the mean over the n rows of each side.

    ``n_negatives`` above 0 samples so many negatives per row and column, which stand for all: cheaper than the exact loss by
    n / n_negatives. In training each call draws others, of ``seed``, ``seed + 1`` and so on; in ``eval()`` all are those of ``seed``.

    The context is made on first use, on the device of the embeddings. Embeddings may be of any layout, also half precision and under
    autocast: the loss is computed in float32. Only first derivatives exist; asking for second ones is an error.
    """

    def __init__(self, kind: str = "clip", context: Optional[Context] = None, *, convention: str = "unicon", reduction: str = "mean",
                 tau: Any = None, n_negatives: int = 0, seed: int = 0, **parameters: Any) -> None:
        super().__init__()
        for name, value, known in (("convention", convention, ("unicon", "open_clip")), ("reduction", reduction, ("mean", "sum"))):
            if value not in known:
                raise ValueError(f"{name}: expected {' or '.join(known)}, got {value!r}")
        if convention == "open_clip" and kind != "clip":
            raise ValueError(f"convention: open_clip's is that of clip, got {kind}")
        self.kind, self.convention, self.reduction, self.context = kind, convention, reduction, context
        self.tau = tau if isinstance(tau, torch.Tensor) else None
        if self.tau is not None:
            self._check(self.tau, "tau")
        elif tau is not None:
            parameters["tau"] = tau
        self.loss = make_loss(kind, **parameters)
        self.n_negatives, self.seed, self._calls = n_negatives, seed, 0
        self._contexts = Contexts(context)

    def _check(self, value: torch.Tensor, name: str) -> None:
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(f"{name}: expected one floating-point value, got {value.dtype} of shape {tuple(value.shape)}")
        if value.requires_grad and self.kind not in _LEARNABLE:
            raise ValueError(f"{name}: a temperature is learned with clip or sigmoid, got {self.kind}")

    def forward(self, x: torch.Tensor, y: torch.Tensor, positives: Any = None, logit_scale: Any = None) -> torch.Tensor:
        """The loss of n_x x r and n_y x r embeddings, a tensor of no dimensions.

        positives are those of ``unicon_align.Positives``; None: the rows of x and y in their order. logit_scale is 1/tau, in place of
        tau, as open_clip's losses take it (the exponential of the model's parameter).
        """
        if x.device != y.device:
            raise ValueError(f"y: expected embeddings on {x.device}, as x, got {y.device}")
        tau = self.tau
        if logit_scale is not None:
            if tau is not None:
                raise ValueError("logit_scale: this loss has a temperature of its own, tau")
            scale = torch.as_tensor(logit_scale, dtype=None if isinstance(logit_scale, torch.Tensor) else torch.float64)
            self._check(scale, "logit_scale")
            tau = 1 / scale.double()
        seed = self.seed
        if self.n_negatives and self.training:
            seed += self._calls
            self._calls += 1
        loss = copy.copy(self.loss)
        if tau is not None:
            loss.tau = float(tau.detach())
        with torch.autocast(x.device.type, enabled=False):
            zx, zy = _unit(x, "x"), _unit(y, "y")
            common = torch.promote_types(zx.dtype, zy.dtype)
            zx, zy = zx.to(common).contiguous(), zy.to(common).contiguous()
            given = zx.new_tensor(loss.tau, dtype=torch.float64) if tau is None else tau.double().reshape(())
            by_tau = self.kind if given.requires_grad else ""
            value: torch.Tensor = Contrastive.apply(zx, zy, given, self._contexts.of(x.device), loss, positives, by_tau,
                                                    self.n_negatives, seed)
            if self.convention == "open_clip":
                value = value / given.to(value.device, value.dtype)
            if self.reduction == "sum":
                if len(x) != len(y):
                    raise ValueError(f"reduction: the sum is one over as many rows of x as of y, got {len(x)} and {len(y)}")
                value = value * len(x)
            return value

    def extra_repr(self) -> str:
        tau = "given" if self.tau is not None else self.loss.tau
        sampled = f", n_negatives={self.n_negatives}, seed={self.seed}" if self.n_negatives else ""
        return f"{self.kind}, tau={tau}, convention={self.convention}, reduction={self.reduction}{sampled}"
