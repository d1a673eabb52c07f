"""The effective watch as a label: a stay of some seconds, which is what a live platform wants."""

import polars as pl

from .impressions import LABEL, OUTCOME, Impressions

_WATCHED, _CLICK, _WATCH = OUTCOME + "watch_ms", LABEL + "click", LABEL + "watch"


def with_watch(log: Impressions, watch_s: int = 60) -> Impressions:
    """With `label_watch` after `label_click`: clicked, and watched for at least `watch_s` seconds.

    Raises:
        ValueError: a log without a click or without the time watched.
    """
    if not {_WATCHED, _CLICK} <= set(log.frame.columns):
        raise ValueError(
            f"with_watch: log: expected columns {_CLICK} and {_WATCHED},"
            f" got {', '.join(log.frame.columns)}"
        )
    watched = pl.col(_CLICK) & (pl.col(_WATCHED) >= 1000 * watch_s).fill_null(False)
    frame = log.frame.with_columns(watched.alias(_WATCH))
    order = [name for name in log.frame.columns if name != _WATCH]
    order.insert(order.index(_CLICK) + 1, _WATCH)
    return Impressions(frame.select(order))
