"""Parts a corpus into two halves, and a little that judges.

  split.py --corpus DIR [DIR...] --out WORK/parts

A corpus is a folder with one folder per kind: prose docs zh code logs data. A network is trained on top of a prior that
has not seen its text: else it would learn to trust the prior too much. So each of the halves, OUT/a and OUT/b, is traced
with the prior that is counted from the other, and what is held out of b, OUT/held, with that of a. Which goes where is the
hash of its name; files are linked, not copied.
"""

import argparse
import hashlib
import os
from pathlib import Path

KINDS = ["prose", "docs", "zh", "code", "logs", "data"]
# Of 256 files of b, so many are held out.
HELD = {"prose": 16, "docs": 10, "zh": 10, "code": 10, "logs": 16, "data": 16}


def part_of(name, kind):
    hashed = hashlib.md5(name.encode()).digest()
    if hashed[0] & 1:
        return "a"
    return "held" if hashed[1] < HELD[kind] else "b"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--corpus", type=Path, nargs="+", required=True)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    sizes = {}
    for kind in KINDS:
        for corpus in a.corpus:
            for path in sorted((corpus / kind).rglob("*")):
                if not path.is_file() or path.stat().st_size == 0:
                    continue
                part = part_of(path.name, kind)
                folder = a.out / part / kind
                folder.mkdir(parents=True, exist_ok=True)
                if not (folder / path.name).exists():
                    os.link(path, folder / path.name)
                files, size = sizes.get((part, kind), (0, 0))
                sizes[part, kind] = files + 1, size + path.stat().st_size
    for (part, kind), (files, size) in sorted(sizes.items()):
        print(f"{part:8} {kind:6} {files:6} files {size:12} bytes")


if __name__ == "__main__":
    main()
