"""ResNeXt, DenseNet-BC and the ResNets for ImageNet in PyTorch, with ONE around them, for tools/goldens.py.

Names of parameters follow tools/pytorch_one.py: branch 0 has plain names, the stages of auxiliary branch i
are under `branches.{i}.`, the gate is `gate.fc` and `gate.bn`. The branches begin at a family's last stage.
"""

import torch
import torch.nn.functional as F
from pytorch_one import Gate, make_shortcut
from torch import nn


class Residual(nn.Module):
    """Convolutions with batch-norm, conv1/bn1 and so on, and a shortcut: option B where shapes change."""

    def __init__(self, c_in, convolutions):
        super().__init__()
        self.depth = len(convolutions)
        channels, stride = c_in, 1
        for i, (filters, kernel, step, groups) in enumerate(convolutions, 1):
            conv = nn.Conv2d(channels, filters, kernel, step, kernel // 2, groups=groups, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(filters))
            channels, stride = filters, stride * step
        self.downsample = make_shortcut("b", c_in, channels, stride)

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = F.relu(y)
        return F.relu(y + self.downsample(x))


def residual_stage(c_in, blocks, stride, convolutions):
    """`convolutions(stride)` lists filters, kernel, stride and groups of a block's convolutions."""
    filters = convolutions(1)[-1][0]
    widths = [c_in] + [filters] * (blocks - 1)
    return nn.Sequential(*(Residual(c, convolutions(stride if i == 0 else 1)) for i, c in enumerate(widths)))


class ResNeXt:
    """For 32x32 images: a 3x3 stem, stages of 4, 8 and 16 times its width, bottlenecks with grouped 3x3."""

    fan_out = "layer3"

    def __init__(self, blocks, cardinality, width, stem):
        self.blocks, self.cardinality, self.width, self.stem = blocks, cardinality, width, stem
        self.shared_channels = 8 * stem

    def stage(self, index):
        inner, filters = self.cardinality * self.width * 2**index, 4 * self.stem * 2**index
        c_in = self.stem if index == 0 else filters // 2
        stride = 1 if index == 0 else 2

        def convolutions(stride):
            return [(inner, 1, 1, 1), (inner, 3, stride, self.cardinality), (filters, 1, 1, 1)]

        return residual_stage(c_in, self.blocks, stride, convolutions)

    def shared(self):
        return {
            "conv1": nn.Conv2d(3, self.stem, 3, padding=1, bias=False),
            "bn1": nn.BatchNorm2d(self.stem),
            "layer1": self.stage(0),
            "layer2": self.stage(1),
        }

    def branch(self, classes):
        return {"layer3": self.stage(2), "fc": nn.Linear(16 * self.stem, classes)}

    def run_shared(self, net, x):
        return net.layer2(net.layer1(F.relu(net.bn1(net.conv1(x)))))

    def run_branch(self, net, x):
        return net.fc(net.layer3(x).mean((2, 3)))


class ImageNetResNet:
    """For 224x224 images: a 7x7 stem with stride 2, a 3x3 max-pool with stride 2, four stages of basic blocks."""

    fan_out = "layer4"

    def __init__(self, blocks, stem):
        self.blocks, self.stem = blocks, stem
        self.shared_channels = 4 * stem

    def stage(self, index):
        planes = self.stem * 2**index
        c_in, stride = (planes, 1) if index == 0 else (planes // 2, 2)
        return residual_stage(c_in, self.blocks, stride, lambda stride: [(planes, 3, stride, 1), (planes, 3, 1, 1)])

    def shared(self):
        modules = {
            "conv1": nn.Conv2d(3, self.stem, 7, 2, 3, bias=False),
            "bn1": nn.BatchNorm2d(self.stem),
            "maxpool": nn.MaxPool2d(3, 2, 1),
        }
        modules.update({f"layer{i + 1}": self.stage(i) for i in range(3)})
        return modules

    def branch(self, classes):
        return {"layer4": self.stage(3), "fc": nn.Linear(8 * self.stem, classes)}

    def run_shared(self, net, x):
        x = net.maxpool(F.relu(net.bn1(net.conv1(x))))
        return net.layer3(net.layer2(net.layer1(x)))

    def run_branch(self, net, x):
        return net.fc(net.layer4(x).mean((2, 3)))


class DenseLayer(nn.Module):
    """BN, ReLU, 1x1 to 4k channels, BN, ReLU, 3x3 to k; its output is preceded by its input."""

    def __init__(self, c_in, growth):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return torch.cat((x, y), 1)


class Transition(nn.Module):
    """BN, ReLU, 1x1 to half of the channels, 2x2 average-pool."""

    def __init__(self, channels):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels // 2, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(self.conv1(F.relu(self.bn1(x))), 2)


class DenseNetBc:
    """For 32x32 images: a 3x3 stem of 2k channels, three dense blocks, a transition behind the first two."""

    fan_out = "dense3"

    def __init__(self, layers, growth):
        self.layers, self.growth = layers, growth
        self.channels = [2 * growth]
        for _ in range(3):
            self.channels.append((self.channels[-1] + layers * growth) // 2)
        self.shared_channels = self.channels[2]

    def block(self, index):
        widths = [self.channels[index] + i * self.growth for i in range(self.layers)]
        return nn.Sequential(*(DenseLayer(width, self.growth) for width in widths))

    def last_channels(self, index):
        return self.channels[index] + self.layers * self.growth

    def shared(self):
        return {
            "conv1": nn.Conv2d(3, self.channels[0], 3, padding=1, bias=False),
            "dense1": self.block(0),
            "trans1": Transition(self.last_channels(0)),
            "dense2": self.block(1),
            "trans2": Transition(self.last_channels(1)),
        }

    def branch(self, classes):
        channels = self.last_channels(2)
        return {"dense3": self.block(2), "bn": nn.BatchNorm2d(channels), "fc": nn.Linear(channels, classes)}

    def run_shared(self, net, x):
        return net.trans2(net.dense2(net.trans1(net.dense1(net.conv1(x)))))

    def run_branch(self, net, x):
        return net.fc(F.relu(net.bn(net.dense3(x))).mean((2, 3)))


class OneNetwork(nn.Module):
    """A family with its last stage and classifier copied `branches` times, and a gate if there are several."""

    def __init__(self, family, branches, classes):
        super().__init__()
        self.family = family
        for name, module in family.shared().items():
            self.add_module(name, module)
        copies = [nn.ModuleDict(family.branch(classes)) for _ in range(branches)]
        for name, module in copies[0].items():
            self.add_module(name, module)
        self.branches = nn.ModuleDict({str(i): copies[i] for i in range(1, branches)})
        self.gate = Gate(family.shared_channels, branches) if branches > 1 else None

    def features(self, x):
        """Images [N, 3, H, W] to the features at the fan-out point."""
        return self.family.run_shared(self, x)

    def forward(self, x):
        """The logits of the branches (a list), the gate's weights [N, branches], the teacher's logits."""
        features = self.features(x)
        logits = [self.family.run_branch(net, features) for net in (self, *self.branches.values())]
        if self.gate is None:
            return logits, None, logits[0]
        weights = self.gate(features)
        return logits, weights, sum(weights[:, i : i + 1] * z for i, z in enumerate(logits))
