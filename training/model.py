"""The network: gated linear recurrences whose output corrects the experts' logits (docs/engine.md, "Gated").

Shapes: B sequences of T tokens, width D, inner width E.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from kernels import Scan, TreeLoss


@dataclass(frozen=True)
class Config:
    tokens: int = 4096
    hidden_size: int = 256
    inner_size: int = 512
    num_layers: int = 4
    norm_eps: float = 1e-5

    @property
    def start(self):
        return self.tokens

    def to_json(self):
        fixed = {"model_type": "lmfs-gated", "license": "MIT OR Apache-2.0"}
        return json.dumps({**asdict(self), **fixed}, indent=2) + "\n"

    @staticmethod
    def from_json(text):
        given = json.loads(text)
        return Config(**{k: given[k] for k in asdict(Config()) if k in given})


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.inner = c.inner_size
        self.norm = nn.RMSNorm(c.hidden_size, eps=c.norm_eps)
        self.shift = nn.Parameter(torch.linspace(0, 0.5, c.hidden_size))
        self.input = nn.Linear(c.hidden_size, 3 * c.inner_size, bias=False)
        # Memories that last for 2 to 400 tokens to begin with.
        self.keep = nn.Parameter(torch.linspace(0, 6, c.inner_size))
        self.output = nn.Linear(c.inner_size, c.hidden_size, bias=False)
        # Layers start as the identity, which lets Muon use its full rate at once.
        nn.init.zeros_(self.output.weight)

    def forward(self, h):
        x = self.norm(h)
        x = x + self.shift * (F.pad(x, (0, 0, 1, -1)) - x)
        a, z, g = self.input(x).split(self.inner, -1)
        memory = Scan.apply(a.float() + self.keep, z)
        return h + self.output(memory * F.silu(g))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embedding = nn.Embedding(c.tokens + 1, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_layers))
        self.norm = nn.RMSNorm(c.hidden_size, eps=c.norm_eps)
        self.nodes = nn.Parameter(torch.zeros(c.tokens - 1, c.hidden_size))
        self.bias = nn.Parameter(torch.zeros(c.tokens - 1))
        nn.init.normal_(self.embedding.weight, std=0.5)

    def forward(self, ids, targets, foreseen, first, tree):
        """Losses in nats of all targets, summed, given the tokens before them; ids, targets and first are (B, T)."""
        h = self.embedding(ids)
        for layer in self.layers:
            h = layer(h)
        h = self.norm(h).flatten(0, 1)
        return TreeLoss.apply(h, self.nodes, self.bias, targets.flatten(), foreseen, first.flatten(), tree)[0]


def names(state):
    """Tensors as `lmfs model import` wants them called."""
    return {k.removesuffix(".weight"): v for k, v in state.items()}


def export(model, folder):
    """Writes config.json and model.safetensors (float32)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(model.c.to_json())
    tensors = {k: v.detach().float().contiguous() for k, v in names(model.state_dict()).items()}
    save_file(tensors, folder / "model.safetensors")


def load(folder):
    """What [`export`] wrote."""
    folder = Path(folder)
    model = Model(Config.from_json((folder / "config.json").read_text()))
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({k: tensors[k.removesuffix(".weight")] for k in model.state_dict()})
    return model
