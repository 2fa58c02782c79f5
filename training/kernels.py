"""What PyTorch has no fast form of on a processor: the gated scan, and the loss along the tree's paths (kernels.c)."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent


def library():
    """kernels.c, compiled for this machine."""
    source, built = HERE / "kernels.c", HERE / "libkernels.so"
    if not built.exists() or built.stat().st_mtime < source.stat().st_mtime:
        flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC"]
        subprocess.check_call(["gcc", *flags, str(source), "-o", str(built), "-lm"])
    return ctypes.CDLL(str(built))


C = library()
LONG = ctypes.c_long


def at(t):
    return ctypes.c_void_p(t.data_ptr())


class Scan(torch.autograd.Function):
    """memory[t] = f·memory[t-1] + (1 - f)·z[t] with f = sigmoid(a[t]); all are (B, T, width), of a multiple of 64."""

    @staticmethod
    def forward(ctx, a, z):
        a, z = a.float().contiguous(), z.float().contiguous()
        memory = torch.empty_like(a)
        C.scan(at(a), at(z), at(memory), *map(LONG, a.shape))
        ctx.save_for_backward(a, z, memory)
        return memory

    @staticmethod
    def backward(ctx, grad):
        a, z, memory = ctx.saved_tensors
        grad = grad.float().contiguous()
        da, dz = torch.empty_like(a), torch.empty_like(a)
        C.scan_back(at(a), at(z), at(memory), at(grad), at(da), at(dz), *map(LONG, a.shape))
        return da, dz


class Tree:
    """The coding tree: the path of each token, as examples/trace.rs writes it."""

    def __init__(self, path):
        raw, starts, paths, i = np.fromfile(path, "<u2"), [0], [], 0
        while i < len(raw):
            paths.append(raw[i + 1 : i + 1 + raw[i]])
            starts.append(starts[-1] + int(raw[i]))
            i += int(raw[i]) + 1
        self.tokens = len(paths)
        # The start token comes last and has no decisions.
        self.starts = torch.tensor([*starts, starts[-1]], dtype=torch.int32)
        self.paths = torch.from_numpy(np.concatenate(paths))
        self.depth = np.diff(self.starts.numpy()).astype(np.int64)
        p = np.clip(np.arange(65536) / 65536, 0.5 / 65536, 1 - 0.5 / 65536)
        self.logit = torch.from_numpy(np.log(p / (1 - p)).astype(np.float32))


class TreeLoss(torch.autograd.Function):
    """Losses in nats of n tokens, the experts' logits added to the network's: their sum, and each.

    h: (n, width); nodes: (nodes, width); bias: (nodes,); foreseen: an array of all decisions' probabilities of 65536,
    those of token i from first[i] on.
    """

    @staticmethod
    def forward(ctx, h, nodes, bias, tokens, foreseen, first, tree):
        h = h.float().contiguous()
        (n, width), count, threads = h.shape, nodes.shape[0], torch.get_num_threads()
        grad = h.requires_grad or nodes.requires_grad
        losses, dh = torch.empty(n), torch.empty_like(h)
        d_nodes = torch.zeros(threads if grad else 1, count, width)
        d_bias = torch.zeros(threads if grad else 1, count)
        tokens, first = tokens.int().contiguous(), first.contiguous()
        C.tree_loss(
            at(h), at(nodes), at(bias), at(tokens), at(tree.starts), at(tree.paths), ctypes.c_void_p(foreseen.ctypes.data),
            at(first), at(tree.logit), at(losses), at(dh), at(d_nodes), at(d_bias),
            LONG(n), LONG(width), LONG(count), LONG(threads), ctypes.c_int(int(grad)),
        )  # fmt: skip
        if grad:
            ctx.save_for_backward(dh, d_nodes.sum(0), d_bias.sum(0))
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx, grad, _):
        dh, d_nodes, d_bias = ctx.saved_tensors
        return grad * dh, grad * d_nodes, grad * d_bias, None, None, None, None
