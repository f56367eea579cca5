"""CIFAR ResNets and ONE distillation in PyTorch, for tools/goldens.py and tools/pytorch_baseline.py.

Names of parameters: the target network (branch 0) has plain names (`conv1.weight`, `layer3.0.bn1.bias`, `fc.weight`);
the stages of auxiliary branch i are under `branches.{i}.`; the gate is `gate.fc` and `gate.bn`.
"""

import torch
import torch.nn.functional as F
from torch import nn

TEMPERATURE = 3.0


class ShortcutA(nn.Module):
    """Parameter-free shortcut: subsample, then zero channels, half of them before and half after."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.pad = (c_out - c_in) // 2
        self.stride = stride

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))


def make_shortcut(kind, c_in, c_out, stride):
    """Identity where shapes agree, else option A, or option B: a 1x1 convolution and a batch-norm."""
    if c_in == c_out and stride == 1:
        return nn.Sequential()
    if kind == "a":
        return ShortcutA(c_in, c_out, stride)
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, c_in, planes, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = make_shortcut(shortcut, c_in, planes, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the planes."""

    expansion = 4

    def __init__(self, c_in, planes, stride, shortcut):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = make_shortcut(shortcut, c_in, 4 * planes, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def make_stage(block, c_in, planes, stride, blocks, shortcut):
    widths = [c_in] + [planes * block.expansion] * (blocks - 1)
    return nn.Sequential(*(block(c, planes, stride if i == 0 else 1, shortcut) for i, c in enumerate(widths)))


class Branch(nn.Module):
    """The last stage and the classifier: features [N, C, H, W] to logits [N, K]."""

    def __init__(self, block, c_in, width, blocks, shortcut, classes):
        super().__init__()
        self.layer3 = make_stage(block, c_in, 4 * width, 2, blocks, shortcut)
        self.fc = nn.Linear(4 * width * block.expansion, classes)

    def forward(self, x):
        return self.fc(self.layer3(x).mean((2, 3)))


class Gate(nn.Module):
    """Shared features [N, C, H, W] to one weight per branch, [N, branches]."""

    def __init__(self, channels, branches):
        super().__init__()
        self.fc = nn.Linear(channels, branches)
        self.bn = nn.BatchNorm1d(branches)

    def scores(self, x):
        return self.bn(self.fc(x.mean((2, 3))))

    def forward(self, x):
        return F.softmax(F.relu(self.scores(x)), dim=1)


class ResNet(nn.Module):
    """CIFAR ResNet, depth 6n+2 (basic) or 9n+2 (bottleneck), with the last stage copied `branches` times.

    One branch is the plain network: no gate, and the teacher is that branch.
    """

    def __init__(self, block=BasicBlock, blocks=5, width=16, classes=10, branches=1, shortcut="b", gate=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = make_stage(block, width, width, 1, blocks, shortcut)
        self.layer2 = make_stage(block, width * block.expansion, 2 * width, 2, blocks, shortcut)
        shared = 2 * width * block.expansion
        copies = [Branch(block, shared, width, blocks, shortcut, classes) for _ in range(branches)]
        self.layer3, self.fc = copies[0].layer3, copies[0].fc
        self.branches = nn.ModuleDict({str(i): copies[i] for i in range(1, branches)})
        self.gate = Gate(shared, branches) if gate and branches > 1 else None

    def features(self, x):
        """Images [N, 3, 32, 32] to the features at the fan-out point."""
        return self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))

    def forward(self, x):
        """The logits of the branches (a list), the gate's weights [N, branches], the teacher's logits."""
        features = self.features(x)
        logits = [self.fc(self.layer3(features).mean((2, 3)))]
        logits += [branch(features) for branch in self.branches.values()]
        if self.gate is None:
            weights = features.new_full((len(x), len(logits)), 1.0 / len(logits))
        else:
            weights = self.gate(features)
        teacher = sum(weights[:, i : i + 1] * z for i, z in enumerate(logits))
        return logits, weights, teacher


def loss_terms(logits, teacher, labels):
    """The three terms of ONE's loss: sum of the branches' CE, the teacher's CE, T^2 times the sum of KL terms.

    The distillation target is detached. A single branch has only its CE.
    """
    branches = sum(F.cross_entropy(z, labels) for z in logits)
    if len(logits) == 1:
        return branches, torch.zeros_like(branches), torch.zeros_like(branches)
    target = F.softmax(teacher.detach() / TEMPERATURE, dim=1)
    divergence = sum(
        F.kl_div(F.log_softmax(z / TEMPERATURE, dim=1), target, reduction="batchmean") for z in logits
    )
    return branches, F.cross_entropy(teacher, labels), TEMPERATURE**2 * divergence
