"""The look of the reports' charts, and how one becomes a part of a page; needs matplotlib."""

import io
import re
import zlib
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

INK, FAINT = "#1f2937", "#cbd5e1"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "stars",  # the same chart is the same text
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


def drawn(draw: Callable[[Axes], None], height: float, style: dict[Any, Any] = STYLE) -> str:
    """SVG that scales with the page, without a header of its own.

    Args:
        draw: fills the axes.
        height: inches, of a width of 6.4.
        style: matplotlib's settings.
    """
    with mpl.rc_context(style):
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
