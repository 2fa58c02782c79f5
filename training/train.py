"""Trains the network within a given time, whatever the machine's speed.

The rate warms up, stays constant, then decays linearly to zero over the last --decay-minutes; all by
the clock. RUN/stable.pt is the state before the decay: training goes on from it at the constant rate.
RUN/last.pt is the newest state (each --save-minutes and on SIGTERM or SIGINT): an interrupted run goes
on from it. A state holds weights, both optimisers and the random state that picks the crops.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

# Other work may hold a core: threads that wait for each other then sleep instead of spinning.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

import model as gated
from evaluate import report
from kernels import Tree
from muon import Muon
from traces import Traces

MUON_RATE, ADAM_RATE = 0.04, 4e-3
BATCH, LENGTH = 8, 1024  # sequences of a step, and their tokens
WARM_UP = 60  # steps


def fast_dtype():
    """bfloat16 where the CPU computes with it, else float32: emulated, it is many times slower."""
    flags = Path("/proc/cpuinfo").read_text()
    return torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32


def optimisers(model, dtype):
    """Muon for the layers' matrices, AdamW for all else."""
    is_matrix = lambda n, p: p.ndim == 2 and n.startswith("layers")
    matrices = [p for n, p in model.named_parameters() if is_matrix(n, p)]
    others = [p for n, p in model.named_parameters() if not is_matrix(n, p)]
    return [
        Muon(matrices, lr=MUON_RATE, weight_decay=0.02, momentum=0.95, dtype=dtype),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--traces", type=Path, required=True, help="folder of a, b and held, as examples/trace.rs wrote them")
    p.add_argument("--run", type=Path, required=True, help="folder for states and the log")
    p.add_argument("--minutes", type=float, required=True)
    p.add_argument("--decay-minutes", type=float, required=True)
    p.add_argument("--save-minutes", type=float, default=5)
    p.add_argument("--rate", type=float, default=1.0, help="scale of the constant rate")
    start = p.add_mutually_exclusive_group()
    start.add_argument("--from-model", type=Path, help="start from the weights of an exported model")
    start.add_argument("--from-state", type=Path, help="go on from a state (last.pt or stable.pt)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()

    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    rng = np.random.default_rng(a.seed)
    model = gated.load(a.from_model) if a.from_model else gated.Model(gated.Config())
    tree = Tree(a.traces / "held/code.tree")
    train = Traces([a.traces / "a", a.traces / "b"], tree, model.c.start)
    held = Traces([a.traces / "held"], tree, model.c.start)
    dtype = fast_dtype()
    opts = optimisers(model, dtype)
    done = {"step": 0, "tokens": 0, "decay": 1.0}
    if a.from_state:
        state = torch.load(a.from_state, weights_only=False)
        model.load_state_dict(state["model"])
        for o, s in zip(opts, state["opts"]):
            o.load_state_dict(s)
        rng.bit_generator.state = state["rng"]
        done = state["done"]
    a.run.mkdir(parents=True, exist_ok=True)
    log = open(a.run / "log.txt", "a")

    def say(*words):
        line = " ".join(map(str, words))
        print(line, flush=True)
        print(line, file=log, flush=True)

    def save(name):
        state = {"model": model.state_dict(), "opts": [o.state_dict() for o in opts], "rng": rng.bit_generator.state}
        partial = a.run / (name + ".new")
        torch.save({**state, "done": done}, partial)
        partial.rename(a.run / name)

    stop = []
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, lambda *_: stop.append(True))

    decay_from = done["decay"]  # below 1 when a run was interrupted in its decay
    t0 = saved = time.monotonic()
    first, losses = done["step"], []
    constant = max(0.0, a.minutes - a.decay_minutes)
    while True:
        minutes = (time.monotonic() - t0) / 60
        if minutes >= a.minutes or stop:
            break
        if minutes > constant:
            if done["decay"] == 1.0:
                save("stable.pt")
            done["decay"] = decay_from * (a.minutes - minutes) / a.decay_minutes
        # A state brings its optimisers' averages along, so only fresh optimisers need to warm up.
        warm = 1.0 if a.from_state else min(1.0, (done["step"] - first + 1) / WARM_UP)
        for o, rate in zip(opts, (MUON_RATE, ADAM_RATE)):
            for g in o.param_groups:
                g["lr"] = rate * a.rate * warm * done["decay"]
        ids, targets, decisions = train.batch(rng, BATCH, LENGTH)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
            loss = model(ids, targets, train.foreseen, decisions, tree) / targets.numel()
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
        losses.append(loss.item() / np.log(2))
        done["step"] += 1
        done["tokens"] += targets.numel()
        if done["step"] % 100 == 0:
            say(f"step {done['step']} Mtok {done['tokens'] / 1e6:.1f} min {minutes:.1f} decay {done['decay']:.3f}",
                f"bits a token {np.mean(losses[-100:]):.4f}")  # fmt: skip
        if time.monotonic() - saved > a.save_minutes * 60:
            save("last.pt")
            saved = time.monotonic()
    if stop:
        save("last.pt")
        sys.exit("interrupted: go on with --from-state " + str(a.run / "last.pt"))
    if done["decay"] == 1.0:
        save("stable.pt")
    # At rate zero nothing is left to continue but the weights; stable.pt is what continues.
    gated.export(model, a.run / "final")
    (a.run / "last.pt").unlink(missing_ok=True)
    say("end", f"step {done['step']} Mtok {done['tokens'] / 1e6:.1f}", report(model, tree, held))


if __name__ == "__main__":
    main()
