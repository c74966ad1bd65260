"""UniCon's exact global-batch loss as a PyTorch loss, and the ranks of torch.distributed for fits.

    from unicon.torch import ContrastiveLoss
    criterion = ContrastiveLoss("clip", tau=0.07)
    criterion(image_encoder(a), text_encoder(b)).backward()

Memory is O(n r): no n x n matrix of logits, however large the batch.

    context = unicon.Context(group=torch.distributed.group.WORLD)
    model, info = context.fit(x_of_this_rank, y_of_this_rank, r=128)
"""

import copy
import datetime
import os

import torch

from . import Context, loss as make_loss

# Kinds whose derivative by tau follows from the gradients.
_LEARNABLE = {"clip", "sigmoid"}


class _First(torch.autograd.Function):
    """A first derivative: itself, and an error where it is differentiated."""

    @staticmethod
    def forward(ctx, derivative, *of):
        return derivative.clone()

    @staticmethod
    def backward(ctx, upstream):
        raise RuntimeError("unicon.torch: the loss has first derivatives only, the second cannot be had from this layer")


class _Contrastive(torch.autograd.Function):
    """L of unit rows and a temperature (a tensor of one element), with its first derivatives."""

    @staticmethod
    def forward(ctx, zx, zy, tau, context, loss, positives, by_tau):
        needed, given = any(ctx.needs_input_grad), (zx, zy, tau)
        zx, zy = zx.detach(), zy.detach()
        dzx, dzy = (torch.empty_like(zx), torch.empty_like(zy)) if needed else (False, False)
        if zx.is_cuda:
            torch.cuda.current_stream(zx.device).synchronize()
        value, _, _ = context.contrastive_grad(zx, zy, loss, positives, dzx, dzy)
        if needed:
            # Of psi(s / tau) the derivative by tau is -sum_ij s_ij dL/ds_ij / tau; clip has a factor tau besides.
            dtau = 0.0
            if by_tau:
                along = (zx.double() * dzx.double()).sum().item()
                dtau = ((value if by_tau == "clip" else 0.0) - along) / loss.tau
            ctx.save_for_backward(*given, dzx, dzy, tau.new_tensor(dtau))
        return zx.new_tensor(value)

    @staticmethod
    def backward(ctx, upstream):
        *given, dzx, dzy, dtau = ctx.saved_tensors
        if torch.is_grad_enabled():
            # create_graph: what is returned depends on the inputs, and autograd would take it for constant.
            dzx, dzy, dtau = (_First.apply(d, *given) for d in (dzx, dzy, dtau))
        return upstream * dzx, upstream * dzy, upstream.to(dtau) * dtau, None, None, None, None


def _unit(z, name):
    """Unit rows in float32 or float64, whatever the scale of the rows."""
    if z.dim() != 2 or 0 in z.shape:
        raise ValueError(f"{name}: expected embeddings n x r, got shape {tuple(z.shape)}")
    if not z.is_floating_point():
        raise TypeError(f"{name}: expected floating-point embeddings, got {z.dtype}")
    z = z if z.dtype == torch.float64 else z.float()
    # The norm of a very large or small row is beyond the number type: it is taken of the row over its largest value.
    most = z.detach().abs().amax(dim=1, keepdim=True)
    far = (most > 0) & ((most < 1e-10) | (most > 1e10)) & torch.isfinite(most)
    if far.any():
        z = z / torch.where(far, most, torch.ones_like(most))
    return torch.nn.functional.normalize(z, dim=1)


class ContrastiveLoss(torch.nn.Module):
    """The loss of two batches of embeddings, which it normalises to unit rows: a tensor of one value, float32 (float64 of float64).

    kind and parameters are those of unicon.loss. tau may be a Parameter (or any tensor of one element), which then gets its gradient:
    clip and sigmoid. The value and gradients of clip are tau times those of open_clip; ``convention="open_clip"`` divides by tau, so that
    clip is the mean of two cross-entropies of logits s / tau. ``reduction="sum"`` is n times the mean over the n rows of each side.

    The context is made on first use, on the device of the embeddings. Embeddings may be of any layout, also half precision and under
    autocast: the loss is computed in float32. Only first derivatives exist; asking for second ones is an error.
    """

    def __init__(self, kind="clip", context=None, *, convention="unicon", reduction="mean", tau=None, **parameters):
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
        self._contexts = {}

    def _check(self, value, name):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(f"{name}: expected one floating-point value, got {value.dtype} of shape {tuple(value.shape)}")
        if value.requires_grad and self.kind not in _LEARNABLE:
            raise ValueError(f"{name}: a temperature is learned with clip or sigmoid, got {self.kind}")

    def _context_of(self, device):
        if self.context is not None:
            return self.context
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f"x: expected embeddings on the CPU or on CUDA, got {device}")
        if device not in self._contexts:
            self._contexts[device] = Context("cuda", device.index or 0) if device.type == "cuda" else Context("cpu")
        return self._contexts[device]

    def forward(self, x, y, positives=None, logit_scale=None):
        """x is n_x x r, y is n_y x r; positives as unicon.Positives.

        logit_scale is 1/tau, in place of tau, as open_clip's losses take it (the exponential of the model's parameter).
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
        loss = copy.copy(self.loss)
        if tau is not None:
            loss.tau = float(tau.detach())
        with torch.autocast(x.device.type, enabled=False):
            zx, zy = _unit(x, "x"), _unit(y, "y")
            wide = torch.promote_types(zx.dtype, zy.dtype)
            zx, zy = (z.to(wide).contiguous() for z in (zx, zy))
            given = zx.new_tensor(loss.tau, dtype=torch.float64) if tau is None else tau.double().reshape(())
            by_tau = self.kind if given.requires_grad else ""
            value = _Contrastive.apply(zx, zy, given, self._context_of(x.device), loss, positives, by_tau)
            if self.convention == "open_clip":
                value = value / given.to(value.device, value.dtype)
            if self.reduction == "sum":
                if len(x) != len(y):
                    raise ValueError(f"reduction: the sum is one over as many rows of x as of y, got {len(x)} and {len(y)}")
                value = value * len(x)
            return value

    def extra_repr(self):
        tau = "given" if self.tau is not None else self.loss.tau
        return f"{self.kind}, tau={tau}, convention={self.convention}, reduction={self.reduction}"


class group:
    """The processes of a torch.distributed group (WORLD by default) for ``Context(group=...)``.

    Data of a group that has NCCL alone passes through the current CUDA device, of any other through the host. `timeout` is the
    number of seconds to wait for another process; by default UNICON_COMM_TIMEOUT, or half an hour.
    """

    def __init__(self, group=None, timeout=None):
        distributed = torch.distributed
        if not distributed.is_available() or not distributed.is_initialized():
            raise RuntimeError("group: torch.distributed has not been initialised: call torch.distributed.init_process_group first")
        self._group = distributed.group.WORLD if group is None else group
        self.rank, self.size = distributed.get_rank(self._group), distributed.get_world_size(self._group)
        if self.rank < 0:
            raise ValueError("group: this process is not in the group")
        seconds = float(os.environ.get("UNICON_COMM_TIMEOUT") or 1800) if timeout is None else timeout
        self._timeout = datetime.timedelta(seconds=seconds)
        nccl = distributed.get_backend(self._group) == "nccl"
        self._device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        self._world = [distributed.get_global_rank(self._group, k) for k in range(self.size)]

    def _sent(self, buffer):
        return torch.frombuffer(buffer, dtype=torch.uint8).to(self._device)

    def allgather(self, sent, received):
        """Fills `received` with the `sent` of all ranks, in order."""
        if not len(sent):
            return
        host = torch.frombuffer(received, dtype=torch.uint8)
        out = host if self._device.type == "cpu" else torch.empty_like(host, device=self._device)
        parts = list(out.chunk(self.size))
        self._wait(torch.distributed.all_gather(parts, self._sent(sent), group=self._group, async_op=True))
        if out is not host:
            host.copy_(out)

    def send_recv(self, sent, to, received, source):
        """Sends `sent` to rank `to` while `received` comes from rank `source`; either may be empty."""
        works, host, out = [], None, None
        if len(received):
            host = torch.frombuffer(received, dtype=torch.uint8)
            out = host if self._device.type == "cpu" else torch.empty_like(host, device=self._device)
        if self._device.type == "cuda":
            # NCCL does what is asked for in one group at once.
            send, receive = torch.distributed.isend, torch.distributed.irecv
            asked = [torch.distributed.P2POp(send, self._sent(sent), self._world[to], self._group)] if len(sent) else []
            if out is not None:
                asked.append(torch.distributed.P2POp(receive, out, self._world[source], self._group))
            works = torch.distributed.batch_isend_irecv(asked) if asked else []
        else:
            # Both are under way before either is waited for.
            if out is not None:
                works.append(torch.distributed.irecv(out, self._world[source], self._group))
            if len(sent):
                works.append(torch.distributed.isend(self._sent(sent), self._world[to], self._group))
        for work in works:
            self._wait(work)
        if out is not host:
            host.copy_(out)

    def _wait(self, work):
        if self._device.type == "cpu":
            work.wait(self._timeout)
        else:
            work.wait()
            torch.cuda.synchronize(self._device)
