#!/usr/bin/env python3
"""Pushes the same trees with headwater and with rsync, and compares what each push costs.

The tools work in turn, each on a fresh ext4 file system, and every mirror is compared with the tree
byte by byte after each step, outside the timing. README.md explains the workloads, the scenarios
and the columns.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
from dataclasses import asdict

import report
import trees
from disk import Disk
from link import PRESETS, Loopback, Wan, parse_shape
from measure import Figures, measure
from tools import TOOLS, Headwater

DEFAULT_TOOLS = "rsync -a,rsync -az,headwater"


def parse_size(text):
    """A number of bytes: 4GB, 500MB or 1000."""
    units = {"kB": 10**3, "MB": 10**6, "GB": 10**9}
    factor = units.get(text[-2:], 1)
    return int(float(text.removesuffix(text[-2:]) if factor > 1 else text) * factor)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "workload",
        nargs="*",
        help="a directory with v1 and v2 (a name in $BENCH_ROOT/corpora, or a path), "
        "`large` or `million`",
    )
    add(
        "--mode",
        default="daemon",
        choices=["dir", "daemon", "wan", "ssh"],
        help="mirrors are directories, daemons on loopback, daemons behind a wide-area link, or "
        "accounts that sshd serves (default: daemon)",
    )
    add(
        "--link",
        type=parse_shape,
        metavar="PRESET|MS,MBIT[,LOSS]",
        help="the link of `wan`, also for `ssh`: round trip, rate, loss in percent, or "
        + ", ".join(f"{name} ({shape})" for name, shape in PRESETS.items()).replace("%", "%%"),
    )
    add("--scenarios", help="only these, separated by commas (default: all of the workload)")
    add("--tools", default=DEFAULT_TOOLS, help=f"of {', '.join(TOOLS)} (default: {DEFAULT_TOOLS})")
    add("--runs", type=int, default=3, help="runs of each tool (default: 3)")
    add("--mirrors", type=int, default=1, help="mirrors that each push fills (default: 1)")
    add("--size", type=parse_size, default="10GB", help="of the file of `large` (default: 10GB)")
    add("--files", type=int, default=1_000_000, help="of `million` (default: 1,000,000)")
    add("--congestion", default="cubic", help="TCP congestion control on links (default: cubic)")
    add("--image-dir", default="/dev/shm", help="where loop images are made (default: /dev/shm)")
    add("--headwater", default=Headwater.program, help=f"(default: {Headwater.program})")
    add("--save", metavar="FILE", help="append the medians to FILE, one JSON object a line")
    add("--load", metavar="FILE", help="print the medians in FILE instead of measuring")
    add("--markdown", action="store_true", help="print tables in Markdown")
    return parser.parse_args()


def workload_of(name, options):
    if name == "large":
        return trees.large(options.size)
    if name == "million":
        return trees.million(options.files)
    path = pathlib.Path(name)
    if path.name == name:
        path = bench_root() / "corpora" / name
    return trees.corpus(path)


def bench_root():
    root = os.environ.get("BENCH_ROOT")
    if not root:
        sys.exit("set BENCH_ROOT to a directory for corpora and mounts")
    return pathlib.Path(root)


def check_same(tool, tree):
    """Compares every mirror with the tree, byte by byte."""
    for number in tool.numbers:
        served = tool.served(number)
        compared = ["diff", "-rq", tree, f"{served}/"]
        differ = subprocess.run(compared, check=False, stdout=subprocess.PIPE)
        if differ.returncode:
            first = differ.stdout.decode()[:500]
            sys.exit(f"{type(tool).__name__}: mirror {number} differs from the tree\n{first}")


def run_chain(chain, tool, root):
    """Pushes after each step; returns the figures of each."""
    tree, cache = root / "checkout-0", root / "cache-0"
    tree.mkdir()
    found = {}
    tool.start()
    for number, step in enumerate(chain):
        if step.is_cold:
            tree = tree.rename(root / f"checkout-{number}")
            trees.touch(tree)
            cache = root / f"cache-{number}"
        step.change(tree)
        if step.is_setup:
            for command in tool.push_directly(tree):
                env = dict(os.environ, XDG_CACHE_HOME=str(cache))
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)
        else:
            servers = [server.pid for server in tool.servers]
            found[step.name] = measure(tool.push(tree), servers, tool.network, cache)
            print(f"  {step.name}: {found[step.name].wall:.2f} s", file=sys.stderr)
        check_same(tool, tree)
    return found


def compare(workload, options, network, names):
    """The median figures of each scenario and tool: {(scenario, tool): Figures}."""
    mode = "daemon" if options.mode == "wan" else options.mode
    disk = Disk(options.image_dir, bench_root(), workload.gigabytes, workload.inodes)
    rows = {}
    for _ in range(options.runs):
        for name in options.tools.split(","):
            for chain in workload.select(names):
                print(f"{workload.name}, {network.name}, {name}", file=sys.stderr)
                disk.fresh()
                tool = TOOLS[name](mode, network, disk.path, options.mirrors)
                try:
                    found = run_chain(chain, tool, disk.path)
                finally:
                    tool.stop()
                    disk.remove()
                for scenario in [s for s in found if s in names]:
                    rows.setdefault((scenario, name), []).append(found[scenario])
    return {key: median(runs) for key, runs in rows.items()}


def median(runs):
    """The median of each figure."""
    columns = {}
    for column in asdict(runs[0]):
        values = [getattr(run, column) for run in runs]
        columns[column] = None if values[0] is None else statistics.median(values)
    return Figures(**columns)


def main():
    options = arguments()
    if options.load:
        lines = pathlib.Path(options.load).read_text().splitlines()
        print(report.render([json.loads(line) for line in lines], options.markdown))
        return
    if os.geteuid() != 0:
        sys.exit("needs root: it mounts file systems")
    # Ends servers and unmounts, also when it is told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not options.workload:
        sys.exit("name a workload; see --help")
    Headwater.program = str(pathlib.Path(options.headwater).resolve())
    has_link = options.mode == "wan" or (options.mode == "ssh" and options.link)
    link = options.link or PRESETS["wan"]
    rows = []
    for name in options.workload:
        workload = workload_of(name, options)
        names = (options.scenarios or ",".join(workload.scenarios())).split(",")
        if unknown := set(names) - set(workload.scenarios()):
            sys.exit(f"{workload.name} has no {unknown}, only {workload.scenarios()}")
        with Wan(link, options.congestion) if has_link else Loopback() as network:
            medians = compare(workload, options, network, names)
        new = report.rows(workload.name, options, network.name, medians)
        if options.save:
            with open(options.save, "a") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
        rows += new
    print(report.render(rows, options.markdown))


if __name__ == "__main__":
    main()
