"""Exports the weights of a state (RUN/last.pt, RUN/stable.pt) as a Hugging Face folder.

  export.py --state RUN/last.pt --tokenizer tokenizer.json --out DIR
"""

import argparse
from pathlib import Path

import torch

import model as base


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--state", type=Path, required=True)
    p.add_argument("--tokenizer", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    model = base.Model(base.Config())
    model.load_state_dict(torch.load(a.state, weights_only=False)["model"])
    base.export(model, a.tokenizer, a.out)


if __name__ == "__main__":
    main()
