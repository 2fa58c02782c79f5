"""Token shards: `<tokens>/<source>/{train,val}-<kind>.u16`, little-endian 16-bit ids.

Documents follow one another, each behind the start token.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from model import START

# Share of each kind in training.
MIX = {"prose": 0.20, "docs": 0.11, "zh": 0.22, "code": 0.14, "logs": 0.28, "data": 0.05}


class Shards:
    """The tokens of one split by kind, over several sources; kinds of at most `length` tokens are left out."""

    def __init__(self, folders, split, length):
        self.kinds = {}
        for kind in MIX:
            paths = [Path(f) / f"{split}-{kind}.u16" for f in folders]
            parts = [np.fromfile(p, dtype="<u2") for p in paths if p.exists()]
            if sum(map(len, parts)) > length:
                self.kinds[kind] = np.concatenate(parts)
        if not self.kinds:
            sys.exit(f"too few {split} tokens in {', '.join(map(str, folders))}: run prepare.py on more text first")

    def crops(self, rng, n, length):
        """n random crops of `length` tokens, each behind the start token; kinds drawn by MIX."""
        kinds = list(self.kinds)
        p = np.array([MIX[k] for k in kinds])
        rows = np.full((n, length + 1), START, dtype=np.int64)
        for row in rows:
            a = self.kinds[kinds[rng.choice(len(kinds), p=p / p.sum())]]
            o = rng.integers(0, len(a) - length)
            row[1:] = a[o : o + length]
        return torch.from_numpy(rows)

    def windows(self, kind, length, at_most):
        """At most `at_most` evenly spaced windows of `length` tokens, each behind the start token."""
        a = self.kinds[kind]
        n = len(a) // length
        picked = np.unique(np.linspace(0, n - 1, min(n, at_most)).astype(int))
        rows = [np.concatenate([[START], a[i * length : (i + 1) * length]]) for i in picked]
        return torch.from_numpy(np.array(rows, dtype=np.int64))


def bytes_per_token(tokenizer):
    """How many bytes each token stands for; 0 for the start token."""
    sizes = [len(tokenizer.id_to_token(i)) for i in range(tokenizer.get_vocab_size())]
    sizes[START] = 0  # byte-level tokens spell one character per byte; this one is a name
    return torch.tensor(sizes, dtype=torch.float64)
