"""Draws what `compare` and `growth` wrote with `--json`: `python -m bench.plots FILE … --to docs/performance`."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import click


def _lines(rows: list[dict[str, Any]], by: str, x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        lines[row[by]].append((row[x], row[y]))
    return lines


def _draw(
    path: Path, title: str, x: str, y: str, lines: dict[str, list[tuple[float, float]]], *, logs: tuple[bool, bool]
) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    if logs[0]:
        axes.set_xscale("log")
    if logs[1]:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    click.echo(path)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--to", "folder", required=True, type=click.Path(file_okay=False, path_type=Path))
def main(files: tuple[Path, ...], folder: Path) -> None:
    """Draw the rate over connections, the latencies' distribution and the memory over connections, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "relay-tornado"
    found: dict[str, Any] = {}
    for file in files:
        found |= json.loads(file.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    if "rate over connections" in found:
        lines = _lines(found["rate over connections"], "server", "connections", "events/s")
        _draw(folder / "rate.svg", "Ingest of 1 KiB", "connections", "events/s", lines, logs=(True, False))
    if "way" in found:
        lines = {row["server"]: [(share, value) for share, value in row["shares"]] for row in found["way"]}
        title = "From the POST to one subscriber, at 200 events/s"
        _draw(folder / "latency.svg", title, "share of the events, %", "ms", lines, logs=(False, True))
    if "memory over connections" in found:
        lines = _lines(found["memory over connections"], "server", "WebSockets", "MiB")
        _draw(folder / "memory.svg", "Memory of quiet WebSockets", "WebSockets", "MiB", lines, logs=(True, False))


if __name__ == "__main__":
    main(prog_name="python -m bench.plots")
