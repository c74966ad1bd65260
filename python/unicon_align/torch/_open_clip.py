"""The losses of open_clip, with its signatures and numbers, from the loss layer of the C ABI.

The layer knows clip and sigmoid losses of similarities z_x . z_y of rows of norm at most 1 with a temperature. Everything else is made of
those exactly: features of any norm by scaling both, a bias by one more coordinate, the loss of rows alone (local_loss) by one more row
that takes the columns' sums over.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Optional

import torch
import torch.distributed

from .. import Context
from .. import loss as make_loss
from ._contrastive import Contexts, Contrastive, First, gradients, wide

# The layer's temperature is at least 0.001.
_LARGEST_SCALE = 1000.0
# Torch 1.13 has no compiler; a layer of ctypes is called as it is from compiled code.
_outside_graphs: Callable[[Any], Any] = getattr(getattr(torch, "compiler", None), "disable", lambda f: f)


def _number(value: Any, name: str, like: torch.Tensor) -> torch.Tensor:
    """One value as a float64 tensor without dimensions, with its history."""
    given = value if isinstance(value, torch.Tensor) else torch.tensor(float(value), dtype=torch.float64)
    if given.numel() != 1 or not given.is_floating_point():
        raise ValueError(f"{name}: expected one floating-point value, got {given.dtype} of shape {tuple(given.shape)}")
    return given.double().reshape(()).to(like.device)


def _bounded(z: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Rows of norm at most 1, and what they were divided by: 1 of unit rows."""
    with torch.no_grad():
        largest = float(torch.linalg.vector_norm(z, dim=1, dtype=torch.float64).max())
    # Rounding of unit rows, which the layer allows.
    if largest <= 1 + 1e-6 or not math.isfinite(largest):
        return z, 1.0
    return z / largest, largest


class _Rows(torch.autograd.Function):
    """Mean over i of log sum_j exp(z_ij) - z_ip, p = first + i, z = scale a b^T: a n x r, b m x r, norms at most 1.

    The layer's loss has the rows' and the columns' terms. One more row, of similarity large enough to be the whole sum of every column,
    leaves of the columns' terms only what is linear in the z_ip, and that is taken off. What it neglects is below exp(-40) of the sum.
    """

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, first: int, context: Context) -> torch.Tensor:
        given = (a, b, scale)
        a, b, s = a.detach(), b.detach(), float(scale.detach())
        (n, r), m = a.shape, len(b)
        above = s + 40.0 + math.log(n)
        total = math.hypot(s, above)
        zx, zy = a.new_zeros(n + 1, r + 1), b.new_zeros(m, r + 1)
        zx[:n, :r], zx[n, r] = a, 1.0
        zy[:, :r], zy[:, r] = b * (s / total), above / total
        own = b[first : first + n]
        ids = torch.arange(m)
        groups = torch.cat([ids[first : first + n], torch.tensor([-1])]), ids
        needed = any(ctx.needs_input_grad)
        value, dzx, dzy = gradients(context, zx, zy, make_loss("clip", tau=1 / total), groups, needed)
        of_rows, linear = 2 * (n + 1) / n, (n + 1) / (n * m)
        z = s * (a.double() * own.double()).sum().item()
        value = of_rows * (total * value - n * above / (2 * m)) + linear * z
        if needed:
            da = dzx[:n, :r] * (of_rows * total) + own * (linear * s)
            db = dzy[:, :r] * (of_rows * s)
            db[first : first + n] += a * (linear * s)
            ctx.save_for_backward(*given, da, db, scale.new_tensor((a.double() * da.double()).sum().item() / s))
        return a.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *upstreams: torch.Tensor) -> Any:
        return (*_scaled(ctx, upstreams[0], 3), None, None)


class _Pairs(torch.autograd.Function):
    """Mean over i of sum_j softplus(z_ij), less z_ii if `own`, z = scale a b^T + bias: a and b n x r, norms at most 1.

    That is the sigmoid loss with nu = 0. The bias is a coordinate more of both sides.
    """

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, own: bool,
                context: Context) -> torch.Tensor:
        given = (a, b, scale, bias)
        a, b, s, t = a.detach(), b.detach(), float(scale.detach()), float(bias.detach())
        n = len(a)
        share = abs(t) / (s + abs(t))
        # A bias of 0 has a coordinate, too, from which its derivative is read.
        cx, cy = (math.sqrt(share), math.copysign(math.sqrt(share), t)) if t else (0.0, 0.5)
        ax, ay = math.sqrt(1 - cx * cx), math.sqrt(1 - cy * cy)
        total = s / (ax * ay)
        zx, zy = (torch.cat([z * f, z.new_full((n, 1), c)], dim=1) for z, f, c in ((a, ax, cx), (b, ay, cy)))
        needed = any(ctx.needs_input_grad)
        value, dzx, dzy = gradients(context, zx, zy, make_loss("sigmoid", tau=1 / total, nu=0.0), None, needed)
        along = (a.double() * b.double()).sum().item() if own else 0.0
        if own:
            value -= s * along / n + t
        if needed:
            da, db = dzx[:, :-1] * ax, dzy[:, :-1] * ay
            dscale = (a.double() * da.double()).sum().item() / s - along / n
            dbias = dzx[:, -1].double().sum().item() / (total * cy) - own
            if own:
                da, db = da - b * (s / n), db - a * (s / n)
            ctx.save_for_backward(*given, da, db, scale.new_tensor(dscale), bias.new_tensor(dbias))
        return a.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *upstreams: torch.Tensor) -> Any:
        return (*_scaled(ctx, upstreams[0], 4), None, None)


class _Gathered(torch.autograd.Function):
    """The rows of all ranks; a rank's gradient is the sum of what all ranks have of its rows."""

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor, rank: int, size: int) -> torch.Tensor:
        parts = [torch.empty_like(z) for _ in range(size)]
        torch.distributed.all_gather(parts, z.detach())
        ctx.rows = slice(rank * len(z), (rank + 1) * len(z))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *upstreams: torch.Tensor) -> Any:
        gradient = upstreams[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        return gradient[ctx.rows], None, None


def _scaled(ctx: Any, upstream: torch.Tensor, n: int) -> list[torch.Tensor]:
    """First derivatives by n inputs times what comes from above."""
    given, derivatives = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
    if torch.is_grad_enabled():
        derivatives = [First.apply(d, *given) for d in derivatives]
    return [upstream.to(d) * d for d in derivatives]


class _OpenClip(torch.nn.Module):
    """What both losses share."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__()
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 to world_size - 1 = {world_size - 1}, got {rank}")
        self.rank, self.world_size = rank, world_size
        self._contexts = Contexts()

    def _features(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if image.device != text.device:
            raise ValueError(f"text_features: expected features on {image.device}, as image_features, got {text.device}")
        image, text = wide(image, "image_features"), wide(text, "text_features")
        if image.shape != text.shape:
            raise ValueError(f"text_features: expected {' x '.join(map(str, image.shape))}, as image_features, got "
                             f"{' x '.join(map(str, text.shape))}")
        common = torch.promote_types(image.dtype, text.dtype)
        return image.to(common).contiguous(), text.to(common).contiguous()

    def _gathered(self, z: torch.Tensor, with_grad: bool) -> torch.Tensor:
        """The rows of all ranks, each of which has as many."""
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            raise RuntimeError(f"world_size {self.world_size}: torch.distributed has not been initialised: call init_process_group first")
        return _Gathered.apply(z if with_grad else z.detach(), self.rank, self.world_size)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, world_size={self.world_size}"


def _scale_of(scale: torch.Tensor, by: float, added: float = 0.0) -> torch.Tensor:
    """The scale of similarities of features that were divided by `by`."""
    given = float(scale.detach())
    value = given * by
    if not 0 < value + added <= _LARGEST_SCALE or value <= 0:
        raise ValueError(f"logit_scale: expected above 0 and (times the largest norms of both sides, and with the size of a bias) at most "
                         f"{_LARGEST_SCALE:g}, got {given:g}, which makes {value + added:g}")
    return scale * by


class ClipLoss(_OpenClip):
    """open_clip's ClipLoss: the mean of both cross-entropies of the logits ``logit_scale * image_features @ text_features.T``.

    The signature and the numbers are open_clip's; the memory is O(n r). The loss is computed in float32 (float64 of float64), also under
    autocast and of half precision, and is called outside of compiled graphs. Only first derivatives exist; asking for second ones is an error.

    Parameters
    ----------
    local_loss : bool
        With several ranks each computes the rows of its own features against the features of all.
    gather_with_grad : bool
        Gradients flow to the features of other ranks.
    cache_labels : bool
        Accepted; no labels are made.
    rank, world_size : int
        With world_size above 1 features are gathered through torch.distributed (the default group); each rank brings as many rows.
    use_horovod : bool
        Not supported: True is an error.
    """

    def __init__(self, local_loss: bool = False, gather_with_grad: bool = False, cache_labels: bool = False, rank: int = 0,
                 world_size: int = 1, use_horovod: bool = False) -> None:
        super().__init__(rank, world_size)
        if use_horovod:
            raise ValueError("use_horovod: not supported; gather through torch.distributed")
        self.local_loss, self.gather_with_grad, self.cache_labels = local_loss, gather_with_grad, cache_labels
        self.use_horovod = False

    @_outside_graphs
    def forward(self, image_features: torch.Tensor, text_features: torch.Tensor, logit_scale: Any, logit_bias: Any = None,
                output_dict: bool = False) -> Any:
        """The loss, a tensor of no dimensions.

        Parameters
        ----------
        image_features, text_features : n x r, on one device
            As they are: open_clip's models normalise them.
        logit_scale : one value
            The exponential of the model's parameter; gets its gradient if it is a tensor.
        logit_bias : one value, optional
            Added to all logits, it changes nothing: its gradient is 0.
        output_dict : bool
            ``{"contrastive_loss": loss}`` instead of the loss.

        Raises
        ------
        ValueError
            Where logit_scale times the largest norms of both sides is above 1000.
        """
        with torch.autocast(image_features.device.type, enabled=False):
            image, text = self._features(image_features, text_features)
            scale = _number(logit_scale, "logit_scale", image)
            context = self._contexts.of(image.device)
            if self.world_size == 1:
                loss = self._both(image, text, scale, context)
            else:
                everywhere = [self._gathered(z, self.gather_with_grad) for z in (image, text)]
                first, n = self.rank * len(image), len(image)
                if self.local_loss:
                    loss = (self._rows(image, everywhere[1], scale, first, context) + self._rows(text, everywhere[0], scale, first, context)) / 2
                else:
                    if not self.gather_with_grad:
                        # Gradients flow to the features of this rank.
                        everywhere = [torch.cat([e[:first], z, e[first + n :]]) for e, z in zip(everywhere, (image, text))]
                    loss = self._both(everywhere[0], everywhere[1], scale, context)
            if isinstance(logit_bias, torch.Tensor):
                loss = loss + 0.0 * _number(logit_bias, "logit_bias", image).to(loss)
        return {"contrastive_loss": loss} if output_dict else loss

    @staticmethod
    def _both(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, context: Context) -> Any:
        (a, by_a), (b, by_b) = _bounded(image), _bounded(text)
        scale = _scale_of(scale, by_a * by_b)
        tau = 1 / scale
        by_tau = "clip" if tau.requires_grad else ""
        value = Contrastive.apply(a, b, tau, context, make_loss("clip", tau=float(tau.detach())), None, by_tau)
        # The layer's clip is tau times the cross-entropies.
        return (value.double() * scale).to(value.dtype)

    @staticmethod
    def _rows(z: torch.Tensor, other: torch.Tensor, scale: torch.Tensor, first: int, context: Context) -> Any:
        (a, by_a), (b, by_b) = _bounded(z), _bounded(other)
        return _Rows.apply(a, b, _scale_of(scale, by_a * by_b), first, context)

    def extra_repr(self) -> str:
        return f"local_loss={self.local_loss}, gather_with_grad={self.gather_with_grad}, {super().extra_repr()}"


class SigLipLoss(_OpenClip):
    """open_clip's SigLipLoss: ``-logsigmoid(labels * (logit_scale * image_features @ text_features.T + logit_bias)).sum() / n`` with labels
    1 on the diagonal and -1 elsewhere.

    As ``ClipLoss`` otherwise. With several ranks the texts of all are gathered with gradients, which gives what open_clip's exchanges
    between neighbours do.

    Parameters
    ----------
    cache_labels : bool
        Accepted; no labels are made.
    rank, world_size : int
        As for ``ClipLoss``.
    dist_impl : {None, "bidir", "shift", "reduce", "gather"}
        Accepted: open_clip's ways to the same value.
    """

    def __init__(self, cache_labels: bool = False, rank: int = 0, world_size: int = 1, dist_impl: Optional[str] = None) -> None:
        super().__init__(rank, world_size)
        if dist_impl not in (None, "bidir", "shift", "reduce", "gather"):
            raise ValueError(f"dist_impl: expected bidir, shift, reduce or gather, got {dist_impl!r}")
        self.cache_labels, self.dist_impl = cache_labels, dist_impl or "bidir"

    @_outside_graphs
    def forward(self, image_features: torch.Tensor, text_features: torch.Tensor, logit_scale: Any, logit_bias: Any = None,
                output_dict: bool = False) -> Any:
        """The loss, a tensor of no dimensions.

        Parameters
        ----------
        image_features, text_features : n x r, on one device
        logit_scale, logit_bias : one value each
            Get their gradients if they are tensors; no bias is one of 0.
        output_dict : bool
            ``{"contrastive_loss": loss}`` instead of the loss.

        Raises
        ------
        ValueError
            Where logit_scale times the largest norms of both sides and the size of logit_bias are together above 1000.
        """
        with torch.autocast(image_features.device.type, enabled=False):
            image, text = self._features(image_features, text_features)
            scale = _number(logit_scale, "logit_scale", image)
            bias = _number(0.0 if logit_bias is None else logit_bias, "logit_bias", image)
            context = self._contexts.of(image.device)
            texts = [text]
            if self.world_size > 1:
                texts = list(self._gathered(text, True).split(len(text)))
            loss: Any = 0.0
            a, by_a = _bounded(image)
            for k, of_rank in enumerate(texts):
                b, by_b = _bounded(of_rank)
                scaled = _scale_of(scale, by_a * by_b, abs(float(bias.detach())))
                loss = loss + _Pairs.apply(a, b, scaled, bias, k == (self.rank if self.world_size > 1 else 0), context)
        return {"contrastive_loss": loss} if output_dict else loss
