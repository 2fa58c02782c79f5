"""Text files -> token shards. The corpus is a folder with one folder per kind.

  prepare.py --corpus DIR --tokenizer tokenizer.json --out TOKENS/SOURCE

Holds out a seeded random 1% of the files of each kind (two at least) for validation.
Makes the tokenizer from the training part if the file does not exist.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from model import START
from tokens import MIX

SEED = 3
VOCABULARY = 4096
# Bytes of each kind that the tokenizer is trained on.
SAMPLE = {"prose": 14e6, "docs": 8e6, "zh": 12e6, "code": 8e6, "logs": 14e6, "data": 4e6}


def text_of(path):
    """The file's text without what is not UTF-8; nothing of a binary file."""
    data = path.read_bytes()
    if b"\0" in data:
        print(f"{path}: binary, left out", file=sys.stderr)
        return ""
    return data.decode("utf-8", "ignore")


def split(corpus):
    """{kind: (training files, held-out files)}; the same for the same names."""
    rng, parts = random.Random(SEED), {}
    for kind in MIX:
        files = sorted(p for p in (corpus / kind).glob("*") if p.is_file())
        rng.shuffle(files)
        held = max(2, len(files) // 100)
        if len(files) > held:
            parts[kind] = (files[held:], files[:held])
        elif files:
            sys.exit(f"{corpus / kind}: {len(files)} files are too few to hold any out; split them")
    if not parts:
        sys.exit(f"{corpus}: no text; expected folders named {', '.join(MIX)}")
    return parts


def make_tokenizer(parts, path):
    """Byte-level BPE, digits one by one, tokens of at most 16 bytes."""

    def sample():
        for kind, (files, _) in parts.items():
            left = SAMPLE[kind]
            for f in files:
                text = text_of(f)
                left -= len(text.encode())
                yield from (text[i : i + 20000] for i in range(0, len(text), 20000))
                if left < 0:
                    break

    t = Tokenizer(models.BPE())
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    t.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator(
        sample(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=["<s>"], initial_alphabet=alphabet, max_token_length=16, show_progress=False
        ),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    t.save(str(path))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--corpus", type=Path, required=True)
    p.add_argument("--tokenizer", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    parts = split(a.corpus)
    if not a.tokenizer.exists():
        make_tokenizer(parts, a.tokenizer)
    tokenizer = Tokenizer.from_file(str(a.tokenizer))
    a.out.mkdir(parents=True, exist_ok=True)
    for kind, both in parts.items():
        for name, files in zip(("train", "val"), both):
            tokens = size = 0
            with open(a.out / f"{name}-{kind}.u16", "wb") as out:
                for i in range(0, len(files), 64):
                    texts = [text_of(f) for f in files[i : i + 64]]
                    size += sum(len(t.encode()) for t in texts)
                    for e in tokenizer.encode_batch(texts, add_special_tokens=False):
                        ids = np.array([START, *e.ids], dtype="<u2")
                        tokens += len(ids)
                        ids.tofile(out)
            print(f"{name:5} {kind:5} files {len(files):5} bytes {size:10} tokens {tokens:9}", flush=True)
    held = {kind: [f.name for f in both[1]] for kind, both in parts.items()}
    (a.out / "held-out.json").write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
