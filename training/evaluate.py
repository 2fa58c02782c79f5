"""Bits a token on what was held out, by kind: with the network, and by the experts alone.

  evaluate.py --traces WORK/traces --model DIR [DIR...]
"""

import argparse
import math
from pathlib import Path

import torch

import model as gated
from kernels import Tree
from traces import MIX, Traces

# Tokens of a window: about as many as a lane of a block has.
LENGTH = 8192


@torch.no_grad()
def report(model, tree, held, at_most=12):
    words = []
    for kind in MIX:
        bits = alone = tokens = 0.0
        for ids, targets, first in held.windows(kind, LENGTH, at_most):
            bits += model(ids, targets, held.foreseen, first, tree).item() / math.log(2)
            decisions = held.foreseen[first[0, 0] : first[0, -1] + tree.depth[targets[0, -1]]]
            sides = torch.cat([tree.paths[tree.starts[t] : tree.starts[t + 1]].int() & 1 for t in targets[0]])
            p = torch.from_numpy(decisions.astype("f8")).clamp(0.5, 65535.5) / 65536
            alone -= torch.where(sides == 1, p, 1 - p).log2().sum().item()
            tokens += targets.numel()
        words.append(f"{kind} {bits / tokens:.3f} ({alone / tokens:.3f}, {100 * (1 - bits / alone):.2f}% less)")
    return " ".join(words)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--traces", type=Path, required=True)
    p.add_argument("--model", type=Path, nargs="+", required=True)
    p.add_argument("--at-most", type=int, default=12, help="windows of each kind")
    a = p.parse_args()
    tree = Tree(a.traces / "held/code.tree")
    for folder in a.model:
        model = gated.load(folder)
        held = Traces([a.traces / "held"], tree, model.c.start)
        print(folder, report(model, tree, held, a.at_most))


if __name__ == "__main__":
    main()
