"""What diversity costs in relevance, page by page."""

from collections.abc import Sequence

import numpy as np

from .dpp import F64, pages, similarity_factor, standardised


def diversity_curve(
    relevance: F64, vectors: F64, size: int, diversities: Sequence[float], window: int | None = None
) -> list[dict[str, float]]:
    """For each diversity the means over requests of a page's relevance and of its items' likeness.

    Args:
        relevance: [B, N] as of `pages`; standardised here.
        vectors: [B, N, D].
        size: 2 <= size <= N items a page.
    Returns:
        Rows of `diversity`, `relevance` (deviations above the request's mean), `kept` (share of the
        size most relevant items on the page) and `similarity` ((1 + cos)/2 over pairs of the page).
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
        pairs = alike[:, *np.triu_indices(size, 1)]
        rows.append(
            {
                "diversity": diversity,
                "relevance": float(np.take_along_axis(scaled, chosen, 1).mean()),
                "kept": float((chosen[:, :, None] == top[:, None]).any(2).mean()),
                "similarity": float(pairs.mean()),
            }
        )
    return rows
