"""What a prepared dataset holds, as figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from .clock import Clock
from .dataset import Dataset

_QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}


def describe(dataset: Dataset) -> dict[str, Any]:
    """Sections of figures, JSON-ready; shares lie in [0, 1], dates are the shop's local ones."""
    return {
        "name": dataset.meta.name,
        "counts": _counts(dataset),
        "dates": _dates(dataset),
        "sizes": _sizes(dataset),
        "popularity": _popularity(dataset),
        "repeats": _repeats(dataset),
        "items": _items(dataset),
        "users": _users(dataset),
        "impressions": _impressions(dataset),
    }


def describe_table(description: dict[str, Any]) -> Table:
    """The figures of `describe`, one row each, for a terminal."""
    table = Table("section", "what", "figure", title=str(description["name"]))
    for section, figures in description.items():
        if section == "name":
            continue
        table.add_section()
        for name, value in figures.items():
            table.add_row(section, name.replace("_", " "), _shown(value))
            section = ""  # said once
    return table


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return " · ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _counts(dataset: Dataset) -> dict[str, Any]:
    return {
        "users": len(dataset.user_ids),
        "items": len(dataset.item_ids),
        "events": len(dataset.event_item),
        "sessions": int(_sessions_by_user(dataset).sum()),
        "subclasses": len(dataset.meta.subclasses),
        "event_types": ", ".join(dataset.meta.event_types),
    }


def _dates(dataset: Dataset) -> dict[str, Any]:
    if not dataset.meta.has_time:
        return {"time": "none: events have an order, every event is its own session"}
    ends = np.array([dataset.event_time.min(), dataset.event_time.max()])
    first, last = (str(day) for day in Clock(dataset.meta.timezone).day(ends).astype("M8[D]"))
    signals = ", ".join(signal.name for signal in dataset.meta.signals) or "none"
    return {"first": first, "last": last, "timezone": dataset.meta.timezone, "signals": signals}


def _sizes(dataset: Dataset) -> dict[str, Any]:
    session = _session_of_event(dataset)
    groups = {
        "events_per_user": np.diff(dataset.event_offsets),
        "sessions_per_user": _sessions_by_user(dataset),
        "events_per_session": np.bincount(session),
    }
    return {
        name: {label: float(np.quantile(sizes, q)) for label, q in _QUANTILES.items()}
        for name, sizes in groups.items()
    }


def _popularity(dataset: Dataset) -> dict[str, Any]:
    """How unevenly events fall on the catalogue's items; Gini is 0 where all are alike."""
    counts = np.sort(np.bincount(dataset.event_item, minlength=len(dataset.item_ids)))[::-1]
    n, total = len(counts), counts.sum()
    rising = counts[::-1]
    gini = (2 * (np.arange(1, n + 1) * rising).sum() / (n * total)) - (n + 1) / n
    return {
        "share_of_top_1_percent": float(counts[: max(1, n // 100)].sum() / total),
        "share_of_top_10_percent": float(counts[: max(1, n // 10)].sum() / total),
        "gini": float(gini),
        "items_without_events": int((counts == 0).sum()),
    }


def _repeats(dataset: Dataset) -> dict[str, Any]:
    """Of the items of a user's sessions after the first: the share that an earlier one held."""
    n_items = len(dataset.item_ids)
    session = _session_of_event(dataset)
    user = _user_of_event(dataset)
    rows = np.unique(session * n_items + dataset.event_item, return_index=True)[1]
    pair = user[rows] * n_items + dataset.event_item[rows]
    ordinal = dataset.event_session[rows].astype(np.int64)
    _, place = np.unique(pair, return_inverse=True)
    first = np.full(place.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, place, ordinal)
    later = ordinal > 0
    share = float((ordinal > first[place])[later].mean()) if later.any() else 0.0
    return {"share_of_next_session_items_bought_before": share}


def _items(dataset: Dataset) -> dict[str, Any]:
    tags = np.diff(dataset.tag_offsets)
    return {
        "distinct_texts": len(dataset.text_rows),
        "text_width": dataset.text_rows.shape[1],
        "text_model": dataset.meta.text_model,
        "tags": len(dataset.meta.tags),
        "tags_per_item": float(tags.mean()),
        "share_of_items_with_tags": float((tags > 0).mean()),
    }


def _users(dataset: Dataset) -> dict[str, Any]:
    known = (dataset.user_categorical > 0).any(axis=1)
    known |= np.isfinite(dataset.user_numeric).any(axis=1)
    features = [*dataset.meta.user_categorical, *(f.name for f in dataset.meta.user_numeric)]
    return {
        "features": ", ".join(features) or "none",
        "share_of_users_with_features": float(known.mean()),
    }


def _impressions(dataset: Dataset) -> dict[str, Any]:
    pages = len(dataset.impression_user)
    if not pages:
        return {"same_page_negatives": "none, no impressions file"}
    return {
        "pages": pages,
        "items_shown": len(dataset.impression_item),
        "share_clicked": float(dataset.impression_clicked.mean()),
    }


def _user_of_event(dataset: Dataset) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(dataset.user_ids)), np.diff(dataset.event_offsets))


def _sessions_by_user(dataset: Dataset) -> NDArray[np.int64]:
    """[U] how many sessions a user has; ordinals rise with time, so the last one tells."""
    filled = np.diff(dataset.event_offsets) > 0
    counts = np.zeros(len(dataset.user_ids), np.int64)
    counts[filled] = dataset.event_session[dataset.event_offsets[1:][filled] - 1] + 1
    return counts


def _session_of_event(dataset: Dataset) -> NDArray[np.int64]:
    """[E] the number of an event's session among those of all users."""
    counts = _sessions_by_user(dataset)
    starts = np.cumsum(counts) - counts
    return np.asarray(starts[_user_of_event(dataset)] + dataset.event_session, np.int64)
