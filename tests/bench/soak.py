"""Endurance: many connections through one process, half of them from call sites that are new after
every 100,000, because their plugin was unloaded and another is loaded. Draws Pss over the connections.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

from measure import PLUGIN, QUICK, SOCKLEAK, WORKLOAD, environment, own_network, row, section

PART = 10000 if QUICK else 100000
PARTS = 4 if QUICK else 20
WARM_UP_PARTS = 2
FLAT_KB = 2048


def draw(path, points):
    """points: (connections, Pss in KB)."""
    width, height, left, bottom = 640, 240, 60, 40
    top_kb = max(kb for _, kb in points) * 1.25
    last = points[-1][0]

    def place(count, kb):
        return (left + (width - left - 20) * count / last,
                height - bottom - (height - bottom - 20) * kb / top_kb)
    line = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points)
    ticks = "".join(
        f'<text x="{left - 8}" y="{place(0, kb)[1] + 4:.1f}" text-anchor="end">{kb / 1024:.1f}</text>'
        f'<line x1="{left}" x2="{width - 20}" y1="{place(0, kb)[1]:.1f}" y2="{place(0, kb)[1]:.1f}" '
        'stroke="#ddd"/>' for kb in (0, top_kb / 4, top_kb / 2, top_kb * 3 / 4, top_kb))
    with open(path, "w", encoding="ascii") as out:
        out.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            'font-family="sans-serif" font-size="11">'
            f'<rect width="{width}" height="{height}" fill="white"/>{ticks}'
            f'<polyline points="{line}" fill="none" stroke="#1f6feb" stroke-width="2"/>'
            f'<text x="{left}" y="{height - 10}">0</text>'
            f'<text x="{width - 20}" y="{height - 10}" text-anchor="end">{last:,} connections</text>'
            f'<text x="{left}" y="14">Pss of the preloaded process, MB</text></svg>\n')


def measure(svg):
    section("Soak")
    with tempfile.TemporaryDirectory() as place:
        plugins = [shutil.copy(PLUGIN, os.path.join(place, f"plugin{i}.so")) for i in range(PARTS)]
        report = os.path.join(place, "report.json")
        command = [SOCKLEAK, "run", "--quiet", f"--format=json:{report}", "--", WORKLOAD, "soak",
                   str(PART * PARTS), *plugins]
        done = subprocess.run(own_network(command), env=environment(False), capture_output=True, text=True,
                              check=False)
        if done.returncode != 0:
            sys.exit(f"bench: soak: {done.stderr.strip()[-500:]}")
        points = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
        with open(report, encoding="utf-8") as file:
            process = json.load(file)["processes"][0]
    warm = points[WARM_UP_PARTS - 1][1]
    rise = max(kb for _, kb in points[WARM_UP_PARTS - 1:]) - warm
    row(f"Pss over {points[-1][0]:,} connections, KB", warm, warm + rise, rise, FLAT_KB, "KB",
        f"{PARTS} plugins loaded and unloaded")
    counters = process["counters"]
    born, closed = counters["born"], counters["closed"]
    expected = 2 * PART * PARTS + 1  # and the listener, which is open at the end
    row("sockets born and not closed, the listener aside", expected - 1, born - 1, born - closed - 1, 0,
        "sockets", f"{born:,} born, {closed:,} closed")
    if born != expected or any(counters.get(name, 0) for name in ("untracked", "stacks_lost", "closed_unseen")):
        sys.exit(f"bench: soak: counts are lost: {counters}")
    draw(svg, points)
