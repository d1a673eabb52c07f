"""Charts of the report: stored rows in, SVG text out."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from engine.reporting.drawing import INK, STYLE, drawn

from .case import ENGINE

OURS = "#0f766e"
OTHERS = ("#b45309", "#6d28d9", "#be123c", "#1d4ed8", "#64748b", "#a16207")
SIZE = re.compile(r"_ms_(?:at_)?(\d+)$")
Points = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name -> x, y


def colours(names: Iterable[str]) -> dict[str, str]:
    """The engine's is always the same."""
    others = [name for name in dict.fromkeys(names) if name != ENGINE]
    return {ENGINE: OURS} | {n: OTHERS[i % len(OTHERS)] for i, n in enumerate(others)}


def _drawn(draw: Callable[[Axes], None], height: float) -> str:
    return drawn(draw, height, STYLE | {"lines.linewidth": 2})


def _plain(axis: Axis) -> None:
    """1, 2, 5, 10 on a logarithmic scale."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
    axis.set_minor_locator(NullLocator())


def lines(title: str, points: Points, x: str, y: str, *, log: str = "", marker: str = "o") -> str:
    """A line a name.

    Args:
        log: "x", "y" or "xy".
        marker: of the points; "" for none.
    """

    def draw(axes: Axes) -> None:
        colour = colours(points)
        for name, (at, values) in points.items():
            axes.plot(at, values, marker=marker, markersize=4, color=colour[name], label=name)
        for axis in log:
            getattr(axes, f"set_{axis}scale")("log")
            _plain(getattr(axes, f"{axis}axis"))
        axes.set(title=title, xlabel=x, ylabel=y)
        axes.legend(fontsize=9)

    return _drawn(draw, 2.8)


def distributions(title: str, quantiles: Mapping[str, Sequence[float]]) -> str:
    """Share of calls that took at most so long, of every way."""
    points = {
        name: (ms, [place / (len(ms) - 1) for place in range(len(ms))])
        for name, ms in quantiles.items()
    }
    return lines(title, points, "ms", "share of calls", log="x", marker="")


def bars(title: str, values: Mapping[str, float], x: str, *, mark: float | None = None) -> str:
    """A bar a name, on a logarithmic scale; `mark` draws a line across."""

    def draw(axes: Axes) -> None:
        names, widths = list(values), list(values.values())
        base = mark or min(widths) / 2
        axes.barh(
            names,
            [width - base for width in widths],
            left=base,
            height=0.62,
            color=[OURS if width >= base else OTHERS[2] for width in widths],
        )
        axes.set_xscale("log")
        _plain(axes.xaxis)
        for place, width in enumerate(widths):
            axes.annotate(f" {width:.2g}×", (max(width, base), place), va="center", fontsize=9)
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=1)
        axes.set(title=title, xlabel=x)
        axes.margins(x=0.12)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)

    return _drawn(draw, 0.9 + 0.24 * len(values))


def growth(title: str, ways: Mapping[str, Mapping[str, Any]], x: str) -> str:
    """Times of every way against the size at the end of their names, with the fitted exponent.

    Args:
        ways: statistics by way.
    """
    points = {}
    for way, found in ways.items():
        sizes = {name: SIZE.search(name) for name in found}
        sized = {int(size[1]): found[name] for name, size in sizes.items() if size}
        name = f"{way}, exponent {found['exponent']:.2f}"
        points[ENGINE if way == ENGINE else name] = ([*sized], [*sized.values()])
    if ENGINE in ways:
        title = f"{title} (stars: exponent {ways[ENGINE]['exponent']:.2f})"
    return lines(title, points, x, "ms", log="xy")
