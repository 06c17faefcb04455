#!/usr/bin/python3
"""Pictures of what bench.py measured.

    plot.py RESULTS.json DIRECTORY [FORMAT]

Writes bulk, cpu, ping-pong, connections and idle to the directory, as SVG or what FORMAT says (png, pdf). What has no
figures is left out, a bar or a picture. Needs the Debian package python3-matplotlib.
"""

import json
import pathlib
import statistics
import sys
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 (the backend comes first)
from matplotlib.patches import Patch  # noqa: E402

# Orange against blues and greys: told apart by all eyes, and by their lightness alone. Direct ones are outlines.
STYLES = {
    "direct TCP": {"facecolor": "white", "hatch": "////"},
    "direct UNIX": {"facecolor": "white"},
    "kaiso": {"facecolor": "#e66100"},
    "haproxy": {"facecolor": "#2c5a8c"},
    "haproxy-splice": {"facecolor": "#74a9d8"},
    "nginx": {"facecolor": "#c3dcf0"},
    "systemd-socket-proxyd": {"facecolor": "#7d7d7d"},
    "socat": {"facecolor": "#cccccc"},
}
INK, GRID = "#333333", "#dddddd"
WIDTH, PANEL_HEIGHT, TOP, BOTTOM, LEFT = 10, 2.3, 0.55, 1.4, 0.75  # inches; at the bottom: legend and caption
plt.rcParams.update({
    "svg.fonttype": "none", "svg.hashsalt": "kaiso", "font.size": 9, "font.family": "sans-serif",
    "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid.axis": "y", "axes.grid": True,
    "grid.color": GRID, "axes.axisbelow": True, "axes.titlesize": 10, "hatch.color": "#777777", "hatch.linewidth": 0.6,
})


class Results:
    """The figures of one placement: the router on its own processor, where there is more than one."""

    def __init__(self, document: dict):
        self.document = document
        placements = {cell["placement"] for cell in document["cells"]}
        self.placement = "router alone" if "router alone" in placements else "one core"
        self.cells = {(cell["work"], cell["size"], cell["contender"]): cell["values"]
                      for cell in document["cells"] if cell["placement"] == self.placement}

    def values(self, work: str, size: str, contender: str, metric: str) -> list[float]:
        return self.cells.get((work, size, contender), {}).get(metric, [])

    def sizes(self, *works: str) -> list[str]:
        """In the order of their numbers."""
        return sorted({size for work, size, _ in self.cells if work in works}, key=lambda size: int(size.split()[0]))

    def works(self, *names: str) -> list[str]:
        return [name for name in names if any(name == work for work, _, _ in self.cells)]

    def caption(self, note: str, is_pinned: bool = True) -> str:
        facts, rounds = self.document["machine"], self.document["rounds"]
        place = f" ({self.placement})" if is_pinned else ""
        return (f"{note} {rounds} interleaved rounds\n"
                f"{facts['kernel']}, {facts['model']}, {facts['processors']} processors{place}, {facts['date']}\n"
                + ", ".join(f"{name} {version}" for name, version in self.document["versions"].items()))


def bars(axis, results: Results, work: str, sizes: Sequence[str], contenders: Sequence[str], metric: str,
         whiskers: str = "") -> None:
    """A group a size, a bar a contender: the median, with smallest and largest, or up to the median of `whiskers`."""
    width = 0.84 / len(contenders)
    for group, size in enumerate(sizes):
        for place, contender in enumerate(contenders):
            values = results.values(work, size, contender, metric)
            if not values:
                continue
            x = group + (place - (len(contenders) - 1) / 2) * width
            middle = statistics.median(values)
            low, high = min(values), max(values)
            if whiskers:
                low, high = middle, statistics.median(results.values(work, size, contender, whiskers) or [middle])
            axis.bar(x, middle, width * 0.9, edgecolor=INK, linewidth=0.5, **STYLES[contender])
            axis.vlines(x, low, high, color="black", linewidth=0.8)
    names = [size.removesuffix("s") if size.startswith("1 ") else size for size in sizes]
    axis.set(xticks=range(len(sizes)), xticklabels=names, xlim=(-0.5, len(sizes) - 0.5))
    axis.tick_params(axis="x", length=0)


def figure(rows: int, columns: int, title: str, share: str | bool = False):
    """A figure with room at the bottom, and its panels as a list of rows."""
    height = TOP + BOTTOM + rows * PANEL_HEIGHT + (rows - 1) * 0.6
    sheet, panels = plt.subplots(rows, columns, figsize=(WIDTH, height), sharey=share, squeeze=False)
    sheet.subplots_adjust(left=LEFT / WIDTH, right=0.99, top=1 - TOP / height, bottom=BOTTOM / height,
                          wspace=0.1 if share else 0.25, hspace=0.6 / PANEL_HEIGHT)
    sheet.suptitle(title, x=LEFT / WIDTH, y=1 - 0.08 / height, ha="left", va="top", fontsize=11, fontweight="bold")
    return sheet, panels


def save(sheet, path: pathlib.Path, caption: str, contenders: Sequence[str]) -> None:
    height = sheet.get_figheight()
    if keys := [Patch(edgecolor=INK, linewidth=0.5, label=name, **STYLES[name]) for name in contenders]:
        sheet.legend(handles=keys, loc="center", bbox_to_anchor=(0.5, 0.88 / height), ncol=len(keys), frameon=False,
                     handlelength=1.2, columnspacing=1.4)
    sheet.text(LEFT / WIDTH, 0.1 / height, caption, fontsize=7.5, va="bottom", color="#666666", linespacing=1.5)
    sheet.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, facecolor="white", dpi=110)
    plt.close(sheet)


def plot_bulk(results: Results, path: pathlib.Path, metric: str, label: str, title: str, contenders: Sequence[str]):
    if works := results.works("upload", "download", "both ways"):
        sheet, panels = figure(1, len(works), title, share=True)
        for axis, work in zip(panels[0], works):
            bars(axis, results, work, results.sizes(work), contenders, metric)
            axis.set_title(work)
        panels[0][0].set_ylabel(label)
        save(sheet, path, results.caption("Medians, smallest to largest, of"), contenders)


def plot_ping_pong(results: Results, path: pathlib.Path, contenders: Sequence[str]) -> None:
    """Panels of their own for each number of clients, whose figures are far apart."""
    works = results.works("ping-pong 1 B", "ping-pong 1 KiB", "ping-pong 16 KiB")
    sizes = results.sizes(*works)
    if not works:
        return
    sheet, panels = figure(len(sizes), len(works), "Time of a ping-pong (less is better)")
    for row, size in zip(panels, sizes):
        for axis, work in zip(row, works):
            highest = [max(results.values(work, size, contender, "p50 us"), default=0) for contender in contenders]
            if not any(highest):
                axis.set_axis_off()
                continue
            bars(axis, results, work, [size], contenders, "p50 us", whiskers="p99 us")
            axis.set_ylim(top=min(axis.get_ylim()[1], 3 * max(highest)))
            axis.set_title(f"{work.removeprefix('ping-pong ')} there and back")
        row[0].set_ylabel("microseconds")
    save(sheet, path, results.caption("Bars: p50, thin lines: up to p99, or the top where that is farther; medians of"),
         contenders)


def plot_connections(results: Results, path: pathlib.Path, contenders: Sequence[str]) -> None:
    sizes = results.sizes("connections")
    if not sizes:
        return
    sheet, (panels,) = figure(1, 2, "Short connections: connect, one byte there and back, close")
    bars(panels[0], results, "connections", sizes, contenders, "per second")
    panels[0].set(ylabel="connections a second", title="as many as go (more is better)")
    bars(panels[1], results, "connections", sizes, [name for name in contenders if not name.startswith("direct")],
         "router CPU us")
    panels[1].set(ylabel="microseconds a connection", title="CPU time of the router (less is better)")
    save(sheet, path, results.caption("Medians, smallest to largest, of"), contenders)


def plot_idle(results: Results, path: pathlib.Path, contenders: Sequence[str]) -> None:
    """Measured in any placement, with any number of connections; the scale is logarithmic, so a number says more."""
    cells = {cell["contender"]: cell["values"] for cell in results.document["cells"] if cell["work"] == "idle"}
    names = [name for name in contenders if cells.get(name, {}).get("bytes")]
    if not names:
        return
    sheet, ((axis,),) = figure(1, 1, "An idle connection: anonymous memory of the router (less is better)")
    sheet.subplots_adjust(left=0.18, right=0.84)
    for place, name in enumerate(names):
        size = statistics.median(cells[name]["bytes"])
        axis.barh(place, max(size, 10), 0.7, left=0, edgecolor=INK, linewidth=0.5, **STYLES[name])
        text = f" {size:,.0f} B"
        if descriptors := cells[name].get("descriptors"):
            text += f", {round(statistics.median(descriptors), 1):g} descriptors"
        axis.text(max(size, 10), place, text, va="center", ha="left")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set(xlim=(10, None), yticks=range(len(names)), yticklabels=names,
             xlabel="bytes a connection (logarithmic)")
    axis.invert_yaxis()
    axis.tick_params(axis="y", length=0)
    axis.grid(False, axis="y")
    save(sheet, path, results.caption("Medians of", is_pinned=False), [])


def main(words: Sequence[str]) -> int:
    if len(words) not in (2, 3):
        sys.exit(__doc__)
    results = Results(json.loads(pathlib.Path(words[0]).read_text()))
    directory, suffix = pathlib.Path(words[1]), words[2] if len(words) == 3 else "svg"
    directory.mkdir(parents=True, exist_ok=True)
    known = {cell["contender"] for cell in results.document["cells"]}
    contenders = [name for name in STYLES if name in known]
    routers = [name for name in contenders if not name.startswith("direct")]
    plot_bulk(results, directory / f"bulk.{suffix}", "GB/s", "GB a second", "Bulk (more is better)", contenders)
    plot_bulk(results, directory / f"cpu.{suffix}", "router CPU s/GB", "seconds a GB",
              "CPU time of the router for bulk (less is better)", routers)
    plot_ping_pong(results, directory / f"ping-pong.{suffix}", contenders)
    plot_connections(results, directory / f"connections.{suffix}", contenders)
    plot_idle(results, directory / f"idle.{suffix}", routers)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
