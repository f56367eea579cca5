#!/usr/bin/env python3
"""Model of the time of a training step on W ranks; docs/scaling.md has its tables beside measurements.

    python3 tools/scaling.py                            the tables, 1 to 1,024 ranks, and where it stops paying
    python3 tools/scaling.py --measured                 the model beside measurements
    python3 tools/scaling.py --net resnet32 --step 250 --batch 128 --bandwidth 1000 --latency 0.05 --parts 4
                                                        your own: a step of one rank takes 250 ms at 128 images
                                                        (`train --profile`), Mbit/s, ms one way

The model. A step of W ranks, b images each, takes

    T(W) = C(b) + H + X'

C(b) = F + b 3 f / S: 3 times the forward operations f of an image (the gradient of the input and that of the weights
     take as many each) at the speed S, and F, the part of a step's time that does not depend on the batch (on a GPU
     2 us a dispatch, as in docs/results.md). With --step, a measured time.
H    copies between device and host and on the host (crates/tensor/src/sharing.rs): the gradients are read, put
     together, taken apart and written; on a GPU they cross the bus twice, and each piece of host work drains the queue.
X'   the part of the exchange X that is not hidden behind the backward pass.

The exchange as it is (crates/dist/src/collectives.rs). A collective is a sequence of phases, in each of which
every rank sends a message to every other one. A phase of m bytes to each takes (LogGP: Alexandrov et al., SPAA 1995)

    A(m) = k L + (W - 1) (o + d m / B) + R(m)

L latency one way; o overhead of a message; B bandwidth of a rank's link. k = 3 if m is above the eager limit: then a
request to send and its answer come first (`ompi_info --param btl tcp --level 9`), else 1. d = 1, or 2 if the two
directions of a link alternate, as Open MPI's TCP does between two ranks unless told otherwise (docs/scaling.md). R: in
a pause TCP halves its window every 0.2 s, down to 10 segments (RFC 2861, as Linux does it; RFC 6928), and afterwards
doubles it each round trip, until it is B 2 L again.

    sum of n bytes        A(16) + A(n / W) + n / M + A(n / W)      headers, slices, their sum, the sums
    gathering of n bytes  A(16) + A(n)

So a rank sends 2 (W - 1) / W n bytes, in 2 (W - 1) messages and W - 1 headers. A step sums n = 4 (parameters + running
statistics + 32) bytes. With --sync-bn the sum has no running statistics; each batch-norm of c channels gathers 8 c
bytes in the forward pass and sums 8 c in the backward pass, and nothing hides that.

With --gradient-parts P, part k of about n / P bytes is sent when the backward pass has computed it, the last
parameters first, and after the parts before it:  e(k) = max(ready(k), e(k-1)) + sum(n / P),  X' = e(P) - C. A hidden
exchange takes processor time from a CPU device: K per byte.

The model leaves out ranks that are not equally fast (every exchange waits for the slowest), switches with less
bandwidth than their ports together, many ranks on one host's link, evaluation, checkpoints.
"""

import argparse
from dataclasses import dataclass, replace

MS = 1e-3
US = 1e-6


@dataclass(frozen=True)
class Net:
    """Of `train info --net NAME --branches K --classes C`; `branch_*` count the branches' own stages, all branches
    together: half of the difference between 3 branches and 1, times the branches. Batch-norms and their channels are
    counted by hand: those of all members, shortcuts and gate."""

    name: str
    command: str
    parameters: int
    branch_parameters: int
    flops: float
    branch_flops: float
    norms: int
    channels: int
    dispatches: int
    batch: int


NETS = [
    Net("resnet32 x3", "--net resnet32 --branches 3 --classes 10", 1_175_639, 3 * 354_314, 2.2843e8, 3 * 0.4509e8,
        norms=34, channels=16 * 11 + 32 * 11 + 3 * 64 * 11 + 3, dispatches=230, batch=128),
    Net("resnet110 x3", "--net resnet110 --branches 3 --classes 100", 4_380_581, 3 * 1_321_956, 8.4188e8, 3 * 1.67785e8,
        norms=112, channels=16 * 37 + 32 * 37 + 3 * 64 * 37 + 3, dispatches=737, batch=128),
    Net("resnext29-8x64d x3", "--net resnext29-8x64d --branches 3 --classes 100", 87_219_829, 3 * 26_349_668,
        182.9132e8, 3 * 37.583e8, norms=32, channels=64 + 4096 + 8192 + 3 * 16384 + 3, dispatches=336, batch=128),
    # In one network, layer4 and the classifier are ready first: half of the extra parameters of `--branches 3`.
    Net("resnet50", "--net resnet50 --branches 1 --classes 1000 (images of 224x224)", 25_557_032, 17_013_736,
        81.7837e8, 16.2258e8, norms=53, channels=26_560, dispatches=348, batch=256),
]


@dataclass(frozen=True)
class Device:
    """A device. Copies are in bytes per second, on the host and over the bus; a drain is the cost of a piece of host
    work on a GPU, which must finish and start again."""

    name: str
    speed: float
    fixed: float
    host: float = 10e9
    bus: float = 0.0
    drain: float = 0.0


DEVICES = [
    # 128 images of ResNet-32 x3 in 257 ms (two ranks of one thread each, docs/scaling.md).
    Device("CPU, 2 cores as measured here", speed=128 * 3 * 2.2843e8 / 0.257, fixed=0.0),
    # RX 7900 XTX, as docs/results.md predicts it (29,300 images/s, of which 2 us a dispatch); bus and drain assumed.
    Device("GPU of 20 TFLOP/s (nothing of it measured)", speed=128 * 3 * 2.2843e8 / 3.9e-3, fixed=2 * US,
           bus=12e9, drain=100 * US),
]


@dataclass(frozen=True)
class Network:
    """One link of a rank; see the model."""

    name: str
    latency: float
    overhead: float
    bandwidth: float
    eager: int
    turns: float = 1.0
    slow_start: bool = False
    cpu: float = 0.0


# TCP on Ethernet carries 1448 bytes of data in frames that take 1538 bytes of the wire.
TCP = 1448 / 1538


def ethernet(mbits, latency, turns=1.0):
    name = f"{mbits / 1000:g} Gbit/s" if mbits >= 1000 else f"{mbits:g} Mbit/s"
    return Network(f"{name} Ethernet", latency, 5 * US, mbits * 1e6 / 8 * TCP, 65_536, turns, True, 3e-9)


NETWORKS = [
    # Latency and bandwidth are fitted to the measured waits of two ranks, with --sync-bn and without (docs/scaling.md).
    Network("shared memory", 40 * US, 5 * US, 1.5e9, 4096, cpu=1e-9),
    # Latencies of TCP through a switch, and of InfiniBand, are assumed.
    ethernet(1000, 50 * US),
    ethernet(10_000, 20 * US),
    Network("100 Gbit/s, 2 us", 2 * US, 1 * US, 12e9, 8192),
]

# Summing in the order of the ranks, bytes of the terms per second: as fast as memory is read.
SUM = 5e9
# A rank that has waited for 0.5 ms looks every 0.05 to 0.25 ms (crates/dist/src/patience.rs): half of that on average.
PATIENCE, LOOK = 500 * US, 75 * US
# TCP: bytes, segments, and the least timeout of retransmission.
SEGMENT, FIRST_WINDOW, TIMEOUT = 1448, 10, 0.2


def slow_start(network, size, idle):
    """Extra time of `size` bytes because TCP opens its window again."""
    if not network.slow_start:
        return 0.0
    there_and_back = 2 * network.latency
    whole = network.bandwidth * there_and_back
    window, sent, time = max(SEGMENT * FIRST_WINDOW, whole / 2 ** (idle // TIMEOUT)), 0.0, 0.0
    while sent + window < size and window < whole:
        time += there_and_back - window / network.bandwidth
        sent += window
        window *= 2
    return time


def phase(network, ranks, size, idle=0.0):
    """Time for every rank to send `size` bytes to every other one."""
    large = size > network.eager
    turns = network.turns if large else 1.0
    wire = (ranks - 1) * (network.overhead + turns * size / network.bandwidth)
    time = network.latency * (3 if large else 1) + wire + slow_start(network, size, idle)
    return time + (LOOK if time > PATIENCE else 0.0)


def sum_over_ranks(network, ranks, size, idle=0.0):
    share = size / ranks
    return phase(network, ranks, 16) + phase(network, ranks, share, idle) + size / SUM + phase(network, ranks, share)


def gathering(network, ranks, size):
    return phase(network, ranks, 16) + phase(network, ranks, size)


def summed_bytes(net, sync):
    return 4 * (net.parameters + (0 if sync else 2 * net.channels) + 32)


def ready(net, share, compute):
    """Time at which the gradients of the last `share` of the parameters are ready; forward takes a third of a step."""
    branch, time = net.branch_parameters / net.parameters, net.branch_flops / net.flops
    part = share / branch * time if share < branch else time + (share - branch) / (1 - branch) * (1 - time)
    return compute * (1 + 2 * part) / 3


@dataclass(frozen=True)
class Step:
    """Times of a step in seconds: computing, copies, and the exchange, hidden or waited for."""

    compute: float
    copies: float
    hidden: float
    waited: float

    @property
    def total(self):
        return self.compute + self.copies + self.waited


def step(net, device, network, ranks, images, parts=1, sync=False, measured=None):
    """The step with `images` images on each rank; `measured` is the time in seconds of one image on one rank."""
    per_image = measured or 3 * net.flops / device.speed
    compute = device.fixed * net.dispatches + images * per_image
    if ranks == 1:
        return Step(compute, 0.0, 0.0, 0.0)
    size = summed_bytes(net, sync)
    copies = 4 * size / device.host + (2 * size / device.bus if device.bus else 0.0) + device.drain * 2 * parts
    statistics = 0.0
    if sync:
        own = 8 * net.channels / net.norms
        each = gathering(network, ranks, own) + sum_over_ranks(network, ranks, own) + 2 * device.drain
        statistics = net.norms * each
    # The exchange of statistics keeps TCP's window open.
    idle = 0.0 if sync else compute
    end = wire = 0.0
    for part in range(1, parts + 1):
        start = max(end, ready(net, part / parts, compute) if part < parts else compute)
        took = sum_over_ranks(network, ranks, size / parts, idle if part == 1 else 0.0)
        end, wire = start + took, wire + took
    waited = end - compute
    hidden = max(0.0, wire - waited)
    stolen = 0.0 if device.bus else network.cpu * size * 2 * hidden / wire
    return Step(compute + stolen, copies, hidden, waited + statistics)


RANKS = [2**i for i in range(11)]


def efficiencies(case, weak, ranks):
    """For each number of ranks: T(1) / T(W) if each rank has a whole batch (`weak`); T(1) / (W T(W)) if the ranks share
    one. None if the batch is not divisible by the number of ranks."""
    net, device, network, options = case
    alone = step(net, device, network, 1, net.batch, **options).total
    found = []
    for count in ranks:
        if weak:
            found.append(alone / step(net, device, network, count, net.batch, **options).total)
        elif net.batch % count:
            found.append(None)
        else:
            found.append(alone / step(net, device, network, count, net.batch // count, **options).total / count)
    return found


def table(nets, device, networks, weak, options):
    kind = "weak" if weak else "strong"
    print(f"\n{device.name}; {kind} scaling: efficiency in per cent\n")
    print("| network | link | " + " | ".join(f"{count:,}" for count in RANKS) + " | below 50 % from |")
    print("|---|---|" + "---|" * (len(RANKS) + 1))
    for net in nets:
        for network in networks:
            found = efficiencies((net, device, network, options), weak, RANKS)
            cells = ["–" if value is None else f"{100 * value:.0f}" for value in found]
            stop = next((count for count, value in zip(RANKS, found) if value is not None and value < 0.5), None)
            print(f"| {net.name}, {net.batch} | {network.name} | " + " | ".join(cells) + f" | {stop or 'never'} |")


@dataclass(frozen=True)
class Point:
    """A measurement: medians of `rounds` steps in ms, of the whole and of the wait."""

    mbits: float
    delay: float
    turns: float
    parts: int
    sync: bool
    rounds: int
    total: float
    waited: float


# ResNet-32 x3, 128 images, two ranks of one core each (method: docs/scaling.md).
MEASURED = [
    Point(0, 0, 1.0, 1, False, 3, 257, 4),
    Point(0, 0, 1.0, 2, False, 3, 257, 5),
    Point(0, 0, 1.0, 4, False, 3, 260, 3),
    Point(0, 0, 1.0, 1, True, 3, 268, 10),
    Point(0, 0, 1.0, 4, True, 3, 270, 12),
    Point(1000, 0, 1.0, 1, False, 3, 315, 52),
    Point(1000, 0, 1.0, 4, False, 3, 306, 22),
    Point(1000, 1, 1.0, 1, False, 3, 336, 70),
    Point(1000, 1, 1.0, 4, False, 3, 344, 32),
    Point(1000, 10, 1.0, 1, False, 3, 407, 134),
    Point(1000, 10, 1.0, 4, False, 3, 472, 165),
    Point(100, 0, 1.0, 1, False, 3, 705, 424),
    Point(100, 0, 1.0, 4, False, 3, 541, 244),
    Point(100, 1, 1.0, 1, False, 3, 680, 397),
    Point(100, 1, 1.0, 4, False, 3, 529, 244),
    Point(100, 10, 1.0, 1, False, 3, 743, 472),
    Point(100, 10, 1.0, 4, False, 3, 772, 491),
    Point(1000, 0, 2.0, 1, False, 3, 336, 76),
    Point(1000, 0, 2.0, 4, False, 3, 311, 28),
    Point(1000, 1, 2.0, 1, False, 3, 366, 91),
    Point(1000, 1, 2.0, 4, False, 3, 359, 39),
    Point(1000, 10, 2.0, 1, False, 3, 407, 143),
    Point(1000, 10, 2.0, 4, False, 3, 514, 216),
    Point(100, 0, 2.0, 1, False, 3, 1040, 770),
    Point(100, 0, 2.0, 4, False, 3, 874, 602),
    Point(100, 1, 2.0, 1, False, 3, 995, 718),
    Point(100, 1, 2.0, 4, False, 3, 871, 602),
    Point(100, 10, 2.0, 1, False, 3, 1095, 822),
    Point(100, 10, 2.0, 4, False, 2, 1156, 860),
    Point(1000, 0, 1.0, 1, True, 1, 338, 65),
    Point(1000, 1, 1.0, 1, True, 1, 550, 280),
    Point(1000, 10, 1.0, 1, True, 1, 2155, 1876),
    Point(100, 1, 1.0, 1, True, 1, 905, 618),
    Point(1000, 0, 2.0, 1, True, 1, 349, 90),
    Point(1000, 1, 2.0, 1, True, 1, 566, 292),
    Point(1000, 10, 2.0, 1, True, 1, 2154, 1904),
    Point(100, 1, 2.0, 1, True, 1, 916, 647),
]


def compare():
    net, device = NETS[0], DEVICES[0]
    print("| link | `put` | parts | `--sync-bn` | rounds | measured, ms (waited) | predicted, ms (waited) | predicted / measured |")
    print("|---|---|---|---|---|---|---|---|")
    for point in MEASURED:
        network = ethernet(point.mbits, point.delay * MS + 20 * US, point.turns) if point.mbits else NETWORKS[0]
        found = step(net, device, network, 2, 64, point.parts, point.sync, 2 * 0.257 / 128)
        ratio = 1e3 * found.total / point.total
        link = f"{network.name}, {point.delay:g} ms" if point.mbits else network.name
        put = "–" if not point.mbits else "yes" if point.turns > 1 else "no"
        print(f"| {link} | {put} | {point.parts} | {'yes' if point.sync else 'no'} | {point.rounds}"
              f" | {point.total:.0f} ({point.waited:.0f}) | {1e3 * found.total:.0f} ({1e3 * found.waited:.0f}) | {ratio:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--net", choices=[net.name.split()[0] for net in NETS], help="one network only")
    parser.add_argument("--step", type=float, metavar="MS", help="a step of one rank alone, measured, at --batch")
    parser.add_argument("--batch", type=int, metavar="N", help="images of a rank (weak), of all (strong)")
    parser.add_argument("--parts", type=int, default=1, metavar="N", help="--gradient-parts")
    parser.add_argument("--sync-bn", action="store_true")
    parser.add_argument("--bandwidth", type=float, metavar="MBITS", help="a link by TCP of your own")
    parser.add_argument("--latency", type=float, default=0.05, metavar="MS", help="its latency, one way")
    parser.add_argument("--put", action="store_true", help="Open MPI's TCP without btl_tcp_flags (docs/scaling.md): d = 2")
    parser.add_argument("--measured", action="store_true", help="the model beside measurements")
    arguments = parser.parse_args()
    if arguments.step and not (arguments.net and arguments.batch):
        parser.error("--step needs --net and --batch: of what it is the time")
    if any(value is not None and value <= 0 for value in [arguments.step, arguments.batch, arguments.bandwidth, arguments.parts]):
        parser.error("times, batches, parts and bandwidths are positive")
    if arguments.measured:
        compare()
        return
    nets = [net for net in NETS if arguments.net in (None, net.name.split()[0])]
    if arguments.batch:
        nets = [replace(net, batch=arguments.batch) for net in nets]
    networks, devices = NETWORKS, DEVICES
    if arguments.bandwidth:
        networks = [ethernet(arguments.bandwidth, arguments.latency * MS)]
    if arguments.put:
        networks = [replace(network, turns=2.0) if network.slow_start else network for network in networks]
    options = {"parts": arguments.parts, "sync": arguments.sync_bn}
    if arguments.step:
        options["measured"] = arguments.step * MS / arguments.batch
        devices = [Device("a device as measured", speed=1.0, fixed=0.0)]
    for device in devices:
        for weak in (True, False):
            table(nets, device, networks, weak, options)


if __name__ == "__main__":
    main()
