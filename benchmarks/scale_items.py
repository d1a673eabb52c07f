"""The search beside what a user would pick instead: one request, filters, a million texts, curves.

    python -m benchmarks.scale_items [CASE ...] [--threads 1] [--items 1000000] [--json FILE]

Cases: request, predicates, texts, filters, curve; all of them without a name. Contenders answer the
same queries; each is checked against the exact answer before it is timed, and all are timed in one
run, in an order drawn anew each round. Rows replace those of the same case, size and threads.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
import polars as pl
import typer
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from engine.compile.timing import interleaved
from engine.retrieval.approximate import ApproximateIndex, overlap
from engine.retrieval.columns import Columns
from engine.retrieval.exact import ExactIndex
from engine.retrieval.filters import FilterCache
from engine.retrieval.index import CheckedIndex
from engine.retrieval.mask import pack_mask
from engine.retrieval.quantised import QuantisedIndex

from .opponents import (
    Contender,
    Floats,
    faiss_flat,
    hnswlib_graph,
    numpy_product,
    packed,
    usearch_graph,
)
from .stored import Row, replace_rows, surroundings
from .vectors import gaussian_vectors, queries_like, text_vectors

RESULTS = Path(__file__).resolve().parent / "results" / "retrieval.json"
KEY = ("case", "n_items", "threads")
LIBRARIES = ("faiss-cpu", "onnxruntime", "chroma-hnswlib", "usearch", "numpy", "polars")
EXACT, ASKED, HELD = 0.9999, 0.99, 0.98  # 0.9999: scores that differ by rounding may swap
SAMPLES = 128
ROUNDS, NUMPY_BYTES = 120, 2**32
Answers = Callable[[int], NDArray[np.int64]]


def measured(
    ways: Mapping[str, Answers],
    truth: list[NDArray[np.int64]],
    promised: Mapping[str, float],
    rounds: int,
) -> dict[str, Row]:
    """Recall and times of each way to answer query set 0, 1, …; raises for a broken promise."""
    recalls = {}
    for name, answers in ways.items():
        recall = float(np.mean([overlap(answers(i), right) for i, right in enumerate(truth)]))
        least = promised.get(name, EXACT)
        if recall < least:
            raise ValueError(f"{name}: expected a recall of {least}, got {recall:.4f}: not timed")
        recalls[name] = {"recall": round(recall, 5)}
    return {name: recalls[name] | row for name, row in timed(ways, len(truth), rounds).items()}


def timed(ways: Mapping[str, Answers], sets: int, rounds: int) -> dict[str, Row]:
    """Times of each way over the query sets in turn, all ways in each round."""

    def in_turn(way: Answers) -> Callable[[], object]:
        turns = cycle(range(sets))
        return lambda: way(next(turns))

    times = interleaved({name: in_turn(way) for name, way in ways.items()}, rounds, warmup=0)
    return {
        name: {"p50_ms": round(ms.p50, 4), "p99_ms": round(ms.p99, 4), "rounds": rounds}
        for name, ms in times.items()
    }


def against(found: Mapping[str, Row], opponents: tuple[str, ...], **parameters: Any) -> list[Row]:
    """Rows with the ratio of each p50 to the best of `opponents`."""
    best = min(opponents, key=lambda name: found[name]["p50_ms"])
    return [
        {
            **parameters,
            "backend": name,
            **row,
            "ratio": round(row["p50_ms"] / found[best]["p50_ms"], 4),
            "opponent": best,
        }
        for name, row in found.items()
    ]


def asking(
    index: CheckedIndex | Contender,
    queries: list[Floats],
    k: int,
    mask: NDArray[np.int32] | None = None,
) -> Answers:
    if isinstance(index, CheckedIndex):
        return lambda i: index.search(queries[i], k, mask).items
    return lambda i: index.ask(queries[i], k, mask)


def request(threads: int, n_items: int = 68_399) -> list[Row]:
    """The two vectors of one request, 400 items masked, the best ten, scores without structure."""
    dim, k = 64, 10
    rows, rng = gaussian_vectors(n_items, dim), np.random.default_rng(1)
    bias = rng.standard_normal(n_items, np.float32)
    queries = [rng.standard_normal((2, dim), np.float32) for _ in range(50)]
    allowed = np.ones((1, n_items), np.bool_)
    allowed[0, rng.choice(n_items, 400, replace=False)] = False
    mask = pack_mask(allowed.repeat(2, axis=0))
    indexes: dict[str, CheckedIndex | Contender] = {
        "exact": ExactIndex(rows, bias, threads),
        "quantised": QuantisedIndex(rows, bias, threads),
        "faiss_flat": faiss_flat(rows, bias),
        "numpy": numpy_product(rows, bias),
    }
    ways = {name: asking(index, queries, k, mask) for name, index in indexes.items()}
    truth = [ways["faiss_flat"](i) for i in range(len(queries))]
    found = measured(ways, truth, {}, rounds=400)
    for name, index in indexes.items():
        found[name]["bytes"] = index.nbytes
    return against(
        found, ("faiss_flat", "numpy"), n_items=n_items, dim=dim, queries=2, k=k, selectivity=0.994
    )


def predicates(threads: int, n_items: int = 50_000) -> list[Row]:
    """16 queries with 16 predicates of about 20 %, seen before and not, the best hundred."""
    dim, k, n = 128, 100, 16
    rows, rng = gaussian_vectors(n_items, dim), np.random.default_rng(2)
    bias = rng.standard_normal(n_items, np.float32)
    queries = [rng.standard_normal((n, dim), np.float32) for _ in range(20)]
    values = {
        "price": rng.uniform(0, 100, n_items),
        "brand": np.array([f"brand {i:03}" for i in range(100)])[rng.integers(0, 100, n_items)],
        "in_stock": rng.random(n_items) < 0.9,
    }
    columns = Columns.from_values({name: v.tolist() for name, v in values.items()}, n_items)
    frame = pl.DataFrame(values)
    texts, expressions = [], []
    for i in range(n):
        low, brands = 2.0 * i, [f"brand {b:03}" for b in rng.choice(100, 45, replace=False)]
        parts = [
            {"price": {"ge": low, "lt": low + 50}},
            {"brand": {"in": brands}},
            {"in_stock": {"eq": True}},
        ]
        texts.append(json.dumps({"and": parts}))
        expressions.append(
            (pl.col("price") >= low)
            & (pl.col("price") < low + 50)
            & pl.col("brand").is_in(brands)
            & pl.col("in_stock")
        )
    index, flat = QuantisedIndex(rows, bias, threads), faiss_flat(rows, bias)
    cache = FilterCache(columns)

    def masks(of: FilterCache) -> NDArray[np.int32]:
        return pack_mask(np.stack([of.mask(text) for text in texts]))

    def of_frame() -> NDArray[np.int32]:
        return packed(np.stack([frame.select(e).to_series().to_numpy() for e in expressions]))

    bitmaps = of_frame()
    if not np.array_equal(masks(cache), bitmaps):
        raise ValueError("predicates: expected the data frame's masks, got others")
    share = float(np.unpackbits(bitmaps.view(np.uint8)).mean())
    truth = [flat.ask(part, k, bitmaps) for part in queries]
    written = []
    for seen, ways in (
        (
            True,
            {
                "quantised": lambda i: index.search(queries[i], k, masks(cache)).items,
                "faiss_flat": lambda i: flat.ask(queries[i], k, bitmaps),
            },
        ),
        (
            False,
            {
                "quantised": lambda i: (
                    index.search(queries[i], k, masks(FilterCache(columns))).items
                ),
                "faiss_flat": lambda i: flat.ask(queries[i], k, of_frame()),
            },
        ),
    ):
        found = measured(ways, truth, {}, rounds=60)
        written += against(
            found,
            ("faiss_flat",),
            n_items=n_items,
            dim=dim,
            queries=n,
            k=k,
            selectivity=round(share, 3),
            seen=seen,
        )
    return written


def texts(threads: int, n_items: int, graph_mb: int) -> list[Row]:
    """One query among MiniLM vectors of texts, the best hundred."""
    k, rows = 100, text_vectors(n_items)
    bias = np.zeros(n_items, np.float32)
    samples, asked = queries_like(SAMPLES, seed=2), queries_like(60)
    return _curve_point(rows, bias, samples, [q[None] for q in asked], k, threads, graph_mb)


def curve(threads: int, n_items: int, graph_mb: int) -> list[Row]:
    """The two vectors of one request, the best ten, MiniLM vectors on their 64 main axes."""
    vectors = text_vectors(min(n_items, 20_000))
    axes = np.linalg.svd(vectors, full_matrices=False)[2][:64].T
    rows = np.empty((n_items, 64), np.float32)
    for seed, start in enumerate(range(0, n_items, 1_000_000)):
        size = min(1_000_000, n_items - start)
        rows[start : start + size] = text_vectors(size, seed=3 + seed) @ axes
    bias = np.random.default_rng(3).standard_normal(n_items, np.float32) / 20
    samples, asked = queries_like(SAMPLES, seed=2) @ axes, queries_like(100) @ axes
    pairs = [asked[i : i + 2] for i in range(0, 100, 2)]
    return _curve_point(rows, bias, samples, pairs, 10, threads, graph_mb)


def _curve_point(
    rows: Floats,
    bias: Floats,
    samples: Floats,
    queries: list[Floats],
    k: int,
    threads: int,
    graph_mb: int,
) -> list[Row]:
    """Every backend and opponent that the size allows, over one catalogue."""
    n_items = len(rows)
    faiss.omp_set_num_threads(threads)
    flat = faiss_flat(rows, bias)
    truth = [flat.ask(part, k, None) for part in queries]
    indexes: dict[str, CheckedIndex | Contender] = {"faiss_flat": flat}
    if rows.nbytes <= NUMPY_BYTES:
        indexes["numpy"] = numpy_product(rows, bias)
    built: dict[str, float] = {}
    builds: dict[str, Callable[[], CheckedIndex | Contender]] = {
        "quantised": lambda: QuantisedIndex(rows, bias, threads),
        "approximate_ivf": lambda: ApproximateIndex(
            rows, bias, threads, recall=ASKED, queries=samples
        ),
    }
    if n_items <= 100_000:
        builds["exact"] = lambda: ExactIndex(rows, bias, threads)
        builds["approximate_hnsw"] = lambda: ApproximateIndex(
            rows, bias, threads, kind="hnsw", recall=ASKED, queries=samples
        )
    if rows.nbytes <= graph_mb * 1e6:
        for name, graph in (("hnswlib", hnswlib_graph), ("usearch", usearch_graph)):
            builds[name] = lambda graph=graph: widened(
                *graph(rows, bias, threads), queries=queries, truth=truth, k=k
            )
    for name, build in builds.items():
        begin = time.perf_counter()
        indexes[name] = build()
        built[name] = round(time.perf_counter() - begin, 1)
        print(f"{name}: built in {built[name]} s", file=sys.stderr)
    ways = {name: asking(index, queries, k) for name, index in indexes.items()}
    loose = ("approximate_ivf", "approximate_hnsw", "hnswlib", "usearch")
    promised = dict.fromkeys(loose, HELD)
    found = measured(ways, truth, promised, rounds=ROUNDS)
    for name, index in indexes.items():
        found[name] |= {"bytes": index.nbytes, "build_s": built.get(name)}
    opponents = tuple(name for name in ("faiss_flat", "numpy") if name in found)
    return against(
        found,
        opponents,
        n_items=n_items,
        dim=rows.shape[1],
        queries=len(queries[0]),
        k=k,
        selectivity=1.0,
    )


def widened(
    contender: Contender,
    widen: Callable[[int], None],
    queries: list[Floats],
    truth: list[NDArray[np.int64]],
    k: int,
) -> Contender:
    """The graph at the smallest width that reaches the promise."""
    width = k
    while True:
        widen(width)
        answers = [contender.ask(part, k, None) for part in queries]
        if np.mean([overlap(a, t) for a, t in zip(answers, truth, strict=True)]) >= HELD:
            return contender
        if width > 16_384:
            raise ValueError(f"expected a recall of {HELD} below width {width}, got less")
        width = int(width * 1.3) + 1


def filters(threads: int, n_items: int = 1_000_000) -> list[Row]:
    """One query among texts under masks of four shares; the ratio is to the unfiltered search."""
    k, rows = 100, text_vectors(n_items)
    bias = np.zeros(n_items, np.float32)
    samples = queries_like(SAMPLES, seed=2)
    queries, rng = [q[None] for q in queries_like(40)], np.random.default_rng(4)
    faiss.omp_set_num_threads(threads)
    indexes: dict[str, CheckedIndex] = {
        "quantised": QuantisedIndex(rows, bias, threads),
        "approximate_ivf": ApproximateIndex(rows, bias, threads, recall=ASKED, queries=samples),
    }
    shares = (1.0, 0.2, 0.01, 0.0001)
    masks = {
        share: pack_mask(
            (rng.random((1, n_items)) < share) if share < 1 else np.ones((1, n_items), np.bool_)
        )
        for share in shares
    }
    written = []
    for name, index in indexes.items():
        ways = {str(share): asking(index, queries, k, mask) for share, mask in masks.items()}
        ways["none"] = asking(index, queries, k)
        recalls = {}
        for share, answers in ways.items():
            mask = None if share == "none" else masks[float(share)]
            truth = [index.exact.search(part, k, mask).items for part in queries]
            found = [answers(i) for i in range(len(queries))]
            if any((a >= 0).sum() != (t >= 0).sum() for a, t in zip(found, truth, strict=True)):
                raise ValueError(f"{name} at {share}: expected min(k, qualifying) answers")
            pairs = zip(found, truth, strict=True)
            recalls[share] = round(float(np.mean([overlap(a, t) for a, t in pairs])), 5)
            least = HELD if "approximate" in name else EXACT
            if recalls[share] < least:
                raise ValueError(f"{name} at {share}: expected {least}, got {recalls[share]}")
        taken = timed(ways, len(queries), ROUNDS)
        for share, row in taken.items():
            row["recall"] = recalls[share]
        for row in against(taken, ("none",), n_items=n_items, dim=rows.shape[1], queries=1, k=k):
            share = row.pop("backend")
            written.append(
                {**row, "backend": name, "selectivity": 1.0 if share == "none" else float(share)}
                | {"masked": share != "none", "opponent": f"{name}, no mask"}
            )
    return written


CASES: dict[str, Callable[..., list[Row]]] = {
    "request": request,
    "predicates": predicates,
    "texts": texts,
    "filters": filters,
    "curve": curve,
}
SIZES = {"texts": (100_000, 1_000_000), "curve": (10_000, 100_000, 1_000_000)}


def main(
    cases: Annotated[list[str] | None, typer.Argument(help=", ".join(CASES))] = None,
    threads: int = 2,
    items: Annotated[list[int] | None, typer.Option(help="items of each case")] = None,
    graph_mb: Annotated[int, typer.Option(help="up to which size hnswlib and usearch run")] = 200,
    json_file: Annotated[Path, typer.Option("--json")] = RESULTS,
) -> None:
    """Measures and stores."""
    for case in cases or CASES:
        if case not in CASES:
            raise typer.BadParameter(f"expected one of {', '.join(CASES)}, got {case}")
        for n_items in items or SIZES.get(case, (None,)):
            with threadpool_limits(threads):
                faiss.omp_set_num_threads(threads)
                asked = [n_items] if n_items else []
                if case in ("texts", "curve"):
                    asked.append(graph_mb)
                rows = CASES[case](threads, *asked)
            around = surroundings("benchmarks.scale_items", LIBRARIES)
            rows = [{"case": case, **row, "threads": threads, **around} for row in rows]
            replace_rows(json_file, rows, KEY)
            for row in rows:
                print(
                    f"{case} {row['n_items']} x {row['dim']} {row['backend']}: "
                    f"{row['p50_ms']} ms, recall {row['recall']}, "
                    f"ratio {row['ratio']} to {row['opponent']}"
                )


if __name__ == "__main__":
    typer.run(main)
