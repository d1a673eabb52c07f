"""Approximate search by FAISS, IVF or HNSW, as wide as a promised recall asks for."""

import math
from copy import copy
from typing import Any, Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable

from .index import CheckedIndex, TopK, best_of, by_mask, in_parts, norms
from .mask import pack_mask, unpack_mask

Kind = Literal["ivf", "hnsw"]
N_SAMPLES, SAMPLED_K = 128, 100
_ONE_SIDED = 1.64  # standard errors
SHARES = (0.5, 0.2, 0.05, 0.01)
_LINKS, _BUILD_WIDTH = 32, 200  # HNSW: links of a node, candidates while it is built
_LONGEST = 1e18
_FEW_ITEMS = 1_000  # so few are scored at once, whatever a search looks at
_POINTS_PER_LIST, _ROUNDS = 64, 10  # IVF: rows that a centroid is trained on, rounds of k-means


class ApproximateIndex(CheckedIndex):
    """Looks at a part of the catalogue: `width` lists (IVF) or open nodes (HNSW) of a search.

    The width is the smallest that finds `recall` of the best 100 of sample queries, measured with
    and without random masks of several shares, since a mask thins out what each list holds. A mask
    that passes no more items than a search looks at has them all scored instead, and where fewer
    answers were found than qualify, everything is looked at. Ties go to the lower index among what
    was found.

    Largest inner product as nearest neighbour (Bachrach et al. 2014, "Speeding up the Xbox
    recommender system"): rows [c ; b ; √(M² - ‖c‖² - b²)] all have the length M, so the row nearest
    to [h ; 1 ; 0] has the largest h·c + b. Lists and links are made by that distance; without it a
    list of long rows draws queries that it does not answer.

    Attributes:
        widths: by share of allowed items, from 1 down, lists or nodes of a search for up to 100
            answers; masks in between take a width in between.
        recall: share of the exact best 100 that it found without a mask, mean over the samples.
    """

    def __init__(
        self,
        candidates: NDArray[np.float32],
        bias: NDArray[np.float32],
        threads: int = 1,
        *,
        kind: Kind = "ivf",
        recall: float = 0.98,
        queries: NDArray[np.float32] | None = None,
        device: str = "cpu",
    ) -> None:
        """Builds the index and finds its width; other arguments as CheckedIndex.

        Args:
            kind: "ivf" builds in minutes for a million rows and stays fast under filters; "hnsw"
                takes several times as long and a filter makes it slower.
            recall: what to promise, above 0 and at most 1.
            queries: [n, D] float32 samples as they will come; None takes rows of the catalogue,
                which serves where queries are near items.
            device: "cpu", or "cuda" for IVF by faiss-gpu-cuvs.
        Raises:
            ValueError: see CheckedIndex; an unknown kind or device, a recall outside the above.
            BackendUnavailable: device "cuda" without a GPU build of FAISS, or with HNSW; or a
                graph that does not reach the recall however wide the search.
        """
        super().__init__(candidates, bias, threads)
        if kind not in get_args(Kind):
            raise ValueError(f"ApproximateIndex: kind: expected ivf or hnsw, got {kind!r}")
        if not 0 < recall <= 1:
            raise ValueError(f"ApproximateIndex: recall: expected above 0 to 1, got {recall}")
        if self._largest_norm > _LONGEST:
            raise ValueError(
                "ApproximateIndex: candidates and bias: expected rows shorter than "
                f"{_LONGEST:.0e}, whose squares float32 holds, got {self._largest_norm:.1e}"
            )
        self.kind = kind
        faiss.omp_set_num_threads(threads)
        rows = _Rows(candidates, bias, self._largest_norm)
        self._index = _ivf(rows) if kind == "ivf" else _hnsw(rows)
        self._widest = self._index.nlist if kind == "ivf" else max(1, self.n_items)
        self._candidates, self._bias = np.ascontiguousarray(candidates), bias
        self._all = pack_mask(np.ones(self.n_items, np.bool_))
        if device != "cpu":
            self._index = _on_device(self._index, kind, device)
        if queries is None:
            sampled = np.random.default_rng(0).integers(0, max(1, self.n_items), N_SAMPLES)
            queries = candidates[sampled] if self.n_items else candidates
        self.widths, self.recall = {1.0: 1}, 1.0
        if self.n_items:
            self._tune(queries[:N_SAMPLES], recall)

    @property
    def exact(self) -> "ApproximateIndex":
        """Itself, looking at everything."""
        widest = copy(self)
        widest.widths, widest.recall = {1.0: self._widest}, 1.0
        return widest

    @property
    def nbytes(self) -> int:
        """Bytes of the rows and of what leads to them."""
        rows = self.n_items * (self.dim + 2) * 4
        if self.kind == "hnsw":
            return rows + self.n_items * (2 * _LINKS + 4) * 4
        return rows + self.n_items * 8 + self._widest * (self.dim + 2) * 4

    def _tune(self, queries: NDArray[np.float32], recall: float) -> None:
        """Measures the widths; raises BackendUnavailable where none reaches `recall`."""
        self.widths[1.0], self.recall = self._narrowest(queries, recall, None, 1)
        rng = np.random.default_rng(0)
        for share in SHARES:
            allowed = rng.random(self.n_items) < share
            if np.count_nonzero(allowed) <= self._looked_at:
                break
            words, least = pack_mask(allowed), min(self.widths.values())
            self.widths[share], _ = self._narrowest(queries, recall, words, least)

    def _narrowest(
        self,
        queries: NDArray[np.float32],
        recall: float,
        words: NDArray[np.int32] | None,
        width: int,
    ) -> tuple[int, float]:
        """The smallest width from `width` on, to an eighth, that surely reaches `recall`; its mean.

        Surely: the mean over the samples, less what 95 % of the means of other samples lack.
        """
        k, extended = min(SAMPLED_K, self.n_items), _extended(queries)
        truth = self._everything(extended, k, words).items

        def reached(width: int) -> tuple[bool, float]:
            found = overlaps(self._nearest(extended, k, words, width).items, truth)
            spread = _ONE_SIDED * float(found.std()) / math.sqrt(len(found))
            return float(found.mean()) - spread >= recall, float(found.mean())

        below, (enough, found) = width - 1, reached(width)
        while not enough and width < self._widest:
            below, width = width, min(2 * width, self._widest)
            enough, found = reached(width)
        if not enough:
            raise BackendUnavailable(
                f"ApproximateIndex: {self.kind}: expected a recall of {recall}, "
                f"got {found:.3f} at the widest search"
            )
        while width - below > max(1, width // 8):
            middle = (below + width) // 2
            enough, share = reached(middle)
            if enough:
                width, found = middle, share
            else:
                below = middle
        return width, found

    @property
    def _looked_at(self) -> float:
        """Items that a search without a mask looks at, about, or a number that costs nothing."""
        of_each = self.n_items / self._widest if self.kind == "ivf" else _LINKS
        return max(self.widths[1.0] * of_each, _FEW_ITEMS)

    def _search(self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None) -> TopK:
        answer = TopK.empty(len(queries), k)
        for words, rows in by_mask(mask, len(queries)):
            found = self._of_mask(_extended(queries[rows]), min(k, self.n_items), words)
            found = best_of(found.scores, found.items, k)
            width = found.items.shape[1]
            answer.scores[rows, :width], answer.items[rows, :width] = found
        return answer

    def _of_mask(
        self, queries: NDArray[np.float32], k: int, words: NDArray[np.int32] | None
    ) -> TopK:
        """At least TopK [B, k] of rows that share a mask; all places filled where k qualify."""
        if words is None:
            return self._complete(queries, k, None, self.n_items)
        allowed = unpack_mask(words, self.n_items)
        n_allowed = int(np.count_nonzero(allowed))
        if n_allowed > self._looked_at:
            return self._complete(queries, k, words, n_allowed)
        items = np.flatnonzero(allowed)[None].repeat(len(queries), axis=0)
        return TopK(self._scores(queries, items), items)

    def _complete(
        self,
        queries: NDArray[np.float32],
        k: int,
        words: NDArray[np.int32] | None,
        n_allowed: int,
    ) -> TopK:
        """TopK [B, k], by the whole catalogue for rows with fewer answers than qualify."""
        share = n_allowed / self.n_items
        shares = sorted(self.widths)
        tuned = np.exp(np.interp(np.log(share), *np.log([(s, self.widths[s]) for s in shares]).T))
        thinner = max(1.0, shares[0] / share)  # thinner than all that were measured
        width = math.ceil(tuned * max(1.0, k / SAMPLED_K) * thinner)
        if width >= self._widest:
            return self._everything(queries, k, words)
        found = self._nearest(queries, k, words, width)
        short = np.count_nonzero(found.items >= 0, axis=1) < min(k, n_allowed)
        if short.any():
            found.scores[short], found.items[short] = self._everything(queries[short], k, words)
        return found

    def _everything(
        self, queries: NDArray[np.float32], k: int, words: NDArray[np.int32] | None
    ) -> TopK:
        """Exact: every list, or the rows that the graph links."""
        if self.kind == "ivf":
            return self._nearest(queries, k, words, self._widest)
        parameters = faiss.SearchParameters()
        return self._ask(faiss.downcast_index(self._index.storage), queries, k, words, parameters)

    def _nearest(
        self, queries: NDArray[np.float32], k: int, words: NDArray[np.int32] | None, width: int
    ) -> TopK:
        """FAISS's answer for queries [B, D + 1] that share a mask."""
        if self.kind == "ivf":
            parameters: Any = faiss.SearchParametersIVF()
            parameters.nprobe = width
        else:
            parameters = getattr(faiss, "SearchParametersHNSW")()  # noqa: B009 - not in its stubs
            parameters.efSearch = max(width, k)
        return self._ask(self._index, queries, k, words, parameters)

    def _ask(
        self,
        index: Any,
        queries: NDArray[np.float32],
        k: int,
        words: NDArray[np.int32] | None,
        parameters: Any,
    ) -> TopK:
        octets = np.ascontiguousarray(self._all if words is None else words, "<i4").view(np.uint8)
        selector = faiss.IDSelectorBitmap(octets.size, faiss.swig_ptr(octets))
        if words is not None:
            parameters.sel = selector
        scores, items = index.search(queries, k, params=parameters)
        if self.kind == "hnsw":  # it answers distances
            scores = self._scores(queries, items)
        scores[items < 0] = -np.inf
        return TopK(scores, items)

    def _scores(
        self, queries: NDArray[np.float32], items: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """h·c + b [B, n] of items [B, n] of each row of queries [B, D + 2]."""
        scores = np.empty(items.shape, np.float32)
        items = np.ascontiguousarray(items)
        vectors = np.ascontiguousarray(queries[:, : self.dim])
        getattr(faiss, "fvec_inner_products_by_idx")(  # noqa: B009 - not in its stubs
            faiss.swig_ptr(scores),
            faiss.swig_ptr(vectors),
            faiss.swig_ptr(self._candidates),
            faiss.swig_ptr(items),
            self.dim,
            *items.shape,
        )
        scores += self._bias[items]
        return scores


def overlaps(items: NDArray[np.int64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share [B] of the items [B, k] of `truth` that `items` [B, k] hold; -1 is none."""
    shares = []
    for one, right in zip(items, truth, strict=True):
        wanted = right[right >= 0]
        shares.append(np.isin(wanted, one).mean() if wanted.size else 1.0)
    return np.array(shares)


def overlap(items: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Mean of `overlaps`."""
    return float(overlaps(items, truth).mean())


class _Rows:
    """[c ; b ; √(M² - ‖c‖² - b²)] of any items, made when asked for."""

    def __init__(
        self, candidates: NDArray[np.float32], bias: NDArray[np.float32], longest: float
    ) -> None:
        self._candidates, self._bias, self._longest = candidates, bias, longest
        self.n, self.dim = len(candidates), candidates.shape[1] + 2

    def __getitem__(self, items: slice | NDArray[np.int64]) -> NDArray[np.float32]:
        rows = np.column_stack([self._candidates[items], self._bias[items]])
        missing = np.maximum(self._longest**2 - norms(rows) ** 2, 0)
        return np.column_stack([rows, np.sqrt(missing).astype(np.float32)])


def _extended(queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """[h ; 1 ; 0]."""
    batch, dim = queries.shape
    extended = np.zeros((batch, dim + 2), np.float32)
    extended[:, :dim], extended[:, dim] = queries, 1
    return extended


def _ivf(rows: _Rows) -> Any:
    """Lists by the nearest of about 4 √N centroids."""
    lists = 1 << max(0, round(math.log2(max(1.0, 4 * math.sqrt(rows.n)))))
    lists = min(lists, max(1, rows.n // 32))
    quantizer = faiss.IndexFlatL2(rows.dim)
    index: Any = faiss.IndexIVFFlat(quantizer, rows.dim, lists, faiss.METRIC_INNER_PRODUCT)
    if rows.n:
        training = faiss.Clustering(rows.dim, lists)
        training.niter, training.max_points_per_centroid = _ROUNDS, _POINTS_PER_LIST
        training.min_points_per_centroid, training.seed = 1, 0
        n_sampled = min(rows.n, lists * _POINTS_PER_LIST)
        sample = np.random.default_rng(0).choice(rows.n, n_sampled, replace=False)
        training.train(rows[sample], quantizer)
        index.train(rows[sample[:1]])  # it has its centroids
    return _filled(index, rows)


def _hnsw(rows: _Rows) -> Any:
    index: Any = faiss.IndexHNSWFlat(rows.dim, _LINKS, faiss.METRIC_L2)
    index.hnsw.efConstruction = _BUILD_WIDTH
    return _filled(index, rows)


def _filled(index: Any, rows: _Rows) -> Any:
    for part in in_parts(rows.n):
        index.add(rows[part])
    return index


def _on_device(index: Any, kind: Kind, device: str) -> Any:
    """The IVF index on the GPU, by cuVS, whose search takes a bitmap."""
    if device != "cuda":
        raise ValueError(f"ApproximateIndex: device: expected cpu or cuda, got {device!r}")
    if kind != "ivf":
        raise BackendUnavailable("ApproximateIndex: device 'cuda': expected kind ivf, got hnsw")
    if not hasattr(faiss, "StandardGpuResources"):
        raise BackendUnavailable(
            "ApproximateIndex: device 'cuda': expected a GPU build of FAISS, got "
            f"{faiss.__version__} for the CPU; install faiss-gpu-cuvs in the place of faiss-cpu"
        )
    options = faiss.GpuClonerOptions()
    options.use_cuvs = True
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index, options)
