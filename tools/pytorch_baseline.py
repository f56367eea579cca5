#!/usr/bin/env python3
"""ONE on a network for 32x32 images in PyTorch on the CPU: errors and speed to compare this project with.

    apt-get install python3-torch python3-numpy
    python3 tools/pytorch_baseline.py --data DIR --branches 3 --epochs 10 --limit-train 5000 --limit-test 1000
    python3 tools/pytorch_baseline.py --branches 3 --batch 128 --steps 20          # speed alone, random images

DIR holds data_batch_{1..5}.bin and test_batch.bin (CIFAR-10) or train.bin and test.bin (CIFAR-100). SGD with Nesterov
momentum 0.9 and weight decay 1e-4 on all parameters, the rate divided by 10 after 50 and 75 % of the epochs, random
crop after zero-padding by 4, horizontal flip. After every epoch one JSON object is printed, with the keys of the
project's metrics.jsonl. `images_per_second` is that of training, augmentation included; evaluation is not timed.
"""

import argparse
import json
import math
import re
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pytorch_families import DenseNetBc, OneNetwork, ResNeXt
from pytorch_one import BasicBlock, Bottleneck, ResNet, loss_terms

try:
    import resource
except ImportError:  # Windows
    resource = None

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)
PADDING = 4
WARM_UP_STEPS = 2
NETWORKS = {
    "resnet": re.compile(r"resnet(\d+)"),
    "resnext": re.compile(r"resnext(\d+)-(\d+)x(\d+)d"),
    "densenet": re.compile(r"densenet-bc-(\d+)-(\d+)"),
}
# Files of each split, bytes of labels in front of an image (the last one is used), classes.
LAYOUTS = {
    "CIFAR-10": ([f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"], 1, 10),
    "CIFAR-100": (["train.bin"], ["test.bin"], 2, 100),
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, help="folder of the CIFAR .bin files")
    known = "resnet20, 32, …; resnet164; resnext29-8x64d; densenet-bc-100-12"
    parser.add_argument("--net", default="resnet32", help=f"{known} (default resnet32)")
    parser.add_argument("--branches", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--limit-train", type=int, help="number of training images to use, from the first on")
    parser.add_argument("--limit-test", type=int)
    parser.add_argument("--stop-after", type=int, help="number of steps after which every epoch ends")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="threads that PyTorch uses (default: its own choice)")
    parser.add_argument("--steps", type=int, help="number of steps to time on random images instead of training")
    parser.add_argument("--evaluation", action="store_true", help="with --steps: time evaluation instead of training")
    parser.add_argument("--channels-last", action="store_true", help="keep images and activations in NHWC order")
    arguments = parser.parse_args()
    if arguments.data is None and arguments.steps is None:
        parser.error("--data DIR is needed to train, or --steps N to measure speed")
    if find_network(arguments.net) is None:
        parser.error(f"--net is {arguments.net}, which is none of the networks that --help names")
    for name in ("branches", "epochs", "steps", "limit_train", "limit_test", "stop_after", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} is {value}, but must be at least 1")
    if arguments.batch < 2:
        parser.error(f"--batch is {arguments.batch}, but batch-norm needs at least 2 images")
    return arguments


def read_split(folder, files, label_bytes, limit):
    """Images [N, 3, 32, 32] (u8) and labels [N]."""
    record = label_bytes + 3072
    rows = np.concatenate([np.fromfile(folder / file, np.uint8).reshape(-1, record) for file in files])[:limit]
    images = torch.from_numpy(rows[:, label_bytes:].reshape(-1, 3, 32, 32).copy())
    return images, torch.from_numpy(rows[:, label_bytes - 1].astype(np.int64))


def read_cifar(folder, limit_train, limit_test):
    """The two splits and the number of classes."""
    for train, test, label_bytes, classes in LAYOUTS.values():
        if all((folder / file).is_file() for file in train + test):
            return (
                read_split(folder, train, label_bytes, limit_train),
                read_split(folder, test, label_bytes, limit_test),
                classes,
            )
    wanted = " or ".join(", ".join(train + test) for train, test, _, _ in LAYOUTS.values())
    sys.exit(f"{folder} holds no CIFAR data: {wanted} must lie there")


def normalise(images):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images.float() / 255.0 - mean) / std


def augment(images, generator):
    """Random 32x32 crops of u8 images padded with black, and flips with probability one half."""
    count = len(images)
    padded = F.pad(images, (PADDING,) * 4)
    pixels = torch.arange(32)
    top, left = (torch.randint(2 * PADDING + 1, (count, 1), generator=generator) for _ in range(2))
    flip = torch.randint(2, (count, 1), generator=generator).bool()
    rows = top + pixels
    columns = left + torch.where(flip, 31 - pixels, pixels)
    which = torch.arange(count).view(-1, 1, 1)
    return padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def find_network(name):
    """Constructor of the network of this name, given branches and classes; None if there is no such network."""
    if match := NETWORKS["resnet"].fullmatch(name):
        layers = int(match[1]) - 2
        # 164 is both 6n+2 and 9n+2, and has bottlenecks.
        block, each = (BasicBlock, 6) if layers % 6 == 0 and layers != 162 else (Bottleneck, 9)
        return partial(ResNet, block, layers // each) if layers > 0 and layers % each == 0 else None
    if match := NETWORKS["resnext"].fullmatch(name):
        depth, cardinality, width = map(int, match.groups())
        blocks, rest = divmod(depth - 2, 9)
        return partial(one_network, ResNeXt(blocks, cardinality, width, stem=64)) if blocks > 0 and rest == 0 else None
    if match := NETWORKS["densenet"].fullmatch(name):
        depth, growth = map(int, match.groups())
        layers, rest = divmod(depth - 4, 6)
        return partial(one_network, DenseNetBc(layers, growth)) if layers > 0 and rest == 0 else None
    return None


def one_network(family, classes, branches):
    return OneNetwork(family, branches, classes)


def make_model(arguments, classes):
    """Convolutions N(0, sqrt(2 / (k k C_out))); PyTorch's own linear layers are U(+-1/sqrt(fan_in)) already."""
    model = find_network(arguments.net)(classes=classes, branches=arguments.branches)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / (module.kernel_size[0] ** 2 * module.out_channels)))
    return model.to(memory_format=memory_format(arguments))


def memory_format(arguments):
    return torch.channels_last if arguments.channels_last else torch.contiguous_format


def train_step(model, optimiser, images, labels):
    logits, _, teacher = model(images)
    loss = sum(loss_terms(logits, teacher, labels))
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return loss.item()


def train_epoch(model, optimiser, images, labels, arguments, generator):
    """Number of steps, mean loss per image, images per second."""
    model.train()
    # A single image left over has no variance for the gate's batch-norm.
    batches = [b for b in torch.randperm(len(images), generator=generator).split(arguments.batch) if len(b) > 1]
    batches = batches[: arguments.stop_after]
    total, count, start = 0.0, 0, time.perf_counter()
    for batch in batches:
        inputs = normalise(augment(images[batch], generator)).contiguous(memory_format=memory_format(arguments))
        total += train_step(model, optimiser, inputs, labels[batch]) * len(batch)
        count += len(batch)
    return len(batches), total / count, count / (time.perf_counter() - start)


@torch.no_grad()
def evaluate(model, images, labels, arguments):
    """Loss, top-1 and top-5 errors of every branch, and top-1 error of the ensemble, in per cent."""
    model.eval()
    loss, top1, top5, ensemble = 0.0, 0, 0, 0
    for batch in torch.arange(len(images)).split(500):
        inputs = normalise(images[batch]).contiguous(memory_format=memory_format(arguments))
        target = labels[batch]
        logits, _, teacher = model(inputs)
        loss += sum(loss_terms(logits, teacher, target)).item() * len(batch)
        best = torch.stack(logits).topk(5, dim=2).indices == target[:, None]
        top1 = top1 + (~best[:, :, 0]).sum(1)
        top5 = top5 + (~best.any(2)).sum(1)
        ensemble += (teacher.argmax(1) != target).sum().item()
    percent = 100.0 / len(images)
    top1, top5 = ([wrong * percent for wrong in wrongs.tolist()] for wrongs in (top1, top5))
    return loss / len(images), top1, top5, ensemble * percent


def make_optimiser(model, arguments):
    return torch.optim.SGD(model.parameters(), lr=arguments.lr, momentum=0.9, nesterov=True, weight_decay=1e-4)


def train(arguments):
    (train_images, train_labels), (test_images, test_labels), classes = read_cifar(
        arguments.data, arguments.limit_train, arguments.limit_test
    )
    model = make_model(arguments, classes)
    optimiser = make_optimiser(model, arguments)
    generator = torch.Generator().manual_seed(arguments.seed)
    step = 0
    for epoch in range(1, arguments.epochs + 1):
        drops = sum(epoch - 1 >= fraction * arguments.epochs for fraction in (0.5, 0.75))
        rate = arguments.lr / 10**drops
        optimiser.param_groups[0]["lr"] = rate
        steps, train_loss, speed = train_epoch(model, optimiser, train_images, train_labels, arguments, generator)
        step += steps
        loss, top1, top5, ensemble = evaluate(model, test_images, test_labels, arguments)
        record = {
            "epoch": epoch,
            "step": step,
            "split": "test",
            "loss": loss,
            "train_loss": train_loss,
            "top1_error": top1,
            "top5_error": top5,
            "ensemble_top1_error": ensemble,
            "learning_rate": rate,
            "images_per_second": round(speed, 1),
            "peak_memory_mb": peak_memory(),
            "device": device_name(),
        }
        print(json.dumps(record), flush=True)


def peak_memory():
    """Peak resident memory so far in MB; unknown if the system does not tell."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6)


def device_name():
    return f"PyTorch {torch.__version__}, CPU, {torch.get_num_threads()} threads"


def measure(arguments):
    model = make_model(arguments, 10).train(not arguments.evaluation)
    optimiser = make_optimiser(model, arguments)
    images = torch.randn(arguments.batch, 3, 32, 32).contiguous(memory_format=memory_format(arguments))
    labels = torch.randint(10, (arguments.batch,))
    seconds = []
    for _ in range(WARM_UP_STEPS + arguments.steps):
        start = time.perf_counter()
        if arguments.evaluation:
            with torch.no_grad():
                model(images)
        else:
            train_step(model, optimiser, images, labels)
        seconds.append(time.perf_counter() - start)
    timed = seconds[WARM_UP_STEPS:]
    median = statistics.median(timed)
    print(
        f"{arguments.net}, {arguments.branches} branches, batch {arguments.batch}, "
        f"{'evaluation' if arguments.evaluation else 'training'}, "
        f"{'NHWC' if arguments.channels_last else 'NCHW'}, {device_name()}: "
        f"{arguments.batch / median:.1f} images/s (median of {len(timed)} steps of {median * 1e3:.1f} ms, "
        f"fastest {min(timed) * 1e3:.1f}, slowest {max(timed) * 1e3:.1f})"
    )


def main():
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if arguments.steps is not None:
        measure(arguments)
    else:
        train(arguments)


if __name__ == "__main__":
    main()
