#!/usr/bin/env python3
"""Golden values from PyTorch for the parity tests: writes tests/fixtures/*.safetensors.

    apt-get install python3-torch python3-numpy
    python3 tools/goldens.py                # all files, some seconds; --out DIR to write elsewhere

    one_resnet8.safetensors     ONE, 3 branches, ResNet-8 (basic blocks), option-B shortcuts, gate; loss curve
    one_resnet8_a.safetensors   ONE, 2 branches, ResNet-8, option-A shortcuts, no gate (mean of the logits)
    bottleneck.safetensors      one plain network, ResNet-11 of bottleneck blocks, cross-entropy
    resnext.safetensors         ONE, 2 branches, ResNeXt-11 4x2d with a stem of 4 channels, on 16x16 images
    densenet.safetensors        ONE, 2 branches, DenseNet-BC-16-6, on 16x16 images
    imagenet.safetensors        one plain network, ResNet-10 for ImageNet with a stem of 4 channels, on 36x36 images

Parameters, running statistics and images are float32 values drawn from a seed by NumPy, whose stream does not
change between versions. The model runs in float64; results are rounded once, when they are written: to float32,
or not at all for losses. The deviation of the same model when it runs in float32 is printed, as a scale for the
tolerances of the tests. Layouts are PyTorch's: images [N, 3, 32, 32], convolutions [out, in, height, width],
linear weights [out, in].

    <name>                  parameter, or running statistic `...running_mean` / `...running_var`, before the step
    input, labels           the batch
    logits.{i}              training mode, branch i; gate: its weights [N, branches]; teacher_logits
    loss, loss.branches, loss.teacher, loss.distillation      the sum, and its terms, shape [1]
    grad.<name>             gradient of `loss` for each parameter
    after.<name>            running statistics after that one forward pass
    eval.logits.{i}, eval.gate, eval.teacher_logits           evaluation mode, with the values before the step
    loss_curve              [10]: loss before each of ten updates by SGD on this same batch

`gate*` exist only with a gate, and the teacher's values and terms only with several branches.

The gradient of `gate.fc.bias` is zero except for rounding, since a batch-norm follows it: compare it absolutely.
The curve is chaotic in the end: rounding in float32 moves it by about 1e-6 of its value at steps 0 to 2, 1e-5 at 3,
1e-4 at 4, 2e-3 from 5 on. A missing weight decay moves it by 2e-5, 3e-4 and 3e-3 at steps 2, 3 and 4; plain instead
of Nesterov momentum by 4e-2 at step 1.
"""

import argparse
import copy
from pathlib import Path

import numpy as np
import torch

from pytorch_families import DenseNetBc, ImageNetResNet, OneNetwork, ResNeXt
from pytorch_one import TEMPERATURE, BasicBlock, Bottleneck, ResNet, loss_terms
from tensor_file import write_safetensors

SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}
CURVE_STEPS = 10
CLASSES = 10
# A gate score nearer to the kink of the ReLU than this could fall on its other side in float32.
KINK_MARGIN = 0.02

FILES = {
    "one_resnet8": {"block": BasicBlock, "shortcut": "b", "branches": 3, "gate": True, "batch": 8, "curve": True},
    "one_resnet8_a": {"block": BasicBlock, "shortcut": "a", "branches": 2, "gate": False, "batch": 4, "curve": False},
    "bottleneck": {"block": Bottleneck, "shortcut": "b", "branches": 1, "gate": False, "batch": 4, "curve": False},
}
WIDTH = 8
BLOCKS = 1

# The other families, with their numbers as in the metadata.
FAMILIES = {
    "resnext": {
        "class": ResNeXt,
        "sizes": {"blocks": 1, "cardinality": 4, "width": 2, "stem": 4},
        "branches": 2,
        "image": 16,
        "batch": 5,
    },
    "densenet": {"class": DenseNetBc, "sizes": {"layers": 2, "growth": 6}, "branches": 2, "image": 16, "batch": 4},
    "imagenet": {"class": ImageNetResNet, "sizes": {"blocks": 1, "stem": 4}, "branches": 1, "image": 36, "batch": 3},
}


def draw_state(model, rng):
    """PyTorch's default initialisation for weights, and batch-norms off their 1 and 0, rounded to float32."""
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        stem, leaf = name.rsplit(".", 1)
        shape = tuple(value.shape)
        is_norm = stem + ".running_var" in state
        if leaf == "running_mean":
            drawn = rng.normal(0.0, 0.2, shape)
        elif leaf == "running_var" or (is_norm and leaf == "weight"):
            drawn = rng.uniform(0.6, 1.5, shape)
        elif is_norm:
            drawn = rng.normal(0.0, 0.2, shape)
        else:
            fan_in = int(np.prod(state[stem + ".weight"].shape[1:]))
            drawn = rng.uniform(-1.0, 1.0, shape) / np.sqrt(fan_in)
        value.copy_(torch.from_numpy(drawn.astype(np.float32)))


def draw_images(count, rng, size=32):
    """Normalised images [count, 3, size, size]: a colour, a slope in each direction, and noise.

    Plain noise would have nearly equal means over every image, and the gate would see nothing.
    """
    slope = np.linspace(-1.0, 1.0, size)
    colour, down, right = (rng.normal(0.0, 1.0, (count, 3, 1, 1)) for _ in range(3))
    noise = rng.normal(0.0, 0.5, (count, 3, size, size))
    return (colour + down * slope[:, None] + right * slope + noise).astype(np.float32)


def forward(model, images, labels, prefix=""):
    """The outputs of one forward pass by their names in the file, and the loss with its terms."""
    logits, weights, teacher = model(images)
    outputs = {f"{prefix}logits.{i}": z for i, z in enumerate(logits)}
    if model.gate is not None:
        outputs[prefix + "gate"] = weights
    if len(logits) > 1:
        outputs[prefix + "teacher_logits"] = teacher
    terms = dict(zip(("branches", "teacher", "distillation"), loss_terms(logits, teacher, labels)))
    return outputs, sum(terms.values()), terms


def loss_curve(model, images, labels):
    optimiser = torch.optim.SGD(model.parameters(), **SGD)
    curve = []
    for _ in range(CURVE_STEPS):
        _, loss, _ = forward(model, images, labels)
        curve.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return np.array(curve)


def results(model, images, labels, curve):
    """The file's contents beside state and batch, as arrays of the model's precision."""
    model = copy.deepcopy(model)
    values = {}
    model.eval()
    with torch.no_grad():
        outputs, _, _ = forward(model, images, labels, "eval.")
    values.update(outputs)
    model.train()
    if curve:
        values["loss_curve"] = torch.from_numpy(loss_curve(copy.deepcopy(model), images, labels))
    outputs, loss, terms = forward(model, images, labels)
    loss.backward()
    values.update(outputs)
    values["loss"] = loss.reshape(1)
    if "teacher_logits" in outputs:
        values.update({f"loss.{name}": term.reshape(1) for name, term in terms.items()})
    values.update({f"grad.{name}": parameter.grad for name, parameter in model.named_parameters()})
    values.update({f"after.{name}": buffer for name, buffer in model.named_buffers() if "running" in name})
    return {name: value.detach().numpy() for name, value in values.items()}


def check_kinks(model, images):
    if model.gate is None:
        return
    with torch.no_grad():
        trial = copy.deepcopy(model).train()
        margin = trial.gate.scores(trial.features(images)).abs().min().item()
    if margin < KINK_MARGIN:
        raise SystemExit(f"a gate score is {margin:.1e} from the kink of the ReLU: choose another seed")


def print_deviation(exact, single):
    """Largest difference of the float32 run from the float64 run, relative to the largest value of each tensor."""
    groups = {}
    for key, value in exact.items():
        scale = np.abs(value).max()
        group = next((g for g in ("grad", "after", "eval", "loss_curve") if key.startswith(g)), "forward")
        # The gradient of a bias in front of a batch-norm is zero: rounding noise without a scale.
        if scale > 1e-9:
            error = np.abs(value - single[key]).max() / scale
            groups[group] = max(groups.get(group, (0.0, "")), (error, key))
    for group, (error, key) in groups.items():
        print(f"  float32 deviates by {error:.1e} of the largest value: {group} ({key})")


def make_file(path, name, options, seed):
    # More than the seed: two files must not start with the same draws.
    rng = np.random.RandomState([seed, list(FILES).index(name)])
    kind = {key: options[key] for key in ("block", "branches", "shortcut", "gate")}
    model = ResNet(blocks=BLOCKS, width=WIDTH, classes=CLASSES, **kind)
    draw_state(model, rng)
    images = torch.from_numpy(draw_images(options["batch"], rng))
    bottleneck = options["block"] is Bottleneck
    metadata = {
        "generator": "tools/goldens.py",
        "seed": seed,
        "block": "bottleneck" if bottleneck else "basic",
        "depth": (9 if bottleneck else 6) * BLOCKS + 2,
        "blocks": BLOCKS,
        "width": WIDTH,
        "classes": CLASSES,
        "branches": options["branches"],
        "shortcut": options["shortcut"],
        "teacher": "none" if options["branches"] == 1 else "gate" if options["gate"] else "mean",
        "fan_out": "layer3",
        "batch": options["batch"],
        "layout": "NCHW",
        "temperature": TEMPERATURE,
        "distillation_weight": 1.0,
        "bn_eps": 1e-5,
        "bn_momentum": 0.1,
        "learning_rate": SGD["lr"],
        "momentum": SGD["momentum"],
        "nesterov": "true",
        "weight_decay": SGD["weight_decay"],
    }
    write_file(path, model, images, rng, options["curve"], metadata)


def make_family_file(path, name, seed):
    rng = np.random.RandomState([seed, len(FILES) + list(FAMILIES).index(name)])
    options = FAMILIES[name]
    family = options["class"](**options["sizes"])
    model = OneNetwork(family, options["branches"], CLASSES)
    draw_state(model, rng)
    images = torch.from_numpy(draw_images(options["batch"], rng, options["image"]))
    metadata = {
        "generator": "tools/goldens.py",
        "seed": seed,
        "family": name,
        **options["sizes"],
        "classes": CLASSES,
        "branches": options["branches"],
        "shortcut": "b",
        "teacher": "none" if options["branches"] == 1 else "gate",
        "fan_out": family.fan_out,
        "batch": options["batch"],
        "layout": "NCHW",
        "temperature": TEMPERATURE,
        "distillation_weight": 1.0,
        "bn_eps": 1e-5,
        "bn_momentum": 0.1,
    }
    write_file(path, model, images, rng, False, metadata)


def write_file(path, model, images, rng, curve, metadata):
    """Draws the labels, runs the model in both precisions, and writes everything."""
    labels = torch.from_numpy(rng.randint(0, CLASSES, len(images)))
    double = copy.deepcopy(model).double()
    check_kinks(double, images.double())
    exact = results(double, images.double(), labels, curve)

    tensors = {key: value.numpy() for key, value in model.state_dict().items() if "num_batches" not in key}
    tensors["input"] = images.numpy()
    tensors["labels"] = labels.numpy().astype(np.int32)
    for key, value in exact.items():
        tensors[key] = value if key.startswith("loss") else value.astype(np.float32)
    write_safetensors(path, tensors, {key: str(value) for key, value in metadata.items()})
    print(f"{path}: {path.stat().st_size} bytes, {len(tensors)} tensors, loss {exact['loss'][0]:.6f}")
    print_deviation(exact, results(model, images, labels, curve))
    if curve:
        print("  loss_curve", " ".join(f"{loss:.4f}" for loss in exact["loss_curve"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests" / "fixtures")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    # Sums must not depend on the number of threads.
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, options in FILES.items():
        make_file(arguments.out / f"{name}.safetensors", name, options, arguments.seed)
    for name in FAMILIES:
        make_family_file(arguments.out / f"{name}.safetensors", name, arguments.seed)


if __name__ == "__main__":
    main()
