"""Exports the weights of a state (RUN/last.pt, RUN/stable.pt) for `lmfs model import`, at any time during a run.

  export.py --state RUN/last.pt --out DIR
"""

import argparse
from pathlib import Path

import torch

import model as gated


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--state", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    model = gated.Model(gated.Config())
    model.load_state_dict(torch.load(a.state, weights_only=False)["model"])
    gated.export(model, a.out)


if __name__ == "__main__":
    main()
