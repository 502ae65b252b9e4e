"""The network between origin and mirror: loopback, or a wide-area link between two namespaces."""

import fcntl
import os
import pathlib
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass

HERE = pathlib.Path(__file__).resolve().parent
ALLOWED = pathlib.Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
# From linux/if_tun.h.
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000


@dataclass(frozen=True)
class Shape:
    """Round trip in ms, rate in Mbit/s, loss in percent, and what the queue holds in ms."""

    round_trip: float
    rate: float
    loss: float = 0
    queue: float = 50

    def __str__(self):
        loss = f", {self.loss:g} % loss" if self.loss else ""
        return f"{self.round_trip:g} ms, {self.rate:g} Mbit/s{loss}"


PRESETS = {
    "wan": Shape(80, 100),
    "near": Shape(20, 1000),
    "far": Shape(200, 20),
    "loss": Shape(80, 100, loss=1),
}


def parse_shape(text):
    """A preset, or ROUND_TRIP_MS,RATE_MBIT[,LOSS_PERCENT]."""
    if text in PRESETS:
        return PRESETS[text]
    numbers = [float(word) for word in text.split(",")]
    if not 2 <= len(numbers) <= 3:
        raise ValueError(text)
    return Shape(*numbers)


def received_bytes(device, inside):
    """The bytes that `device` received: on loopback, each byte of both directions once."""
    table = subprocess.run([*inside, "cat", "/proc/net/dev"], check=True, capture_output=True)
    for line in table.stdout.decode().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == device:
            return int(numbers.split()[0])
    raise RuntimeError(f"no device {device}")


class Loopback:
    """Both sides are in one namespace, so that nobody else sends on its loopback."""

    name = "loopback"
    host = "127.0.0.1"

    def __init__(self):
        self.space = f"peers-{os.getpid()}"
        self.origin = self.mirror = ("nsenter", f"--net=/run/netns/{self.space}")

    def __enter__(self):
        run("ip", "netns", "add", self.space)
        run("ip", "-n", self.space, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_):
        run("ip", "netns", "del", self.space, check=False)

    def bytes(self):
        return received_bytes("lo", self.origin)


class Wan:
    """Two network namespaces: `origin` and `mirror` are words to put before a command there."""

    host = "10.99.0.2"

    def __init__(self, shape, congestion):
        self.name = str(shape)
        self.shape = shape
        self.congestion = congestion
        self.spaces = [f"peers-{side}-{os.getpid()}" for side in "ab"]
        self.devices = [f"peer{side}{os.getpid()}"[:15] for side in "ab"]
        self.origin, self.mirror = [("nsenter", f"--net=/run/netns/{s}") for s in self.spaces]
        self.emulator = None
        self.allowed = None

    def __enter__(self):
        for space in self.spaces:
            run("ip", "netns", "add", space)
        try:
            self.emulator = None if self.connect_with_netem() else self.connect_with_emulator()
            self.allow_congestion_control()
            for number, (space, device) in enumerate(
                zip(self.spaces, self.devices, strict=True), start=1
            ):
                run("ip", "-n", space, "addr", "add", f"10.99.0.{number}/24", "dev", device)
                run("ip", "-n", space, "link", "set", device, "mtu", "1500", "up")
                run("ip", "-n", space, "link", "set", device, "txqueuelen", "5000")
                run("ip", "-n", space, "link", "set", "lo", "up")
                control = f"net.ipv4.tcp_congestion_control={self.congestion}"
                run("nsenter", f"--net=/run/netns/{space}", "sysctl", "-qw", control)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.emulator:
            self.emulator.kill()
            self.emulator.wait()
        if self.allowed:
            ALLOWED.write_text(self.allowed)
        for space in self.spaces:
            run("ip", "netns", "del", space, check=False)

    def allow_congestion_control(self):
        """Lets namespaces use `congestion`: the kernel has one list for all of them."""
        self.allowed = ALLOWED.read_text()
        if self.congestion not in self.allowed.split():
            ALLOWED.write_text(f"{self.allowed.strip()} {self.congestion}")

    def connect_with_netem(self):
        """A veth pair with netem at both ends. False if the kernel has no netem."""
        a, b = self.devices
        run("ip", "-n", self.spaces[0], "link", "add", a, "type", "veth", "peer", b)
        run("ip", "-n", self.spaces[0], "link", "set", b, "netns", self.spaces[1])
        shape = self.shape
        # The limit counts packets: those on their way, and those in the queue.
        waiting = (shape.round_trip / 2 + shape.queue) / 1e3 * shape.rate * 1e6 / 8 / 1514
        words = f"delay {shape.round_trip / 2}ms rate {shape.rate}mbit limit {int(waiting) + 1}"
        words += f" loss {shape.loss}%" if shape.loss else ""
        for space, device in zip(self.spaces, self.devices, strict=True):
            # One packet in the counters is one packet on the link.
            run("ip", "-n", space, "link", "set", device, "gso_max_segs", "1")
            add = ["tc", "-n", space, "qdisc", "add", "dev", device, "root", "netem"]
            if not run(*add, *words.split(), check=False):
                run("ip", "-n", self.spaces[0], "link", "del", a)
                return False
        return True

    def connect_with_emulator(self):
        """Two TUN devices, and link.rs between them."""
        program = build_emulator()
        files = []
        for space, device in zip(self.spaces, self.devices, strict=True):
            file = os.open("/dev/net/tun", os.O_RDWR)
            flags = IFF_TUN | IFF_NO_PI
            fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH22x", device.encode(), flags))
            run("ip", "link", "set", device, "netns", space)
            files.append(file)
        shape = self.shape
        words = [shape.round_trip / 2, shape.rate, shape.queue, shape.loss]
        command = [program, *map(str, words)]
        emulator = subprocess.Popen(command, stdin=files[0], stdout=files[1])
        for file in files:
            os.close(file)
        return emulator

    def bytes(self):
        """The bytes that arrived at both ends."""
        # What is on its way when a program ends still counts.
        time.sleep(self.shape.round_trip / 1e3 + 0.1)
        ends = zip(self.devices, [self.origin, self.mirror], strict=True)
        return sum(received_bytes(device, inside) for device, inside in ends)


def build_emulator():
    """The path of the built link.rs."""
    source = HERE / "link.rs"
    program = pathlib.Path(tempfile.gettempdir()) / "headwater-peers-link"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        run("rustc", "--edition", "2021", "-O", "-o", str(program), str(source))
    return program


def run(*command, check=True):
    """Runs a command; returns whether it succeeded."""
    quiet = subprocess.DEVNULL
    # Without `check`, failure is an answer, and its message would mislead.
    errors = None if check else quiet
    done = subprocess.run(command, check=False, stdout=quiet, stderr=errors)
    if check and done.returncode:
        raise RuntimeError(f"failed: {' '.join(command)}")
    return done.returncode == 0
