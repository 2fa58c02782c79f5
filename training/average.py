"""Averages the weights of two exported models of the same run: often better than either.

Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization".
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("first", type=Path)
    p.add_argument("second", type=Path)
    p.add_argument("out", type=Path)
    p.add_argument("--share", type=float, default=0.5, help="of the second")
    a = p.parse_args()
    first, second = (load_file(m / "model.safetensors") for m in (a.first, a.second))
    a.out.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(a.first / name, a.out / name)
    mean = {k: (first[k].float() * (1 - a.share) + second[k].float() * a.share).contiguous() for k in first}
    save_file(mean, a.out / "model.safetensors")
