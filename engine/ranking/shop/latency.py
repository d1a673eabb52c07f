"""What ranking, fusing and paging cost one request, in process."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.compile.timing import Milliseconds
from engine.errors import BundleError
from engine.serving.funnel import TIMED
from engine.serving.options import Options
from engine.serving.recommender import Recommender
from engine.serving.request import Request

_WARM_UP = 20


def latency(
    bundle: Path,
    users: Sequence[str],
    *,
    candidates: int = 200,
    k: int = 20,
    requests: int = 500,
    threads: int = 2,
) -> dict[str, Any]:
    """Milliseconds of a request of stored users for a page of `k`, one at a time.

    Args:
        bundle: with a ranker.
        users: who ask, in turn; all are stored in the bundle.
        candidates: that are ranked.
        k: items of the page.
        requests: measured.
        threads: of the graphs.
    Returns:
        `rank<candidates>` (features and probabilities), `fuse`, `page<k>` and `total` of the three,
        each `p50`, `p95`, `p99` and `n`; `objectives` and `threads`.
    Raises:
        BundleError: no ranker, or users with fewer candidates.
    """
    recommender = Recommender.load(bundle, Options(threads))
    funnel = recommender.funnel
    if funnel is None:
        raise BundleError(f"{bundle}: expected a bundle with a ranker, got one without")
    asked = [_page(users[n % len(users)], k) for n in range(_WARM_UP + requests)]
    times = []
    for one in asked:
        ((query, found),) = recommender.candidates([one], candidates)
        if (found.items < 0).any():
            raise BundleError(f"{bundle}: expected {candidates} candidates for every user")
        before = dict(funnel.seconds)
        funnel([query], [found])
        times.append([funnel.seconds[stage] - before[stage] for stage in TIMED[1:]])
    measured = 1000 * np.array(times[_WARM_UP:])
    columns = (f"rank{candidates}", "fuse", f"page{k}")
    by = dict(zip(columns, measured.T, strict=True)) | {"total": measured.sum(1)}
    return {
        **{name: Milliseconds.of(values)._asdict() for name, values in by.items()},
        "objectives": len(funnel.objectives),
        "threads": threads,
    }


def _page(user: str, k: int) -> Request:
    nothing = np.zeros(0, np.int64)
    return Request(
        user, nothing, None, None, None, k, "round_robin", "allow", None, None, False, stage="page"
    )
