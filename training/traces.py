"""Tokens and what the experts foresaw of them: KIND.tokens and KIND.foreseen in a folder, as examples/trace.rs writes them."""

from pathlib import Path

import numpy as np
import torch

# Share of each kind in training.
MIX = {"prose": 0.48, "docs": 0.24, "zh": 0.12, "code": 0.11, "logs": 0.03, "data": 0.02}


class Traces:
    """What lies in some folders, by kind. All decisions are in one array; each kind knows where its tokens' first ones are."""

    def __init__(self, folders, tree, start):
        self.start, self.kinds, decisions, before = start, {}, [], 0
        for kind in MIX:
            pieces = []
            for name in [Path(folder) / kind for folder in folders]:
                tokens = np.fromfile(name.with_suffix(".tokens"), "<u2")
                foreseen = np.fromfile(name.with_suffix(".foreseen"), "<u2")
                ends = np.cumsum(tree.depth[tokens])
                assert ends[-1] == len(foreseen), f"{name}: not made with this tree"
                pieces.append((tokens, np.concatenate([[0], ends[:-1]]) + before))
                decisions.append(foreseen)
                before += len(foreseen)
            self.kinds[kind] = [np.concatenate(x) for x in zip(*pieces)]
        self.foreseen = np.concatenate(decisions)

    def crop(self, kind, at, length):
        """Inputs, targets and their first decisions: `length` tokens behind the start token."""
        tokens, first = self.kinds[kind]
        targets = tokens[at : at + length].astype(np.int64)
        return np.concatenate([[self.start], targets[:-1]]), targets, first[at : at + length]

    def batch(self, rng, n, length):
        """n random crops; kinds are drawn by MIX. A crop mostly begins in the middle of a file, as lanes do."""
        kinds, shares = list(MIX), np.array(list(MIX.values()))
        rows = []
        for kind in rng.choice(len(kinds), n, p=shares / shares.sum()):
            at = rng.integers(0, len(self.kinds[kinds[kind]][0]) - length)
            rows.append(self.crop(kinds[kind], at, length))
        return [torch.from_numpy(np.stack(x)) for x in zip(*rows)]

    def windows(self, kind, length, at_most):
        """At most so many evenly spaced crops, one by one."""
        tokens = self.kinds[kind][0]
        length = min(length, len(tokens) - 1)
        n = max(1, min(at_most, len(tokens) // length))
        for at in np.linspace(0, len(tokens) - length - 1, n).astype(int):
            yield [torch.from_numpy(x)[None] for x in self.crop(kind, at, length)]
