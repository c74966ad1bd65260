"""Trains two small encoders with the exact global-batch loss as a PyTorch loss, and checks its gradients."""

import torch
import unicon_align
from unicon_align.torch import ContrastiveLoss

torch.manual_seed(0)
z = torch.randn(512, 6)
x = z @ torch.randn(6, 24) + 0.3 * torch.randn(512, 24)
y = torch.tanh(z @ torch.randn(6, 16)) + 0.3 * torch.randn(512, 16)

criterion = ContrastiveLoss("clip", tau=0.1)
encoders = torch.nn.Linear(24, 8), torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 8))
optimizer = torch.optim.Adam([p for e in encoders for p in e.parameters()], lr=1e-2)
for step in range(101):
    loss = criterion(encoders[0](x), encoders[1](y))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == 0:
        first = loss.item()
    if step % 25 == 0:
        print(f"step {step:3}: loss {loss.item():.4f}")
assert loss.item() < first / 2

# The same loss and gradients as PyTorch's own, where that can hold the n x n logits.
a, b = (torch.nn.functional.normalize(torch.randn(64, 8, dtype=torch.float64), dim=1).requires_grad_() for _ in range(2))
logits = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T / 0.1
labels = torch.arange(64)
own = 0.1 * (torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)) / 2
grads = torch.autograd.grad(own, (a, b))
ours = criterion(a, b)
for got, want in zip(torch.autograd.grad(ours, (a, b)), grads):
    assert torch.allclose(got, want, atol=1e-12), (got - want).abs().max()
print(f"gradients agree with PyTorch's: loss {ours.item():.6f} and {own.item():.6f}")

# Tensors are read and written where they lie, also in bfloat16.
model, info = unicon_align.Context().fit(x.bfloat16(), y.bfloat16(), 6, whiten=0.01)
out = torch.empty(512, 6, dtype=torch.bfloat16)
assert model.encode(x.bfloat16(), "x", out=out) is out and torch.isfinite(out).all()
