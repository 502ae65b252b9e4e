"""Runs the commands of one push, and measures both sides."""

import os
import pathlib
import resource
import subprocess
import threading
import time
from dataclasses import dataclass

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figures:
    """Seconds, MiB and bytes; None for what a mode does not have."""

    wall: float
    origin_cpu: float
    mirror_cpu: float | None
    origin_mib: float
    mirror_mib: float | None
    bytes: int | None


def family(pid):
    """`pid` and its living descendants."""
    found = [pid]
    for parent in found:
        try:
            for task in pathlib.Path(f"/proc/{parent}/task").iterdir():
                found.extend(map(int, (task / "children").read_text().split()))
        except OSError:
            continue
    return found


def cpu_of(pids):
    """CPU seconds of these processes and of their ended children."""
    ticks = 0
    for pid in pids:
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        ticks += sum(map(int, stat.rsplit(")", 1)[1].split()[11:15]))
    return ticks / TICKS


def cpu_when_idle(roots):
    """CPU seconds of the servers, once they have stopped working."""
    last = None
    while True:
        now = cpu_of([pid for root in roots for pid in family(root)])
        if now == last:
            return now
        last = now
        time.sleep(0.3)


class Peak:
    """The largest resident size of one process of these families, in MiB, by sampling."""

    def __init__(self, roots):
        self.roots = roots
        self.mib = 0.0
        self.ended = threading.Event()
        for pid in (pid for root in roots for pid in family(root)):
            # The peak of a server that runs for longer begins here.
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
        self.thread = threading.Thread(target=self.watch)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def watch(self):
        begin = time.monotonic()
        while True:
            for pid in (pid for root in self.roots for pid in family(root)):
                self.mib = max(self.mib, peak_of(pid))
            # A short push ends before its second sample at the usual pace.
            if self.ended.wait(0.002 if time.monotonic() - begin < 0.3 else 0.02):
                return


def peak_of(pid):
    """The peak of one process in MiB, or 0 if it has ended."""
    try:
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def measure(commands, servers, network, cache):
    """Runs `commands` side by side, until all have ended and the servers are idle."""
    os.sync()
    env = dict(os.environ, XDG_CACHE_HOME=str(cache))
    cpu, sent = cpu_when_idle(servers), network.bytes()
    begin = time.perf_counter()
    pushes = [subprocess.Popen(c, env=env, stdout=subprocess.DEVNULL) for c in commands]
    with Peak(servers) as mirror, Peak([push.pid for push in pushes]) as origin:
        usages = [wait(push, command) for push, command in zip(pushes, commands, strict=True)]
        wall = time.perf_counter() - begin
        mirror_cpu = cpu_when_idle(servers) - cpu
    return Figures(
        wall=wall,
        origin_cpu=sum(usage.ru_utime + usage.ru_stime for usage in usages),
        mirror_cpu=mirror_cpu if servers else None,
        origin_mib=max(origin.mib, *(exact_mib(usage) for usage in usages)),
        mirror_mib=mirror.mib if servers else None,
        bytes=network.bytes() - sent if servers else None,
    )


def wait(push, command):
    """The resource usage of a push and of its children."""
    _, status, usage = os.wait4(push.pid, 0)
    push.returncode = os.waitstatus_to_exitcode(status)
    if push.returncode:
        raise SystemExit(f"ended with {push.returncode}: {' '.join(map(str, command))}")
    return usage


def exact_mib(usage):
    """The peak that the kernel reports, or 0 if it is that of this program, before `exec`."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage.ru_maxrss / 1024 if usage.ru_maxrss > own else 0.0
