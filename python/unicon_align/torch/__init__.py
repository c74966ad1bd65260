"""Exact contrastive losses of a whole batch for PyTorch, in O(n r) memory: no n x n matrix of logits, however large the batch.

    from unicon_align.torch import ClipLoss
    criterion = ClipLoss()                                   # in place of open_clip's
    criterion(image_features, text_features, model.logit_scale.exp()).backward()

``SigLipLoss`` is open_clip's other loss, ``ContrastiveLoss`` the whole family with any positives, and ``group`` makes the processes of
torch.distributed the ranks of a closed-form fit:

    context = unicon_align.Context(group=torch.distributed.group.WORLD)
    model, info = context.fit(x_of_this_rank, y_of_this_rank, r=128)
"""

from ._contrastive import ContrastiveLoss
from ._group import group
from ._open_clip import ClipLoss, SigLipLoss

__all__ = ["ClipLoss", "ContrastiveLoss", "SigLipLoss", "group"]
