"""The base model: a small Llama, and its Hugging Face form.

Shapes: B sequences of T tokens, width D; logits are (B, T, vocabulary).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

START = 0  # token 0 starts every sequence; it stands for no byte


@dataclass(frozen=True)
class Config:
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    vocab_size: int = 4096
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    @property
    def head_dim(self):
        return self.hidden_size // self.num_attention_heads

    def to_json(self):
        fixed = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": START,
            "torch_dtype": "float32",
        }
        return json.dumps({**asdict(self), **fixed}, indent=2) + "\n"

    @staticmethod
    def from_json(text):
        given = json.loads(text)
        return Config(**{k: given[k] for k in asdict(Config()) if k in given})


def rotate(x, cos, sin):
    """Rotary position embedding, half-split form: x is (B, heads, T, head_dim)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        kv = c.num_key_value_heads * c.head_dim
        linear = lambda i, o: nn.Linear(i, o, bias=False)
        self.q, self.k, self.v = linear(c.hidden_size, c.hidden_size), linear(c.hidden_size, kv), linear(c.hidden_size, kv)
        self.o = linear(c.hidden_size, c.hidden_size)
        self.gate = linear(c.hidden_size, c.intermediate_size)
        self.up = linear(c.hidden_size, c.intermediate_size)
        self.down = linear(c.intermediate_size, c.hidden_size)
        self.norm1 = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.norm2 = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        # Blocks start as the identity, which lets Muon use its full rate at once.
        nn.init.zeros_(self.o.weight)
        nn.init.zeros_(self.down.weight)

    def forward(self, h, cos, sin):
        c, (b, t, _) = self.c, h.shape
        x = self.norm1(h)
        heads = lambda y, n: y.view(b, t, n, c.head_dim).transpose(1, 2)
        q = rotate(heads(self.q(x), c.num_attention_heads), cos, sin)
        k = rotate(heads(self.k(x), c.num_key_value_heads), cos, sin)
        v = heads(self.v(x), c.num_key_value_heads)
        share = c.num_attention_heads // c.num_key_value_heads
        k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.o(y.transpose(1, 2).reshape(b, t, c.hidden_size))
        x = self.norm2(h)
        return h + self.down(F.silu(self.gate(x)) * self.up(x))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab_size, c.hidden_size)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.num_hidden_layers))
        self.norm = nn.RMSNorm(c.hidden_size, eps=c.rms_norm_eps)
        self.head = nn.Linear(c.hidden_size, c.vocab_size, bias=False)
        nn.init.normal_(self.embed.weight, std=0.5)
        nn.init.normal_(self.head.weight, std=0.01)
        half = c.head_dim // 2
        angle = torch.arange(c.max_position_embeddings)[:, None] * c.rope_theta ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids, targets):
        """Loss in nats of each target, (B, T), given the tokens before it."""
        t = ids.shape[1]
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h, self.cos[:t], self.sin[:t])
        logits = self.head(self.norm(h)).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


# Hugging Face's names of our tensors.
TOP = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
INNER = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj",
    "norm1": "input_layernorm", "norm2": "post_attention_layernorm",
}  # fmt: skip


def hf_name(name):
    parts = name.split(".")
    if parts[0] == "blocks":
        return f"model.layers.{parts[1]}.{INNER[parts[2]]}.weight"
    return f"{TOP[parts[0]]}.weight"


def export(model, tokenizer_json, folder):
    """Writes config.json, tokenizer.json and model.safetensors (float32)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(model.c.to_json())
    (folder / "tokenizer.json").write_bytes(Path(tokenizer_json).read_bytes())
    tensors = {hf_name(k): v.detach().float().contiguous() for k, v in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load(folder):
    folder = Path(folder)
    model = Model(Config.from_json((folder / "config.json").read_text()))
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({k: tensors[hf_name(k)] for k in model.state_dict()})
    return model
