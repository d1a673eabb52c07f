"""Charts of the reports: means with intervals in, SVG text out."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .drawing import INK, drawn

GAIN, LOSS, UNCLEAR = "#0f766e", "#be123c", "#94a3b8"
COLOURS = ("#0f766e", "#b45309", "#6d28d9", "#1d4ed8", "#64748b")


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


def differences(title: str, bars: Sequence[Bar], x: str, *, zero: bool = True) -> str:
    """A dot and a line each, the first on top; colour says on which side of zero it is clear.

    Without `zero` they are means, not differences.
    """

    def draw(axes: Axes) -> None:
        for place, bar in enumerate(bars):
            colour = GAIN if bar.low > 0 else LOSS if bar.high < 0 else UNCLEAR
            colour = colour if zero else GAIN
            axes.plot([bar.low, bar.high], [place, place], color=colour, linewidth=2)
            axes.plot(bar.mean, place, "o", color=colour, markersize=6)
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        if zero:
            axes.axvline(0, color=INK, linewidth=1)
        axes.set(title=title, xlabel=x)
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=6)
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)

    return drawn(draw, 1.1 + 0.26 * len(bars))


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
        elif all(float(p.at).is_integer() for points in lines.values() for p in points):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(title=title, xlabel=x, ylabel=y)
        if len(lines) > 1:
            axes.legend(fontsize=9)

    return drawn(draw, 3.0)
