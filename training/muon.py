"""Muon: momentum whose matrices are made nearly orthogonal by a Newton-Schulz iteration.

The algorithm is Keller Jordan's (https://kellerjordan.github.io/posts/muon/); the scale of a step is that of
torch.optim.Muon, which computes in bfloat16 whatever the CPU and so takes seconds a step on one without it.
"""

import torch

A, B, C, ITERATIONS = 3.4445, -4.7750, 2.0315, 5


def orthogonalised(g):
    """g with its singular values moved near 1; (rows, columns)."""
    tall = g.shape[0] > g.shape[1]
    x = g.T if tall else g
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum, weight_decay, dtype):
        self.dtype = dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                nesterov = p.grad.lerp(buffer, group["momentum"])
                step = orthogonalised(nesterov.to(self.dtype)).to(p.dtype)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(step, alpha=-group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)
