"""The stages after retrieval: candidates are ranked, their objectives fused, a page is chosen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Bundle
from engine.catalogue.catalogue import Catalogue
from engine.compiled import compiled
from engine.errors import BundleError
from engine.features import Calendar
from engine.ranking.dpp import pages, standardised
from engine.ranking.shop.inputs import FEATURES, PROFILE, Inputs, ItemSide
from engine.ranking.shop.sidecar import FUSE_FILE, RANK_FILE, SIDECAR_FILE, read_sidecar
from engine.retrieval.merge import RankedList
from engine.runtime.onnx_cpu import open_session

from .query import Query

TIMED = ("retrieve", "rank", "fuse", "page")
Floats = NDArray[np.float32]


class Ranked(NamedTuple):
    """One list of answers, best first or in the order of the page, and what it was made of.

    items, scores and source as of `RankedList`; objectives [k, M] probabilities, NaN at places
    without an item.
    """

    answer: RankedList
    objectives: Floats


class Funnel:
    """Ranks what was retrieved with the graphs that lie in a bundle.

    Args:
        folder: of the ranker, `ranking` of a bundle.
        calendar: of the shop.
        threads: of one call.
    Raises:
        BundleError: there are other graphs or features than this version of the engine has.

    Attributes:
        objectives: names, in the order of the probabilities.
        candidates: how many are retrieved to be ranked, at least.
        seconds, requests: by stage, since the start.
    """

    def __init__(self, folder: Path, calendar: Calendar, threads: int = 1) -> None:
        self._calendar = calendar
        sidecar = read_sidecar(folder)
        if (sidecar.features, sidecar.profile) != (FEATURES, PROFILE):
            raise BundleError(
                f"{folder / SIDECAR_FILE}: features: expected those of this version, got others; "
                "train the ranker again"
            )
        self.objectives, self.candidates = sidecar.objectives, sidecar.candidates
        self._rank = open_session(folder / RANK_FILE, threads, ("probability",))
        self._fuse = open_session(folder / FUSE_FILE, threads, ("fused",))
        self.reset()

    @classmethod
    def of(cls, bundle: Bundle, calendar: Calendar, threads: int = 1) -> "Funnel | None":
        """The bundle's; None where it has no ranker."""
        folder = bundle.ranker
        return None if folder is None else cls(folder, calendar, threads)

    def reset(self) -> None:
        """Counts from here on."""
        self.seconds = dict.fromkeys(TIMED, 0.0)
        self.requests = dict.fromkeys(TIMED, 0)

    def set_items(self, catalogue: Catalogue, bias: Floats) -> None:
        """Later calls are of these items and their prior in the scores, [N]."""
        self._items = ItemSide(catalogue, bias, self._calendar)
        # What an item is, without what the search added for its popularity.
        self._rows = catalogue.rows

    def __call__(self, queries: Sequence[Query], found: Sequence[RankedList]) -> list[Ranked]:
        """The k best of each list by the fused score, or a page of k.

        Args:
            queries: that ask for `rank` or `page`.
            found: the candidates of each, as they were retrieved.
        """
        if not queries:
            return []
        places = [one.items[one.items >= 0] for one in found]
        sizes = [len(own) for own in places]
        with self.timed("rank", len(queries)):
            inputs = self._items.inputs(queries, places)
            probability = self.ranked(inputs)
        with self.timed("fuse", len(queries)):
            logits = self.fused(inputs, probability, sizes)
        with self.timed("page", sum(query.request.stage == "page" for query in queries)):
            chosen = self._chosen(queries, places, logits)
        return [
            _picked(one, query.request.k, logits[row], probability[row], chosen[row])
            for row, (query, one) in enumerate(zip(queries, found, strict=True))
        ]

    def ranked(self, inputs: Inputs) -> Floats:
        """Probability of each objective, [B, N, M]."""
        if not inputs.features.shape[1]:
            return np.empty((*inputs.features.shape[:2], len(self.objectives)), np.float32)
        (probability,) = self._rank.run(None, inputs._asdict())
        found: Floats = probability
        return found

    def fused(self, inputs: Inputs, probability: Floats, sizes: Sequence[int]) -> Floats:
        """One logit a candidate, [B, N]; what lies past a request's own is -inf.

        Args:
            inputs: of the requests.
            probability: [B, N, M].
            sizes: candidates of each request.
        """
        logits = np.full(probability.shape[:2], -np.inf, np.float32)
        inside = np.arange(logits.shape[1]) < np.array(sizes)[:, None]
        if inside.any():
            (logits[inside],) = self._fuse.run(
                None,
                {
                    "probability": probability[inside],
                    "rank": places_in(probability, sizes)[inside],
                    "user": np.repeat(fusion_user(inputs.vectors, inputs.profile), sizes, 0),
                },
            )
        return logits

    def _chosen(
        self,
        queries: Sequence[Query],
        places: Sequence[NDArray[np.int64]],
        logits: Floats,
    ) -> list[NDArray[np.int64]]:
        """Which of its candidates, at `places` of the catalogue, each answer has, in order."""
        chosen = [
            np.argsort(-logits[row, : len(own)], kind="stable")[: query.request.k]
            for row, (query, own) in enumerate(zip(queries, places, strict=True))
        ]
        paged = [
            row
            for row, query in enumerate(queries)
            if query.request.stage == "page" and len(places[row])
        ]
        if paged:
            size = max(queries[row].request.k for row in paged)
            inside = np.isfinite(logits[paged])
            vectors = np.zeros((*inside.shape, self._rows.shape[1]))
            vectors[inside] = self._rows[np.concatenate([places[row] for row in paged])]
            found = pages(
                standardised(np.where(inside, logits[paged], 0).astype(np.float64), inside),
                vectors,
                size,
                np.array([queries[row].request.diversity for row in paged]),
                mask=inside,
            )
            for row, page in zip(paged, found, strict=True):
                # A greedy page of k begins a longer one.
                page = page[: queries[row].request.k]
                chosen[row] = page[page >= 0]
        return chosen

    @contextmanager
    def timed(self, stage: str, requests: int) -> Iterator[None]:
        """Counts the time of a stage of so many requests."""
        start = perf_counter()
        yield
        if requests:
            self.seconds[stage] += perf_counter() - start
            self.requests[stage] += requests


def places_in(probability: Floats, sizes: Sequence[int]) -> Floats:
    """Ascending rank of each candidate in its request by each objective, over their number, in
    (0, 1], ties at their mean: [B, N, M] of probabilities [B, N, M].

    As `engine.ranking.auc.request_ranks`, compiled: every ranked request waits for it.
    """
    found = np.zeros(probability.shape, np.float32)
    _place(found, probability, np.array(sizes, np.int64))
    return found


@compiled
def _place(found: Floats, probability: Floats, sizes: NDArray[np.int64]) -> None:
    for row in range(len(sizes)):
        n = sizes[row]
        for objective in range(probability.shape[2]):
            values = probability[row, :n, objective]
            order = np.argsort(values)
            start = 0
            while start < n:
                end = start + 1
                while end < n and values[order[end]] == values[order[start]]:
                    end += 1
                for place in range(start, end):
                    found[row, order[place], objective] = np.float32((start + end + 1) / (2 * n))
                start = end


def fusion_user(vectors: Floats, profile: Floats) -> Floats:
    """[B, D + P] what the fusion knows of each request's user: h_gen and the profile."""
    return np.concatenate([vectors[:, 1], profile], axis=1)


def _picked(
    found: RankedList, k: int, logits: Floats, probability: Floats, chosen: NDArray[np.int64]
) -> Ranked:
    """The candidates at `chosen`, padded to the k that was asked for."""
    n = len(chosen)
    answer = RankedList.empty(k)
    answer.items[:n], answer.source[:n] = found.items[chosen], found.source[chosen]
    answer.scores[:n] = logits[chosen]
    objectives = np.full((k, probability.shape[1]), np.nan, np.float32)
    objectives[:n] = probability[chosen]
    return Ranked(answer, objectives)
