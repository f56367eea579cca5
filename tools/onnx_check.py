#!/usr/bin/env python3
"""Checks an ONNX model that `train export` wrote, runs it, and compares its logits with those of `train eval`.

    pip install onnx onnxruntime numpy
    cargo run -p train -- export --run RUN --branch all --to one.onnx
    cargo run -p train -- eval --weights RUN/last.safetensors --logits logits.safetensors
    python3 tools/onnx_check.py --model one.onnx --logits logits.safetensors --data DIR

DIR is the folder of CIFAR-10's test_batch.bin. The model's metadata tell how images are
normalised, and whether the model does so itself. The model of one branch is compared with member --member of the
logits; one of all branches with all members, and its ensemble and the gate's shares with those that the members give
by --fusion. The largest differences are printed; the exit status is 1 if one exceeds --tolerance.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from tensor_file import read_safetensors

LABEL_BYTES = 1
PIXEL_BYTES = 3072
IMAGES_PER_PASS = 7  # Any number will do, and the last pass has fewer.


def read_images(folder, count, metadata):
    """The first test images in the model's input format, [count, 3, 32, 32], and their labels."""
    rows = np.fromfile(folder / "test_batch.bin", np.uint8, count * (LABEL_BYTES + PIXEL_BYTES)).reshape(count, -1)
    pixels = rows[:, LABEL_BYTES:].reshape(-1, 3, 32, 32).astype(np.float32) / 255
    if metadata["normalised_by_the_model"] == "false":
        mean, std = (np.array(json.loads(metadata[key]), np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
        pixels = (pixels - mean) / std
    return pixels, rows[:, 0]


def softmax(x):
    """The softmax over the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def fuse(fusion, members, gate):
    """The ensemble's logits [N, K] of logits [M, N, K] and shares [N, M]."""
    if fusion == "probabilities":
        return np.log(softmax(members).mean(axis=0))
    if fusion == "logits":
        return members.mean(axis=0)
    return np.einsum("nm,mnk->nk", gate, members)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", type=Path, required=True, help="file written by `train export`")
    parser.add_argument("--logits", type=Path, required=True, help="file written by `train eval --logits`")
    parser.add_argument("--data", type=Path, required=True, help="folder of test_batch.bin")
    parser.add_argument("--member", type=int, default=0, help="member of the logits that one branch is compared with")
    parser.add_argument("--fusion", choices=("gated", "logits", "probabilities"), default="gated")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()

    model = onnx.load(arguments.model)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    expected, _ = read_safetensors(arguments.logits)
    images, labels = read_images(arguments.data, expected["labels"].size, metadata)
    if not np.array_equal(labels, expected["labels"]):
        sys.exit(f"the labels in {arguments.logits} are not those of {arguments.data}: give the same images")

    session = onnxruntime.InferenceSession(str(arguments.model), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    batches = [images[i : i + IMAGES_PER_PASS] for i in range(0, len(images), IMAGES_PER_PASS)]
    parts = [session.run(names, {"image": batch}) for batch in batches]
    found = {name: np.concatenate(part) for name, part in zip(names, zip(*parts))}
    members = expected["logits"]
    wanted = {"logits": members[arguments.member]}
    if len(names) > 1:
        wanted = {f"branch{i}": logits for i, logits in enumerate(members)}
        wanted["logits"] = fuse(arguments.fusion, members, expected.get("gate"))
        if "gate" in expected:
            wanted["gate"] = expected["gate"]
    if set(wanted) != set(names):
        sys.exit(f"the model gives {sorted(names)} and not {sorted(wanted)}")

    operators = sorted({node.op_type for node in model.graph.node})
    print(f"{arguments.model}: checked, {len(model.graph.node)} nodes ({', '.join(operators)}), {len(labels)} images")
    worst = 0.0
    for name, values in wanted.items():
        difference = np.abs(found[name] - values).max()
        worst = np.maximum(worst, difference)
        print(f"{name:<10} largest difference {difference:.1e} (largest value {np.abs(values).max():.2f})")
    # NaN is not within the tolerance either.
    sys.exit(0 if worst <= arguments.tolerance else 1)


if __name__ == "__main__":
    main()
