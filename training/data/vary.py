"""Recorded logs -> training files: other days, paces, hosts, addresses and process numbers for each piece.

  vary.py RAW OUT      (RAW: what record.sh made; OUT: a corpus folder, gets OUT/logs/*)

All was recorded on one machine within minutes; without this a model would learn that day by heart.
Order, wording and proportions stay as the services wrote them.
"""

import random
import re
import socket
import sys
from datetime import datetime, timedelta
from pathlib import Path

PER_LOG = 700_000  # bytes at most of one service's log, so that none outweighs the others
LEFT_OUT = {"named"}  # never trained on: what `lmfs model tune` is judged by

# What to look for, and how it is read and written (fractions of seconds stay as they were).
STAMPS = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "%Y-%m-%dT%H:%M:%S"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "%Y-%m-%d %H:%M:%S"),
    (r"\d{4}-\d\d-\d\d  \d\d:\d\d:\d\d", "%Y-%m-%d  %H:%M:%S"),
    (r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d", "%Y/%m/%d %H:%M:%S"),
    (r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d", "%d/%b/%Y:%H:%M:%S"),
    (r"\d\d-[A-Z][a-z]{2}-\d{4} \d\d:\d\d:\d\d", "%d-%b-%Y %H:%M:%S"),
    (r"\d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d", "%d %b %Y %H:%M:%S"),
    (r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d(?=(?:\.\d+)? \d{4})", "%a %b %d %H:%M:%S"),
    (r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d", "%b %d %H:%M:%S"),
    (r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d", "%y/%m/%d %H:%M:%S"),
    (r"\d{6} [ \d]\d:\d\d:\d\d", "%y%m%d %H:%M:%S"),
    (r"\b1[789]\d{8}(?=\.\d{3})", "epoch"),
]
STAMP = re.compile("|".join(f"({r})" for r, _ in STAMPS))
LOOPBACK = re.compile(r"\b127\.\d+\.\d+\.\d+\b")
PROCESS = re.compile(r"(?<=\[)\d{3,6}(?=\])")
SCRATCH = re.compile(r"/tmp/tmp\.\w{10}")  # record.sh's working folder
HERE = re.compile(rf"(?<![\w-]){re.escape(socket.gethostname())}(?![\w-])")
HOSTS = "web db mail node app srv proxy cache build vm worker edge core log gw host dev lab prod backup".split()


class Piece:
    """One consistent change of day, pace and names."""

    def __init__(self, rng):
        self.rng = rng
        self.now = datetime(2004, 1, 1) + timedelta(seconds=rng.randrange(22 * 365 * 86400))
        self.seen = None
        self.pace = 10 ** rng.uniform(-0.3, 2.2)
        host = rng.choice(HOSTS) + rng.choice(["", "-", "0"]) + str(rng.randrange(1, 40))
        self.host = host + rng.choice(["", "", "", ".example.com", ".lan", ".internal"])
        self.root = rng.choice(["/srv", "/var/lib", "/opt", "/home/site", "/data", "/usr/local"])
        self.process = rng.randrange(0, 30000)
        self.net = f"{rng.choice([10, 172, 192, 203, 61, 88, 141])}.{rng.randrange(255)}"
        self.addresses = {}

    def stamp(self, m):
        form = STAMPS[m.lastindex - 1][1]
        try:
            then = datetime.fromtimestamp(int(m[0])) if form == "epoch" else datetime.strptime(m[0], form)
        except ValueError:
            return m[0]
        then = then.replace(year=2026)
        if self.seen and then > self.seen:
            self.now += timedelta(seconds=int(self.pace * self.rng.uniform(0.2, 1.8) * min(3600, (then - self.seen).total_seconds())))
        self.seen = then if not self.seen else max(then, self.seen)
        if form == "epoch":
            return str(int(self.now.timestamp()))
        text = self.now.strftime(form)
        return re.sub(r"^(\w{3}) 0", r"\1  ", text) if form.startswith("%b") else text

    def address(self, m):
        if m[0] not in self.addresses:
            r = self.rng
            near, known = f"{self.net}.{r.randrange(8)}.{r.randrange(1, 255)}", list(self.addresses.values())
            far = ".".join(str(r.randrange(1, 255)) for _ in range(4))
            # Visitors come back.
            self.addresses[m[0]] = r.choice(known) if known and r.random() < 0.4 else r.choice([near, far])
        return self.addresses[m[0]]

    def line(self, text):
        year = str(self.now.year)
        text = STAMP.sub(self.stamp, text)
        text = re.sub(r"(?<=[A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d)(\.\d+)? 2026", lambda m: (m[1] or "") + " " + year, text)
        text = LOOPBACK.sub(self.address, text)
        text = SCRATCH.sub(self.root, text)
        text = PROCESS.sub(lambda m: str((int(m[0]) + self.process) % 65536), text)
        return HERE.sub(self.host, text)


def main():
    raw, out = Path(sys.argv[1]), Path(sys.argv[2]) / "logs"
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(raw.glob("*.log")):
        if path.stem in LEFT_OUT:
            continue
        lines = path.read_bytes().decode("utf-8", "ignore").splitlines(keepends=True)
        rng, at, size, n = random.Random(path.name), 0, 0, 0
        while at < len(lines) and size < PER_LOG:
            take = rng.randrange(150, 600)
            piece = Piece(rng)
            text = "".join(map(piece.line, lines[at : at + take]))
            (out / f"{path.stem}-{n:03}.log").write_text(text)
            at, size, n = at + take, size + len(text), n + 1
        print(f"{path.name}: {n} pieces, {size} bytes")


if __name__ == "__main__":
    main()
