#!/usr/bin/env python3
"""Loads files of `train export` into PyTorch modules, strictly, and compares logits with those of `train eval`.

    apt-get install python3-torch python3-numpy
    cargo run -p train -- export --run RUN --branch all --to one.safetensors
    cargo run -p train -- eval --weights one.safetensors --logits logits.safetensors
    python3 tools/pytorch_load.py --weights one.safetensors --logits logits.safetensors --data DIR

DIR is the folder of CIFAR-10's test_batch.bin. The metadata that `export` writes name the network and the
normalisation of its images. The file of one branch is compared with member --member of the logits; the file of all
branches with all members, the ensemble and the gate's shares. The largest differences are printed; the exit status is
1 if one exceeds --tolerance.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch

from pytorch_families import DenseNetBc, ImageNetResNet, OneNetwork, ResNeXt
from pytorch_one import BasicBlock, Bottleneck, ResNet
from tensor_file import read_safetensors

LABEL_BYTES = 1
PIXEL_BYTES = 3072
IMAGES_PER_PASS = 100


def family(net):
    """The family of a network's name, unless it is a ResNet for 32x32 images."""
    sizes = [int(number) for number in re.findall(r"\d+", net)]
    if net.startswith("densenet-bc-"):
        return DenseNetBc(layers=(sizes[0] - 4) // 6, growth=sizes[1])
    if net.startswith("resnext") and sizes[0] != 50:
        return ResNeXt(blocks=(sizes[0] - 2) // 9, cardinality=sizes[1], width=sizes[2], stem=64)
    if net == "resnet18":
        return ImageNetResNet(blocks=2, stem=64)
    return None


def build(header):
    """The module that the metadata describe, with PyTorch's own initial values."""
    net, branches, classes, gate = (header[key] for key in ("net", "branches", "classes", "gate"))
    known = family(net)
    if known is not None:
        fan_out, model = known.fan_out, OneNetwork(known, branches, classes)
    elif re.fullmatch(r"resnet\d+", net) and net not in ("resnet34", "resnet50"):
        depth = int(net.removeprefix("resnet"))
        block, layers = (BasicBlock, 6) if (depth - 2) % 6 == 0 and depth != 164 else (Bottleneck, 9)
        kind = {"block": block, "blocks": (depth - 2) // layers, "shortcut": header["shortcut"]}
        fan_out, model = "layer3", ResNet(classes=classes, branches=branches, gate=gate, **kind)
    else:
        sys.exit(f"there is no PyTorch module for {net} here")
    if branches > 1 and header["fan_out"] != fan_out:
        sys.exit(f"the modules here have their branches from {fan_out} on, not from {header['fan_out']} on")
    return model


def read_images(folder, count, header):
    """The first test images, normalised, [count, 3, 32, 32], and their labels."""
    rows = np.fromfile(folder / "test_batch.bin", np.uint8, count * (LABEL_BYTES + PIXEL_BYTES))
    rows = rows.reshape(count, -1)
    pixels = torch.from_numpy(rows[:, LABEL_BYTES:].reshape(-1, 3, 32, 32).copy()).float() / 255
    mean, std = (torch.tensor(header[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (pixels - mean) / std, rows[:, 0]


def run(model, images):
    """Logits of the branches [M, N, K], the gate's shares [N, M] or None, the ensemble's logits [N, K]."""
    model.eval()
    with torch.no_grad():
        parts = [model(batch) for batch in images.split(IMAGES_PER_PASS)]
    logits = torch.stack([torch.cat(branch) for branch in zip(*(part[0] for part in parts))])
    gate = torch.cat([part[1] for part in parts]) if model.gate is not None else None
    return logits.numpy(), None if gate is None else gate.numpy(), torch.cat([part[2] for part in parts]).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--weights", type=Path, required=True, help="file written by `train export`")
    parser.add_argument("--logits", type=Path, required=True, help="file written by `train eval --logits`")
    parser.add_argument("--data", type=Path, required=True, help="folder of test_batch.bin")
    parser.add_argument("--member", type=int, default=0, help="member of the logits that one branch is compared with")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()

    state, metadata = read_safetensors(arguments.weights)
    header = json.loads(metadata["onfly"])
    model = build(header)
    model.load_state_dict({name: torch.from_numpy(values) for name, values in state.items()}, strict=True)

    expected, _ = read_safetensors(arguments.logits)
    images, labels = read_images(arguments.data, expected["labels"].size, header)
    if not np.array_equal(labels, expected["labels"]):
        sys.exit(f"the labels in {arguments.logits} are not those of {arguments.data}: give the same images")
    logits, gate, ensemble = run(model, images)
    several = header["branches"] > 1
    members = expected["logits"] if several else expected["logits"][arguments.member : arguments.member + 1]
    if logits.shape != members.shape:
        sys.exit(f"the logits are {list(members.shape)}, and PyTorch's are {list(logits.shape)}")
    pairs = {f"branch {i if several else arguments.member}": pair for i, pair in enumerate(zip(logits, members))}
    if several:
        # Without a gate all members have the same share.
        shares = expected.get("gate", np.full((len(labels), len(members)), 1 / len(members)))
        pairs["ensemble"] = (ensemble, np.einsum("nm,mnk->nk", shares, members))
    if gate is not None:
        pairs["gate"] = (gate, expected["gate"])
    print(f"{arguments.weights}: {len(state)} tensors of {header['net']} loaded strictly, {len(labels)} images")
    worst = 0.0
    for name, (ours, theirs) in pairs.items():
        difference = np.abs(ours - theirs).max()
        worst = np.maximum(worst, difference)
        print(f"{name:<10} largest difference {difference:.1e} (largest value {np.abs(theirs).max():.2f})")
    # NaN is not within the tolerance either.
    sys.exit(0 if worst <= arguments.tolerance else 1)


if __name__ == "__main__":
    main()
