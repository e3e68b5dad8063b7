"""A slow link between two network namespaces: a TUN device in each, with this process as the wire between them.

usage: link.py --ends PID ADDRESS PID ADDRESS [--delay MS] [--loss PERCENT] --ready FILE

--ends    for each namespace: a process in it, and the address of its end, with a prefix length if it is in a network
--delay   one way, milliseconds
--loss    share of packets that are lost, in each direction
--ready   file that is created once both ends are up

SIGUSR1 cuts the link, SIGUSR2 restores it. The link ends with standard input.
TUN rather than TAP or veth, because the kernel then delivers packets with complete checksums and segments.
"""

import argparse
import collections
import ctypes
import fcntl
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
CLONE_NEWNET = 0x40000000
DEVICE = "pialink"
MAX_PACKET = 65535
# Packets taken from one end before the other gets its turn.
BATCH = 64


def enter(pid):
    """Moves this process into the network namespace of process `pid`."""
    with open(f"/proc/{pid}/ns/net", "rb") as namespace:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to the namespace of process {pid}")


def open_end(pid, address, peer):
    """Opens a new device in the namespace of `pid` and returns its descriptor."""
    enter(pid)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    ends = [address] if "/" in address else [address, "peer", peer.split("/")[0]]
    subprocess.run(["ip", "address", "add", *ends, "dev", DEVICE], check=True)
    subprocess.run(["ip", "link", "set", DEVICE, "up"], check=True)
    return device


class Wire:
    """Queue of packets in transit, each with its output device. The delay is the same for all, which keeps their order."""

    def __init__(self, delay, loss):
        self.delay = delay
        self.loss = loss
        self.cut = False
        self.packets = collections.deque()
        # The same packets are lost in every run.
        self.random = random.Random(1)

    def accept(self, source, sink):
        for _ in range(BATCH):
            try:
                packet = os.read(source, MAX_PACKET)
            except BlockingIOError:
                return
            if not self.cut and self.random.random() >= self.loss:
                self.packets.append((time.monotonic() + self.delay, sink, packet))

    def deliver(self):
        """Sends the packets that are due. Returns the seconds until the next one, or None if the queue is empty."""
        while self.packets:
            due, sink, packet = self.packets[0]
            wait = due - time.monotonic()
            if wait > 0:
                return wait
            self.packets.popleft()
            try:
                os.write(sink, packet)
            except OSError:
                pass  # The namespace is being removed.
        return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ends", nargs=4, required=True)
    parser.add_argument("--delay", type=float, default=0)
    parser.add_argument("--loss", type=float, default=0)
    parser.add_argument("--ready", required=True)
    options = parser.parse_args()

    pid_a, address_a, pid_b, address_b = options.ends
    a = open_end(pid_a, address_a, address_b)
    b = open_end(pid_b, address_b, address_a)
    wire = Wire(options.delay / 1000, options.loss / 100)
    signal.signal(signal.SIGUSR1, lambda *_: setattr(wire, "cut", True))
    signal.signal(signal.SIGUSR2, lambda *_: setattr(wire, "cut", False))
    with open(options.ready, "w", encoding="ascii"):
        pass

    while True:
        readable, _, _ = select.select([a, b, sys.stdin], [], [], wire.deliver())
        if sys.stdin in readable:
            return
        for source in readable:
            wire.accept(source, b if source == a else a)


main()
