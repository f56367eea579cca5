#!/usr/bin/env python3
"""Training rates of the same networks in PyTorch, on the accelerator that it sees, to compare `train bench` with.

Each mode (eager, CUDA graphs, torch.compile; f32, TF32, 16 bits) is warmed up, then timed in blocks of steps; the
median block counts. The data is random, lies on the device, and is not augmented, so this program's augmentation has no
counterpart here. Each completed mode is written to the file at once; one that fails is recorded with its message.
Exit status 3: there is no PyTorch, or no accelerator that it sees.

    pytorch.py --json FILE [--nets resnet32:3,resnet32:1] [--batches 128,1024] [--modes eager,graph] [--seconds 2]
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent):
    if (folder / "pytorch_one.py").exists():
        sys.path.insert(0, str(folder))
        break

# Exit status when there is no PyTorch or no accelerator: run.sh records such a step as skipped.
NOTHING = 3

try:
    import torch
except ImportError as problem:
    print(f"there is no PyTorch here ({problem}): the comparison is left out", file=sys.stderr)
    sys.exit(NOTHING)

from pytorch_one import BasicBlock, ResNet, loss_terms  # noqa: E402

MODES = {
    # name: execution, precision
    "eager": ("eager", "f32"),
    "graph": ("graph", "f32"),
    "eager-tf32": ("eager", "tf32"),
    "graph-tf32": ("graph", "tf32"),
    "eager-f16": ("eager", "f16"),
    "graph-f16": ("graph", "f16"),
    "compile": ("compile", "f32"),
    "compile-tf32": ("compile", "tf32"),
    "compile-f16": ("compile", "f16"),
}


def accelerator():
    """The device that PyTorch computes on, and its name; None if there is only the CPU."""
    if torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_name()
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return "xpu", torch.xpu.get_device_name()
    if hasattr(torch.backends, "mps") and torch.backends.mps.is_available():
        return "mps", "Apple GPU"
    return None


def synchronize(device):
    {"cuda": torch.cuda.synchronize}.get(device, lambda: getattr(torch, device).synchronize())()


class Step:
    """One training step of a network, in one mode."""

    def __init__(self, depth, branches, batch, device, execution, precision):
        torch.manual_seed(0)
        self.device, self.precision = device, precision
        tf32 = precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
        torch.backends.cudnn.benchmark = True
        net = ResNet(BasicBlock, (depth - 2) // 6, 16, 10, branches).to(device)
        self.net = net.to(memory_format=torch.channels_last).train()
        fused = {"fused": True} if device == "cuda" else {}
        self.optimizer = torch.optim.SGD(
            net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4, **fused
        )
        self.scaler = torch.amp.GradScaler(device, enabled=precision == "f16" and execution != "graph")
        images = torch.randn(batch, 3, 32, 32, device=device)
        self.images = images.to(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (batch,), device=device)
        self.forward = torch.compile(self.losses) if execution == "compile" else self.losses
        self.run = self.captured() if execution == "graph" else self.eager

    def losses(self, images, labels):
        logits, _, teacher = self.net(images)
        return sum(loss_terms([z.float() for z in logits], teacher.float(), labels))

    def gradients(self):
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, torch.float16, enabled=self.precision == "f16"):
            loss = self.forward(self.images, self.labels)
        self.scaler.scale(loss).backward()
        return loss

    def eager(self):
        loss = self.gradients()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss

    def captured(self):
        """The step as a CUDA graph: forward, backward and update, in one launch. In 16 bits without a scaled loss,
        whose decisions are the host's: only the time is of interest."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(5):
                self.gradients()
                self.optimizer.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            with torch.autocast(self.device, torch.float16, enabled=self.precision == "f16", cache_enabled=False):
                loss = self.forward(self.images, self.labels)
            loss.backward()
            self.optimizer.step()
        self.graph = graph
        return graph.replay


def measure(step, device, batch, seconds):
    """The median of 11 blocks of steps, which take `seconds` together: seconds per step, and images/s."""
    begun = time.perf_counter()
    for _ in range(12):
        step.run()
    synchronize(device)
    once = (time.perf_counter() - begun) / 12
    block = max(1, min(200, int(seconds / 11 / max(once, 1e-5))))
    times = []
    for _ in range(11):
        synchronize(device)
        begun = time.perf_counter()
        for _ in range(block):
            step.run()
        synchronize(device)
        times.append((time.perf_counter() - begun) / block)
    times.sort()
    return {
        "seconds": statistics.median(times),
        "fastest": times[0],
        "slowest": times[-1],
        "images_per_second": batch / statistics.median(times),
        "steps": 11 * block,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True, type=Path)
    parser.add_argument("--nets", default="resnet32:3,resnet32:1")
    parser.add_argument("--batches", default="128,1024")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    modes = options.modes.split(",")
    if unknown := [mode for mode in modes if mode not in MODES]:
        parser.error(f"there is no mode {unknown[0]}; there are {', '.join(MODES)}")
    found = accelerator()
    if found is None:
        print("PyTorch sees no accelerator here: the comparison is left out", file=sys.stderr)
        sys.exit(NOTHING)
    device, name = found
    result = {"torch": torch.__version__, "device": name, "kind": device, "cuda": torch.version.cuda, "rows": []}
    for mode in modes:
        execution, precision = MODES[mode]
        for net in options.nets.split(","):
            for batch in map(int, options.batches.split(",")):
                family, branches = net.split(":")
                row = {"net": family, "branches": int(branches), "batch": batch, "mode": mode}
                try:
                    if execution == "graph" and device != "cuda":
                        raise RuntimeError(f"CUDA graphs are not for {device}")
                    step = Step(int(family.removeprefix("resnet")), int(branches), batch, device, execution, precision)
                    row |= measure(step, device, batch, options.seconds)
                except Exception as problem:  # any failure is recorded, and the next mode runs
                    row["failed"] = f"{type(problem).__name__}: {problem}".split("\n")[0][:300]
                result["rows"].append(row)
                part = options.json.with_suffix(".part")
                part.write_text(json.dumps(result, indent=1))
                os.replace(part, options.json)
                rate = row.get("images_per_second")
                outcome = f"{rate:10.0f} images/s" if rate else row["failed"]
                print(f"{net:12} batch {batch:5} {mode:14} {outcome}", flush=True)


if __name__ == "__main__":
    main()
