"""ClipLoss and SigLipLoss against the formulas of open_clip (src/open_clip/loss.py), written out with PyTorch's operations; on several
ranks, too."""

import copy
import multiprocessing
import os
import pickle
import tempfile
import warnings

import torch
import torch.distributed as dist
import torch.distributed.nn
from common import raises
from unicon_align.torch import ClipLoss, SigLipLoss

F = torch.nn.functional
RANKS, N, R = 3, 8, 5


def features(n=24, r=6, dtype=torch.float64, unit=True):
    made = [torch.randn(n, r, dtype=torch.float64) for _ in range(2)]
    return [(F.normalize(z, dim=1) if unit else z).to(dtype).requires_grad_() for z in made]


def parameter(value):
    return torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))


def gathered(image, text, local_loss, gather_with_grad, rank):
    """open_clip's gather_features."""
    if gather_with_grad:
        return [torch.cat(torch.distributed.nn.all_gather(z)) for z in (image, text)]
    out = []
    for z in (image, text):
        parts = [torch.zeros_like(z) for _ in range(RANKS)]
        dist.all_gather(parts, z)
        if not local_loss:
            parts[rank] = z
        out.append(torch.cat(parts))
    return out


def clip(image, text, scale, bias=None, local_loss=False, gather_with_grad=False, rank=0, ranks=1):
    """open_clip's ClipLoss.forward."""
    labels = torch.arange(len(image))
    if ranks > 1:
        images, texts = gathered(image, text, local_loss, gather_with_grad, rank)
        if local_loss:
            per_image, per_text = scale * image @ texts.T, scale * text @ images.T
            labels = labels + len(image) * rank
        else:
            per_image = scale * images @ texts.T
            per_text = per_image.T
            labels = torch.arange(len(images))
    else:
        per_image = scale * image @ text.T
        per_text = scale * text @ image.T
    if bias is not None:
        per_image, per_text = per_image + bias, per_text + bias
    return (F.cross_entropy(per_image, labels) + F.cross_entropy(per_text, labels)) / 2


def siglip(image, text, scale, bias=None, rank=0, ranks=1):
    """open_clip's SigLipLoss.forward; texts of other ranks are all negatives."""
    texts = [text]
    if ranks > 1:
        texts = list(torch.distributed.nn.all_gather(text))
    total = 0.0
    for k, texts_of_rank in enumerate(texts):
        logits = scale * image @ texts_of_rank.T
        if bias is not None:
            logits = logits + bias
        labels = -torch.ones_like(logits)
        if k == rank:
            labels = 2 * torch.eye(len(image), dtype=logits.dtype) + labels
        total = total - F.logsigmoid(labels * logits).sum() / len(image)
    return total


def same(ours, theirs, wrt, tolerance):
    """The value and every gradient."""
    assert ours.dim() == 0 and ours.dtype == torch.promote_types(theirs.dtype, torch.float32)
    assert abs(ours.item() - theirs.item()) <= tolerance * (1 + abs(theirs.item())), (ours, theirs)
    for v, got, want in zip(wrt, torch.autograd.grad(ours, wrt, retain_graph=True), torch.autograd.grad(theirs, wrt, retain_graph=True)):
        assert got.shape == v.shape and got.dtype == v.dtype, (got, v)
        error = (got.double() - want.double()).abs().max().item()
        assert error <= tolerance * (1 + want.double().abs().max().item()), (error, got, want)


def alone():
    image, text = features()
    far = features(unit=False)
    for scale in (0.5, 10.0, 100.0, 300.0):
        s = parameter(scale)
        same(ClipLoss()(image, text, s), clip(image, text, s), (image, text, s), 1e-11)
        for bias in (-10.0, 0.0, 1e-3, 4.0):
            b = parameter(bias)
            same(SigLipLoss()(image, text, s, b), siglip(image, text, s, b), (image, text, s, b), 1e-11)
        same(SigLipLoss()(image, text, s), siglip(image, text, s), (image, text, s), 1e-11)
        same(SigLipLoss()(image, text, s, -3.0), siglip(image, text, s, -3.0), (image, text, s), 1e-11)
    # Features of any norm, as open_clip's losses take them.
    s, b = parameter(4.0), parameter(-2.0)
    same(ClipLoss()(*far, s), clip(*far, s), (*far, s), 1e-11)
    same(SigLipLoss()(*far, s, b), siglip(*far, s, b), (*far, s, b), 1e-11)
    small = [(z.detach() * 1e-3).requires_grad_() for z in far]
    same(ClipLoss()(*small, s), clip(*small, s), (*small, s), 1e-11)
    # A bias cancels in clip: its gradient is 0, not missing.
    same(ClipLoss()(image, text, s, b), clip(image, text, s, b), (image, text, s, b), 1e-11)
    assert torch.autograd.grad(ClipLoss()(image, text, s, b), b)[0].item() == 0
    # Numbers and one-element tensors; a dict where asked.
    for scale in (10.0, torch.tensor(10.0), torch.tensor([10.0])):
        assert abs(ClipLoss()(image, text, scale).item() - clip(image, text, 10.0).item()) < 1e-12
    assert list(ClipLoss()(image, text, 10.0, output_dict=True)) == ["contrastive_loss"]
    assert list(SigLipLoss()(image, text, 10.0, -10.0, True)) == ["contrastive_loss"]
    assert torch.autograd.gradcheck(lambda a, b, s, t: SigLipLoss()(a, b, s, t), (*features(6, 3), s, b))
    assert torch.autograd.gradcheck(lambda a, b, s: ClipLoss()(a, b, s), (*features(6, 3), s))
    first = torch.autograd.grad(SigLipLoss()(image, text, s, b), image, create_graph=True)[0]
    raises(RuntimeError, "first derivatives only", lambda: torch.autograd.grad(first.sum(), text))

    # Half precision and autocast: float32, as near as the features are.
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)):
        halves = [z.detach().to(dtype).requires_grad_() for z in (image, text)]
        exact = [z.detach().double().requires_grad_() for z in halves]
        for cast in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
                for ours, theirs in ((ClipLoss()(*halves, s), clip(*exact, s)), (SigLipLoss()(*halves, s, b), siglip(*exact, s, b))):
                    assert ours.dtype == torch.float32 and abs(ours.item() - theirs.item()) < 1e-5 * theirs.item()
                    for got, want in zip(torch.autograd.grad(ours, halves), torch.autograd.grad(theirs, exact)):
                        assert got.dtype == dtype and (got.double() - want).abs().max() <= tolerance * (1 + want.abs().max())

    # A step of training moves the parameters as with open_clip's loss.
    for ours, theirs, begin in ((ClipLoss(), clip, (2.6, 0.0)), (SigLipLoss(), siglip, (2.3, -10.0))):
        moved = []
        for criterion in (ours, theirs):
            log_scale, bias = parameter(begin[0]), parameter(begin[1])
            optimizer = torch.optim.SGD([log_scale, bias], lr=0.05)
            for _ in range(3):
                optimizer.zero_grad()
                criterion(image, text, log_scale.exp(), bias).backward()
                optimizer.step()
            moved.append((log_scale.item(), bias.item()))
        assert max(abs(a - b) for a, b in zip(*moved)) < 1e-10 and moved[0] != begin, moved

    for criterion in (ClipLoss(cache_labels=True), SigLipLoss(dist_impl="gather")):
        for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
            assert twin(image, text, 10.0).item() == criterion(image, text, 10.0).item() and not list(twin.parameters())
    for kind, text_of, call in [
        (ValueError, "use_horovod", lambda: ClipLoss(use_horovod=True)), (ValueError, "rank: expected 0", lambda: ClipLoss(rank=2, world_size=2)),
        (ValueError, "dist_impl", lambda: SigLipLoss(dist_impl="ring")),
        (RuntimeError, "torch.distributed has not been initialised", lambda: ClipLoss(world_size=2)(image, text, 1.0)),
        (ValueError, "logit_scale: expected above 0", lambda: ClipLoss()(image, text, 1001.0)),
        (ValueError, "logit_scale: expected above 0", lambda: ClipLoss()(image, text, 0.0)),
        (ValueError, "logit_scale: expected above 0", lambda: SigLipLoss()(image, text, 500.0, -501.0)),
        (ValueError, "logit_scale: expected above 0", lambda: SigLipLoss()(image, text, float("nan"), -1.0)),
        (ValueError, "one floating-point value", lambda: ClipLoss()(image, text, torch.ones(2))),
        (ValueError, "text_features: expected 24 x 6", lambda: ClipLoss()(image, text[:5], 1.0)),
        (ValueError, "n x r", lambda: ClipLoss()(image[0], text[0], 1.0)),
        (TypeError, "image_features: expected floating-point", lambda: SigLipLoss()(image.long(), text.long(), 1.0)),
    ]:
        raises(kind, text_of, call)
    if hasattr(torch, "compile") and hasattr(torch, "compiler"):
        model = torch.nn.Linear(6, 6, dtype=torch.float64)
        step = torch.compile(lambda a, b: ClipLoss()(F.normalize(model(a), dim=1), F.normalize(b, dim=1), 10.0), backend="eager")
        ours = step(*far)
        ours.backward()
        got = model.weight.grad.clone()
        model.zero_grad()
        clip(F.normalize(model(far[0]), dim=1), F.normalize(far[1], dim=1), 10.0).backward()
        assert (got - model.weight.grad).abs().max() < 1e-11


def ranked(rank, name):
    """On one of several ranks, every way of gathering."""
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{name}", rank=rank, world_size=RANKS)
    part = slice(rank * N, rank * N + N)
    image, text = (z.detach()[part].requires_grad_() for z in features(RANKS * N, R))
    s, b = parameter(20.0), parameter(-5.0)
    for local_loss in (False, True):
        for with_grad in (False, True):
            options = {"local_loss": local_loss, "gather_with_grad": with_grad, "rank": rank}
            ours = ClipLoss(world_size=RANKS, **options)(image, text, s)
            same(ours, clip(image, text, s, ranks=RANKS, **options), (image, text, s), 1e-11)
    for way in ("bidir", "gather"):
        ours = SigLipLoss(rank=rank, world_size=RANKS, dist_impl=way)(image, text, s, b)
        same(ours, siglip(image, text, s, b, rank=rank, ranks=RANKS), (image, text, s, b), 1e-11)
    single = [z.detach().float().requires_grad_() for z in (image, text)]
    for scale in (10.0, 100.0):
        options = {"local_loss": True, "gather_with_grad": True, "rank": rank}
        same(ClipLoss(world_size=RANKS, **options)(*single, scale), clip(*single, scale, ranks=RANKS, **options), single, 3e-5)
    dist.barrier()
    dist.destroy_process_group()


# What open_clip gathers with is deprecated; ours warns of nothing.
warnings.simplefilter("error", UserWarning)
warnings.simplefilter("ignore", ResourceWarning)  # of PyTorch, when a process ends
warnings.filterwarnings("ignore", category=FutureWarning, message="torch.distributed.nn")

if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    alone()
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        ranks = [spawn.Process(target=ranked, args=(k, os.path.join(folder, "meeting"))) for k in range(RANKS)]
        for p in ranks:
            p.start()
        for p in ranks:
            p.join(120)
            assert p.exitcode == 0, p.exitcode
    print(f"PyTorch {torch.__version__}, {RANKS} ranks")
