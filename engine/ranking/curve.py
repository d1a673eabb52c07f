"""What diversity costs in relevance, page by page."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from .auc import Ids
from .config import CurveConfig
from .data.impressions import Impressions
from .data.live import simulate_live
from .data.live_candidates import candidate_lists
from .data.live_world import OBJECTIVES
from .dpp import F64, pages, similarity_factor, standardised
from .fusion import fused, train
from .study import interval
from .study_live import described, funnel, scored


def diversity_curve(
    relevance: F64,
    vectors: F64,
    size: int,
    diversities: Sequence[float],
    window: int | None = None,
    worth: F64 | None = None,
    kind: Ids | None = None,
) -> list[dict[str, Any]]:
    """For each diversity the means over requests of a page's relevance and of its items' likeness.

    Args:
        relevance: [B, N] as of `pages`; standardised here.
        vectors: [B, N, D].
        size: 2 <= size <= N items a page.
        worth: [B, N] what an item on a page is counted for; None counts nothing.
        kind: [B, N] what an item is of, as a category; None counts nothing.
    Returns:
        Rows of `diversity`, `theta`, `relevance` (deviations above the request's mean), `kept`
        (share of the size most relevant items on the page), `similarity` ((1 + cos)/2 over pairs of
        the page) and, if asked, `worth` (sum over the page) and `kinds` (different ones on it); a
        95 % interval over requests, by Student, under `*_ci` of each that is measured.
    Raises:
        ValueError: a size that leaves no pair or no full page.
    """
    if not 2 <= size <= relevance.shape[1]:
        raise ValueError(
            f"diversity_curve: size: expected 2 to {relevance.shape[1]} candidates, got {size}"
        )
    scaled = standardised(relevance)
    top = pages(scaled, vectors, size, 0.0)
    factor = similarity_factor(vectors, ridge=0.0)
    rows = []
    for diversity in diversities:
        chosen = pages(scaled, vectors, size, diversity, window=window)
        page = np.take_along_axis(factor, chosen[:, :, None], 1)
        alike = page @ page.transpose(0, 2, 1)
        measured = {
            "relevance": np.take_along_axis(scaled, chosen, 1).mean(1),
            "kept": (chosen[:, :, None] == top[:, None]).any(2).mean(1),
            "similarity": alike[:, *np.triu_indices(size, 1)].mean(1),
        }
        if worth is not None:
            measured["worth"] = np.take_along_axis(worth, chosen, 1).sum(1)
        if kind is not None:
            on_page = np.sort(np.take_along_axis(kind, chosen, 1), 1)
            measured["kinds"] = 1 + (np.diff(on_page) != 0).sum(1)
        row: dict[str, Any] = {"diversity": diversity, "theta": 1 - diversity}
        for name, values in measured.items():
            row |= {name: float(values.mean()), f"{name}_ci": interval(values)}
        rows.append(row)
    return rows


def live_curve(config: CurveConfig) -> list[dict[str, Any]]:
    """`diversity_curve` of rooms on air on the live platform, through the funnel's own stages.

    Relevance is HarmonRank's logit over the fine ranker's probabilities, likeness that of the
    rooms' titles, worth the expected effective watches of a page, by the truth, kinds categories.
    """
    live = simulate_live(config.live, config.seed)
    made = funnel(described(live, live.impressions))
    network, _ = train(made.seen, config.fusion.model_copy(update={"seed": config.seed}))
    lists, truth = candidate_lists(live, config.requests, config.candidates, config.seed)
    # Past rates count earlier days only: those of the last day's candidates move none of them.
    whole = pl.concat([live.impressions.frame, lists.frame], how="vertical")
    asked = described(live, Impressions(whole.sort("time", maintain_order=True))).frame
    asked = asked.filter(pl.col("request_id").is_in(lists.frame["request_id"].unique().to_list()))
    relevance = fused(network, scored(made.rank, Impressions(asked)))
    shape = (config.requests, config.candidates)
    category = lists.frame["live_content_category"].fill_null("").rank("dense").cast(pl.Int64)
    vectors = live.tables.titles[lists.frame["live_name_id"]].astype(np.float64)
    return diversity_curve(
        relevance.reshape(shape),
        vectors.reshape(*shape, -1),
        config.size,
        config.diversities,
        worth=truth[:, OBJECTIVES.index("watch")].reshape(shape),
        kind=category.to_numpy().reshape(shape),
    )
