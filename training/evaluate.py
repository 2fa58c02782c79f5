"""Bits per byte of a model alone, by kind, on the held-out files: full windows, each from the start token.

  evaluate.py --model DIR [DIR...] --tokens TOKENS/SOURCE [...]
"""

import argparse
import math
from pathlib import Path

import torch
from tokenizers import Tokenizer

import model as base
from tokens import Shards, bytes_per_token


@torch.no_grad()
def report(model, tokenizer, shards, at_most):
    """{kind: bits per byte}, over at most `at_most` windows of each kind."""
    sizes, found = bytes_per_token(tokenizer), {}
    for kind in shards.kinds:
        rows = shards.windows(kind, model.c.max_position_embeddings, at_most)
        bits = size = 0.0
        for part in rows.split(16):
            targets = part[:, 1:]
            nats = model(part[:, :-1], targets)
            # Start tokens between documents are nobody's bytes.
            bits += nats[targets != base.START].double().sum().item() / math.log(2)
            size += sizes[targets].sum().item()
        found[kind] = round(bits / size, 4)
    return found


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", type=Path, nargs="+", required=True)
    p.add_argument("--tokens", type=Path, nargs="+", required=True)
    p.add_argument("--at-most", type=int, default=256, help="windows of each kind")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    for folder in a.model:
        model, tokenizer = base.load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
        for tokens in a.tokens:
            print(folder, tokens, report(model, tokenizer, Shards([tokens], "val", model.c.max_position_embeddings), a.at_most), flush=True)


if __name__ == "__main__":
    main()
