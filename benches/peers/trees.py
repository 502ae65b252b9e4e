"""What is pushed: the workloads, and the steps that change them.

Every step changes the tree of the origin and is then pushed and measured. A chain of steps shares
one file system. A `cold` step is what a fresh CI runner does: the cache of the origin is empty, the
tree is at another path, and every file has a new time.
"""

import os
import pathlib
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

MEGABYTE = 1_000_000
WORDS = [
    "river",
    "delta",
    "spring",
    "lake",
    "stream",
    "source",
    "mouth",
    "bank",
    "flood",
    "basin",
    "ford",
    "weir",
]


@dataclass(frozen=True)
class Step:
    """`is_setup`: brings the mirror to a state through directories on this machine, unmeasured."""

    name: str
    change: Callable[[pathlib.Path], None]
    is_cold: bool = False
    is_setup: bool = False


@dataclass(frozen=True)
class Workload:
    """Chains of steps, and the file system that they need."""

    name: str
    chains: list
    gigabytes: float
    inodes: int

    def scenarios(self):
        return [step.name for chain in self.chains for step in chain if not step.is_setup]

    def select(self, names):
        """The chains with only the steps in `names`, and the first step that they build on."""
        chosen = []
        for chain in self.chains:
            steps = [s for n, s in enumerate(chain) if n == 0 or s.name in names]
            if any(step.name in names for step in steps):
                chosen.append(steps)
        return chosen


def leave(_tree):
    """Changes nothing."""


def touch(tree):
    """Gives every file a new time."""
    subprocess.run(["find", tree, "-type", "f", "-exec", "touch", "{}", "+"], check=True)


def corpus(directory):
    """A directory with two releases of a tree, `v1` and `v2`."""
    for release in ["v1", "v2"]:
        if not (directory / release).is_dir():
            raise SystemExit(f"{directory} has no {release}")

    def become(release):
        # An unchanged file keeps its time.
        copy = ["rsync", "-a", "--delete", "--checksum", "--no-times", f"{directory / release}/"]
        return lambda tree: subprocess.run([*copy, f"{tree}/"], check=True)

    kept = [
        Step("initial", become("v1")),
        Step("nochange", leave),
        Step("update", become("v2")),
        Step("touched", touch),
    ]
    fresh = [
        Step("setup", become("v1"), is_setup=True),
        Step("cold", become("v2"), is_cold=True),
        Step("cold-same", leave, is_cold=True),
    ]
    return Workload(directory.name, [kept, fresh], 12, 1_500_000)


def large(size):
    """One file of `size` bytes that do not compress."""

    def make(tree):
        source = random.Random(1)
        with open(tree / "image.raw", "wb") as file:
            file.writelines(
                source.randbytes(min(16 * MEGABYTE, size - start))
                for start in range(0, size, 16 * MEGABYTE)
            )

    def overwrite(part):
        return lambda tree: overwrite_at(tree / "image.raw", int(size * part))

    steps = [
        Step("initial", make),
        Step("inplace", overwrite(0.5)),
        Step("inserted", lambda tree: insert_at(tree / "image.raw", 3 * MEGABYTE)),
        Step("inplace-cold", overwrite(0.25), is_cold=True),
        Step("inserted-cold", lambda tree: insert_at(tree / "image.raw", 7 * MEGABYTE), True),
    ]
    # The tree, three kept releases, the cache, and one more while a release replaces another.
    return Workload(f"large ({size / 1e9:g} GB)", [steps], 6 * size / 1e9 + 3, 10_000)


def overwrite_at(path, offset):
    """Replaces a megabyte in place."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(random.Random(offset).randbytes(MEGABYTE))


def insert_at(path, offset):
    """Inserts a megabyte, and shifts the rest in place, from its end."""
    # No multiple of a block or of a page.
    inserted = random.Random(offset).randbytes(MEGABYTE + 7)
    piece = 16 * MEGABYTE
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > offset:
            start = max(offset, end - piece)
            file.seek(start)
            data = file.read(end - start)
            file.seek(start + len(inserted))
            file.write(data)
            end = start
        file.seek(offset)
        file.write(inserted)


def million(files):
    """`files` small pages, 250 in a directory."""

    def make(tree):
        for number in range(files):
            directory = tree / f"{number // 62_500:03d}" / f"{number // 250 % 250:03d}"
            if number % 250 == 0:
                directory.mkdir(parents=True)
            (directory / f"page-{number}.html").write_text(page(number, 0))

    def change(tree):
        for number in range(0, files, 100):
            directory = tree / f"{number // 62_500:03d}" / f"{number // 250 % 250:03d}"
            (directory / f"page-{number}.html").write_text(page(number, 1))

    kept = [
        Step("initial", make),
        Step("nochange", leave),
        Step("one-percent", change),
        Step("cold-same", leave, is_cold=True),
    ]
    return Workload(f"million ({files:,} files)", [kept], 2 + files * 16e-6, 100_000 + files * 3)


def page(number, edition):
    """A page of 300 to 1,500 bytes; editions differ in one line."""
    source = random.Random(number)
    lines = [" ".join(source.choices(WORDS, k=9)) for _ in range(source.randint(4, 24))]
    lines.insert(2, f"Edition {edition} of page {number}")
    return f"<!doctype html><title>Page {number}</title>\n" + "\n".join(lines) + "\n"
