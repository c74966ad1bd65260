"""UniCon's exact global-batch loss as a PyTorch loss.

    from unicon.torch import ContrastiveLoss
    criterion = ContrastiveLoss("clip", tau=0.07)
    criterion(image_encoder(a), text_encoder(b)).backward()

Memory is O(n r): no n x n matrix of logits, however large the batch.
"""

import torch

from . import Context, loss as make_loss


class _Contrastive(torch.autograd.Function):
    @staticmethod
    def forward(ctx, zx, zy, context, loss, positives):
        zx, zy = zx.detach(), zy.detach()
        dzx, dzy = torch.empty_like(zx), torch.empty_like(zy)
        if zx.is_cuda:
            torch.cuda.current_stream(zx.device).synchronize()
        value, _, _ = context.contrastive_grad(zx, zy, loss, positives, dzx, dzy)
        ctx.save_for_backward(dzx, dzy)
        return zx.new_tensor(value)

    @staticmethod
    def backward(ctx, upstream):
        dzx, dzy = ctx.saved_tensors
        return upstream * dzx, upstream * dzy, None, None, None


class ContrastiveLoss(torch.nn.Module):
    """The loss of two batches of embeddings, which it normalises to unit rows.

    kind and parameters are those of unicon.loss; the context is made on first use, on the device of the embeddings.
    """

    def __init__(self, kind="clip", context=None, **parameters):
        super().__init__()
        self.loss = make_loss(kind, **parameters)
        self.context = context

    def forward(self, x, y, positives=None):
        """x is n_x x r, y is n_y x r; positives None (diagonal), a pair of group id arrays, or CSR."""
        if self.context is None:
            self.context = Context("cuda", x.device.index or 0) if x.is_cuda else Context("cpu")
        zx, zy = (torch.nn.functional.normalize(z, dim=1).contiguous() for z in (x, y))
        return _Contrastive.apply(zx, zy, self.context, self.loss, positives)
