"""Charts of the ranking report: means with intervals in, SVG text out."""

import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

INK, FAINT, GAIN, LOSS, UNCLEAR = "#1f2937", "#cbd5e1", "#0f766e", "#be123c", "#94a3b8"
COLOURS = ("#0f766e", "#b45309", "#6d28d9", "#1d4ed8", "#64748b")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eef2f7",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


class Point(NamedTuple):
    """A mean and its interval, at a place."""

    at: float
    mean: float
    low: float
    high: float


class Bar(NamedTuple):
    """A difference and its interval, by name."""

    name: str
    mean: float
    low: float
    high: float


def differences(title: str, bars: Sequence[Bar], x: str) -> str:
    """A dot and a line each, the first on top; colour says on which side of zero it is clear."""

    def draw(axes: Axes) -> None:
        for place, bar in enumerate(bars):
            colour = GAIN if bar.low > 0 else LOSS if bar.high < 0 else UNCLEAR
            axes.plot([bar.low, bar.high], [place, place], color=colour, linewidth=2)
            axes.plot(bar.mean, place, "o", color=colour, markersize=6)
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.axvline(0, color=INK, linewidth=1)
        axes.set(title=title, xlabel=x)
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=6)
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)

    return _drawn(draw, 1.1 + 0.26 * len(bars))


def curves(
    title: str, lines: Mapping[str, Sequence[Point]], x: str, y: str, *, log: bool = False
) -> str:
    """A line a name, its intervals as a band."""

    def draw(axes: Axes) -> None:
        for k, (name, points) in enumerate(lines.items()):
            at = [p.at for p in points]
            colour = COLOURS[k % len(COLOURS)]
            axes.fill_between(
                at, [p.low for p in points], [p.high for p in points],
                color=colour, alpha=0.15, linewidth=0,
            )  # fmt: skip
            axes.plot(at, [p.mean for p in points], "o-", color=colour, markersize=4, label=name)
        if log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=14))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set(title=title, xlabel=x, ylabel=y)
        if len(lines) > 1:
            axes.legend(fontsize=9)

    return _drawn(draw, 3.0)


def _drawn(draw: Callable[[Axes], None], height: float) -> str:
    """SVG that scales with the page, without a header of its own."""
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, height), layout="constrained")
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text.getvalue(), count=1)
    # One page holds many charts: ids of one must not be those of another.
    mark = f"c{zlib.crc32(svg.encode()):x}"
    svg = re.sub(r'id="([^"]+)"', rf'id="{mark}\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{mark}\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{mark}\1"', svg)
    return svg[svg.index("<svg") :]
