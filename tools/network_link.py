#!/usr/bin/env python3
"""Parts of tools/ranks_over_network.sh's link: a delay for kernels without netem, and a measurement.

    python3 tools/network_link.py delay NAME0 NAME1 MILLISECONDS

Makes two TUN devices, says `ready`, and carries every packet from either to the other, delayed by MILLISECONDS. The
devices may then be moved into other network namespaces; they vanish when the process ends. TCP segments are as large as
the kernel's offloading makes them, up to 64 KiB, so that a gigabit is some thousand packets per second. Needs root.

    python3 tools/network_link.py answer ADDRESS
    python3 tools/network_link.py measure ADDRESS

One process answers, and the other measures: the round-trip time of a byte, the least of 20, and the rate of 8 MB,
both over one TCP connection.
"""

import collections
import fcntl
import os
import select
import socket
import struct
import sys
import time

# linux/if_tun.h
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4 = 0x01, 0x02
# A packet, and the header that describes its offloading (struct virtio_net_hdr).
LARGEST = 65536 + 10


def device(name):
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(tun, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)
    return tun


def packets(tun):
    while True:
        try:
            yield os.read(tun, LARGEST)
        except BlockingIOError:
            return


def deliver(tun, packet):
    try:
        os.write(tun, packet)
    except OSError:
        # Packets that the other side does not take, because it is down or full, are lost, as on a wire.
        pass


def carry(tuns, delay):
    """Runs forever."""
    other = {tuns[0]: tuns[1], tuns[1]: tuns[0]}
    # The delay is the same for all, so the first packet is due first.
    waiting = collections.deque()
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for tun in select.select(tuns, [], [], pause)[0]:
            for packet in packets(tun):
                waiting.append((time.monotonic() + delay, other[tun], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, tun, packet = waiting.popleft()
            deliver(tun, packet)


def delay(names, milliseconds):
    tuns = [device(name) for name in names]
    try:
        # Priority over computations on the same processors.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except OSError as error:
        print(f"no real-time priority ({error}): the delay is longer where processors are busy", file=sys.stderr)
    print("ready", flush=True)
    carry(tuns, float(milliseconds) / 1e3)


PORT = 4077
SENT = 8_000_000


def answer(address):
    with socket.create_server((address, PORT)) as server:
        print("ready", flush=True)
        connection, _ = server.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(20):
            connection.sendall(connection.recv(1))
        left = SENT
        while left > 0:
            left -= len(connection.recv(1 << 20)) or sys.exit("the connection broke")
        connection.sendall(b"x")


def measure(address):
    with socket.create_connection((address, PORT), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = []
        for _ in range(20):
            begun = time.monotonic()
            connection.sendall(b"x")
            connection.recv(1)
            times.append(time.monotonic() - begun)
        begun = time.monotonic()
        connection.sendall(bytes(SENT))
        connection.recv(1)
        took = time.monotonic() - begun - min(times)
    print(f"{1e3 * min(times):.2f} ms there and back, {8e-6 * SENT / took:.0f} Mbit/s over one connection")


def main():
    match sys.argv[1:]:
        case ["delay", first, second, milliseconds]:
            delay([first, second], milliseconds)
        case ["answer", address]:
            answer(address)
        case ["measure", address]:
            measure(address)
        case _:
            sys.exit(f"usage: {sys.argv[0]} delay NAME0 NAME1 MILLISECONDS | answer ADDRESS | measure ADDRESS")


if __name__ == "__main__":
    main()
