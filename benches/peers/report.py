"""Prints medians, and the ratios of headwater to each other tool."""

import datetime
import os
from dataclasses import asdict

from tools import TOOLS

HEADS = ["workload", "mirror", "scenario", "tool"]
COLUMNS = {
    "wall": "wall s",
    "origin_cpu": "CPU origin s",
    "mirror_cpu": "CPU mirror s",
    "origin_mib": "RSS origin MiB",
    "mirror_mib": "RSS server MiB",
    "bytes": "MB",
}
RATIOS = ["wall", "CPU", "RSS", "bytes"]


def rows(workload, options, network, medians):
    """One row for each scenario and tool, for `render` and for a file."""
    mirror = options.mode if options.mode in ["dir", "daemon"] else f"{options.mode}: {network}"
    if options.mirrors > 1:
        mirror = f"{options.mirrors} × {mirror}"
    about = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": [TOOLS["rsync -a"].version(), TOOLS["headwater"].version()],
        "runs": options.runs,
    }
    return [
        {"workload": workload, "mirror": mirror, "scenario": scenario, "tool": tool}
        | asdict(figures)
        | about
        for (scenario, tool), figures in medians.items()
    ]


def machine():
    """The processor, its cores, the memory and the kernel, without the name of the host."""
    with open("/proc/cpuinfo") as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = os.uname()
    kernel = ".".join(system.release.split("-")[0].split(".")[:2])
    return f"{len(models)} × {models[0]}, {gib:.0f} GiB, {system.sysname} {kernel}"


def render(all_rows, is_markdown):
    """Both tables, and what they were made with."""
    draw = markdown if is_markdown else plain
    figures = [[row[h] for h in HEADS] + [number(row, c) for c in COLUMNS] for row in all_rows]
    parts = [draw([*HEADS, *COLUMNS.values()], figures)]
    if ratios := all_ratios(all_rows):
        heads = [*HEADS[:3], "headwater to", *(f"{ratio} ratio" for ratio in RATIOS)]
        parts.append(draw(heads, ratios))
    parts.append(made_with(all_rows))
    return "\n\n".join(parts)


def made_with(all_rows):
    """Date, machine and versions of the rows."""
    unique = dict.fromkeys(
        f"{row['date']}; {row['machine']}; {'; '.join(row['versions'])}" for row in all_rows
    )
    runs = "/".join(dict.fromkeys(str(row["runs"]) for row in all_rows))
    return "\n".join(f"{line}; medians of {runs} runs." for line in unique)


def number(row, column):
    value = row[column]
    if value is None:
        return "–"
    if column == "bytes":
        return f"{value / 1e6:.3f}"
    return f"{value:.0f}" if column.endswith("mib") else f"{value:.2f}"


def all_ratios(all_rows):
    """A row for each scenario and each tool that is not headwater."""
    by_key = {tuple(row[head] for head in HEADS): row for row in all_rows}
    found = []
    for (*scenario, tool), other in by_key.items():
        own = by_key.get((*scenario, "headwater"))
        if own and tool != "headwater":
            pairs = zip(weights(own), weights(other), strict=True)
            found.append([*scenario, tool, *(ratio(mine, theirs) for mine, theirs in pairs)])
    return found


def weights(row):
    """What RATIOS compares: CPU of both sides, and the larger RSS."""
    cpu = row["origin_cpu"] + (row["mirror_cpu"] or 0)
    return row["wall"], cpu, max(row["origin_mib"], row["mirror_mib"] or 0), row["bytes"]


def ratio(mine, theirs):
    return f"{mine / theirs:.3f}" if mine is not None and theirs else "–"


def markdown(heads, body):
    rule = ["---"] * 4 + ["---:"] * (len(heads) - 4)
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, rule, *body])


def plain(heads, body):
    widths = [max(len(line[n]) for line in [heads, *body]) for n in range(len(heads))]
    lines = []
    for line in [heads, *body]:
        cells = [
            cell.ljust(width) if n < 4 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
