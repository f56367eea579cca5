#!/usr/bin/env python3
"""The CPU device against PyTorch: the same steps of the same networks, in alternation on this machine.

    apt-get install python3-torch python3-numpy
    cargo build -p train
    python3 tools/compare_cpu.py [--rounds 5] [--threads N] [--cases resnet32:3 resnet164:1:64]
        [--program target/debug/train]

A case is NETWORK:BRANCHES, or NETWORK:BRANCHES:BATCH for a batch other than that of --batch. Each round takes the
median step of PyTorch (channels_last), then of this program (`train --profile`, augmentation included), for training
and for evaluation. The ratio of the two rates in a round is compared; its median over the rounds and its range are
printed. The machine should be otherwise idle.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RATE = re.compile(r"([0-9.]+) images/s")
KINDS = {"training": "a training step", "evaluation": "an evaluation step"}


def output(command, threads):
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return done.stdout


def rate(text, beginning=""):
    lines = [line for line in text.splitlines() if line.startswith(beginning) and RATE.search(line)]
    return float(RATE.search(lines[-1]).group(1))


def pytorch(arguments, net, branches, batch, kind):
    command = [sys.executable, ROOT / "tools/pytorch_baseline.py", "--net", net, "--branches", branches]
    command += ["--batch", batch, "--steps", arguments.steps, "--threads", arguments.threads, "--channels-last"]
    command += ["--evaluation"] if kind == "evaluation" else []
    return rate(output(list(map(str, command)), arguments.threads))


def program(arguments, net, branches, batch):
    command = [arguments.program, "--net", net, "--branches", branches, "--batch", batch]
    command += ["--data", "shapes", "--limit-train", batch, "--limit-test", batch, "--device", "cpu"]
    text = output([*map(str, command), "--profile"], arguments.threads)
    return {kind: rate(text, beginning) for kind, beginning in KINDS.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="PyTorch steps per median")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    cases = ["resnet32:3", "resnet32:1", "resnet110:3"]
    parser.add_argument("--cases", nargs="+", default=cases, metavar="NETWORK:BRANCHES[:BATCH]")
    parser.add_argument("--program", type=Path, default=ROOT / "target/debug/train")
    arguments = parser.parse_args()
    if not arguments.program.is_file():
        parser.error(f"{arguments.program} is not there: build it by cargo build -p train")

    print(f"{'':<46} {'PyTorch':>9} {'this':>9} {'ratio':>7} {'range':>13}")
    for case in arguments.cases:
        net, branches, batch = (*case.split(":"), str(arguments.batch))[:3]
        rounds = {kind: [] for kind in KINDS}
        for _ in range(arguments.rounds):
            theirs = {kind: pytorch(arguments, net, branches, batch, kind) for kind in KINDS}
            ours = program(arguments, net, branches, batch)
            for kind in KINDS:
                rounds[kind].append((theirs[kind], ours[kind]))
        for kind, pairs in rounds.items():
            ratios = [own / their for their, own in pairs]
            their, own = (statistics.median(column) for column in zip(*pairs))
            print(
                f"{f'{net}, {branches} branches, batch {batch}, {kind}':<46} {their:>9.1f} {own:>9.1f} "
                f"{statistics.median(ratios):>7.2f} {min(ratios):>6.2f}-{max(ratios):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
