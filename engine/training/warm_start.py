"""Residuals Δ to begin with: a factorisation of what users buy near each other.

A softmax over thousands of items learns which of them go together from a few events each, and
slowly; counting knows it at once. The factors are where training begins, and move like any Δ.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.linalg import eigsh

from .history import Past

REACH = 8  # events apart that still count as near
DECAY = 0.7  # weight of each further event
FLATTEN = 0.3  # counts are divided by both items' popularity to this power
_TOLERANCE = 1e-2  # of eigenvalues: a start need not be exact


def cooccurrence_factors(past: Past, dim: int) -> NDArray[np.float32]:
    """[N, dim] F with F Fᵀ ≈ D^-f C D^-f, scaled to mean square 1; 0 for items without a pair.

    C_ij sums DECAY^(k - 1) over events of i and j by one user that stand k <= REACH apart, D are
    the items' counts of events. The largest factor comes last: the texts' principal components,
    which Δ is added to, begin with theirs.

    Args:
        past: nothing after its cut is read.
        dim: width of Δ. Where the data has fewer factors, the first columns are 0.
    """
    n_items = len(past.dataset.item_ids)
    near = near_pairs(past)
    counts = np.bincount(past.item, minlength=n_items)
    flat = diags_array(np.maximum(counts, 1.0) ** -FLATTEN)
    start = np.full(n_items, n_items**-0.5)
    k = min(dim, n_items - 1)
    values, vectors = eigsh(flat @ near @ flat, k=k, which="LA", v0=start, tol=_TOLERANCE)
    factors = vectors * np.sqrt(np.maximum(values, 0.0))  # ascending, so the largest last
    # The sign of an eigenvector is free; fixing it makes two runs agree.
    largest = factors[np.abs(factors).argmax(axis=0), np.arange(k)]
    factors *= np.where(largest < 0, -1.0, 1.0)
    factors /= max(float(np.sqrt(np.square(factors).mean())), 1e-12)
    wide = np.zeros((n_items, dim), np.float32)
    wide[:, dim - k :] = factors
    return wide


def near_pairs(past: Past, back: float = 1.0) -> csr_array:
    """C [N, N]: C_ij sums DECAY^(k - 1) over events of j that follow one of i by the same user,
    k <= REACH apart, and `back` times that over events of j before it."""
    n_items = len(past.dataset.item_ids)
    user = np.repeat(np.arange(len(past.offsets) - 1), np.diff(past.offsets))
    total = csr_array((n_items, n_items), dtype=np.float64)
    for apart in range(1, REACH + 1):
        same = user[:-apart] == user[apart:]
        one, other = past.item[:-apart][same], past.item[apart:][same]
        weight = np.full(len(one), DECAY ** (apart - 1))
        pairs = coo_array((weight, (one, other)), shape=(n_items, n_items)).tocsr()
        total = total + pairs + back * pairs.T
    return total
