"""Search of one request under its mask, what approximate search finds, and bytes on disk."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import faiss
import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.case import ENGINE, Case, Opener, Read, Setting, Statistics, Timed, in_turn
from benchmarks.load_inputs import household_ids
from benchmarks.opponents import (
    Floats,
    faiss_flat,
    hnswlib_graph,
    numpy_product,
    usearch_graph,
    with_one,
)
from engine.bundle import ENCODE_FILE, ENCODE_INT8_FILE, ITEMS_FILE, USERS_FOLDER, Bundle
from engine.compile.quantize import linear_nodes
from engine.retrieval.approximate import ApproximateIndex, overlap
from engine.retrieval.choose import build, choose
from engine.retrieval.exact import ExactIndex
from engine.retrieval.index import CheckedIndex
from engine.retrieval.mask import pack_mask
from engine.retrieval.quantised import QuantisedIndex
from engine.store.mmap import FILES

N_ITEMS, DIM, N_MASKED, K = 68_000, 64, 400, 10
N_SMALL, CLUSTERS = 20_000, 200
REQUESTS, ROUNDS = 50, 200
HELD = 0.98  # recall of every approximate way, before it is timed
WIDEST = 4096
Answers = Callable[[int], NDArray[np.int64]]


class Searches(NamedTuple):
    """A catalogue, and the two queries and the mask of each request."""

    rows: Floats
    bias: Floats
    queries: list[Floats]
    allowed: NDArray[np.bool_]

    @property
    def mask(self) -> NDArray[np.int32]:
        """[2, W] words, the same for both queries."""
        return pack_mask(np.tile(self.allowed, (2, 1)))


def searches(n_items: int, clusters: int = 0) -> Searches:
    """Normal vectors, the hardest to search in; with `clusters`, so many groups of near ones."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n_items, DIM), np.float32)
    queries = rng.standard_normal((2 * REQUESTS, DIM), np.float32)
    if clusters:
        centres = rng.standard_normal((clusters, DIM), np.float32)
        rows = centres[rng.integers(0, clusters, n_items)] + 0.4 * rows
        queries = centres[rng.integers(0, clusters, len(queries))] + 0.4 * queries
    allowed = np.ones(n_items, np.bool_)
    allowed[rng.choice(n_items, N_MASKED, replace=False)] = False
    bias = rng.standard_normal(n_items, np.float32)
    return Searches(rows, bias, np.split(queries, REQUESTS), allowed)


@contextmanager
def search_filtered(setting: Setting) -> Iterator[Case]:
    """The two vectors of one request, 400 items masked, the best ten; every way is exact."""
    faiss.omp_set_num_threads(setting.threads)
    given = searches(N_ITEMS)
    choice = choose("auto", N_ITEMS, DIM)
    index = build(choice, given.rows, given.bias, setting.threads)
    flat, product = faiss_flat(given.rows, given.bias), numpy_product(given.rows, given.bias)
    mask = given.mask
    ways: dict[str, Answers] = {
        ENGINE: lambda i: index.search(given.queries[i], K, mask).items,
        "faiss_selector": lambda i: flat.ask(given.queries[i], K, mask),
        "faiss_more": _more(lambda q, k: flat.ask(q, k, None), given),
        "numpy": lambda i: product.ask(given.queries[i], K, mask),
    }
    truth = [ways["faiss_selector"](i) for i in range(REQUESTS)]
    yield _case("search_filtered", given, ways, truth, 1.0, setting, choice.backend)


@contextmanager
def search_graphs(setting: Setting) -> Iterator[Case]:
    """The same question to graphs, which find most of the answer; near vectors, 20,000 items.

    hnswlib and usearch filter by a call of Python an item, or not at all: they are asked for as
    many more as are masked. Their width is the smallest that finds 98 %.
    """
    faiss.omp_set_num_threads(setting.threads)
    given = searches(N_SMALL, CLUSTERS)
    choice = choose("auto", N_SMALL, DIM)
    index = build(choice, given.rows, given.bias, setting.threads)
    mask = given.mask
    ways: dict[str, Answers] = {ENGINE: lambda i: index.search(given.queries[i], K, mask).items}
    truth = [ways[ENGINE](i) for i in range(REQUESTS)]
    for name, graph in (("hnswlib", hnswlib_graph), ("usearch", usearch_graph)):
        contender, widen = graph(given.rows, given.bias, setting.threads)
        ways[name] = _more(partial(contender.ask, mask=None), given)
        _widen(name, ways[name], widen, truth)
    yield _case("search_graphs", given, ways, truth, HELD, setting, choice.backend)


def _more(ask: Callable[[Floats, int], NDArray[np.int64]], given: Searches) -> Answers:
    """Asks for as many more as are masked, and leaves those out."""

    def answers(i: int) -> NDArray[np.int64]:
        found = ask(given.queries[i], K + N_MASKED)
        return np.stack([row[given.allowed[row]][:K] for row in found])

    return answers


def _widen(
    name: str, answers: Answers, widen: Callable[[int], None], truth: list[NDArray[np.int64]]
) -> None:
    """Sets the smallest width that reaches HELD. Raises ValueError where none below WIDEST does."""
    width = K + N_MASKED
    while width <= WIDEST:
        widen(width)
        if _recall(answers, truth) >= HELD:
            return
        width = int(width * 1.3) + 1
    raise ValueError(f"{name}: expected a recall of {HELD} below width {WIDEST}, got less")


def _recall(answers: Answers, truth: list[NDArray[np.int64]]) -> float:
    return float(np.mean([overlap(answers(i), right) for i, right in enumerate(truth)]))


def _case(
    name: str,
    given: Searches,
    ways: Mapping[str, Answers],
    truth: list[NDArray[np.int64]],
    least: float,
    setting: Setting,
    backend: str,
) -> Timed:
    """The ways over all requests in turn; each finds at least `least` of the truth."""

    def check(way: str) -> None:
        found = _recall(ways[way], truth)
        # Two scores that differ by rounding may change places at the tenth.
        assert found >= least - 1e-3, f"{way}: recall: expected {least}, got {found:.4f}"

    n_items = len(given.rows)
    return Timed(
        name,
        {
            "items": n_items, "d": DIM, "queries": 2, "k": K, "masked": N_MASKED,
            "index": backend, "threads": setting.threads,
        },
        {way: in_turn(answers, REQUESTS) for way, answers in ways.items()},
        check,
        ROUNDS,
        given.rows.nbytes + given.bias.nbytes + n_items // 8,
        2 * 2 * n_items * DIM,
    )  # fmt: skip


@contextmanager
def search_recall(setting: Setting) -> Iterator[Case]:
    """recall_<index> of the best ten, with and without a mask, against a product in fp64.

    The exact indexes find all; the approximate one what it promises.
    """
    given = searches(N_SMALL, CLUSTERS)

    def repeat() -> Statistics:
        made: dict[str, CheckedIndex] = {
            "exact": ExactIndex(given.rows, given.bias, setting.threads),
            "quantised": QuantisedIndex(given.rows, given.bias, setting.threads),
            "approximate": ApproximateIndex(
                given.rows, given.bias, setting.threads, recall=HELD, queries=given.queries[0]
            ),
        }
        return {ENGINE: {f"recall_{name}": _found(index, given) for name, index in made.items()}}

    shapes = {"items": N_SMALL, "d": DIM, "k": K, "queries": 2 * REQUESTS}
    yield Read("search_recall", shapes, repeat, exact=True)


def _found(index: CheckedIndex, given: Searches) -> float:
    """Share of the true best ten, masked and not."""
    shares = []
    rows = np.column_stack([given.rows, given.bias]).astype(np.float64)
    for allowed in (given.allowed, np.ones(len(rows), np.bool_)):
        mask = pack_mask(np.tile(allowed, (2, 1)))
        for queries in given.queries:
            scores = with_one(queries) @ rows.T
            scores[:, ~allowed] = -np.inf
            best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
            shares.append(overlap(index.search(queries, K, mask).items, best))
    return float(np.mean(shares))


@contextmanager
def artifact_bytes(setting: Setting) -> Iterator[Case]:
    """Bytes of a bundle's files over those of what they hold.

    items_ratio: arrays; users_ratio: every user's arrays; graph_ratio: weights in fp32;
    graph_int8_ratio: the matrices in 8 bits and all other weights in fp32.
    """
    bundle = Bundle.open(setting.bundle, verify=False)
    shapes = {"items": len(bundle.items["item_ids"]), "users": len(bundle.users)}
    yield Read("artifact_bytes", shapes, lambda: {ENGINE: _ratios(bundle)}, exact=True)


def _ratios(bundle: Bundle) -> dict[str, float]:
    sizes = {name: file.bytes for name, file in bundle.manifest.files.items()}
    graph = onnx.load(bundle.folder / ENCODE_FILE)
    weights = {each.name: 4 * int(np.prod(each.dims)) for each in graph.graph.initializer}
    matrices = {node.input[1] for node in linear_nodes(graph).values()}
    quantised = sum(nbytes // 4 if name in matrices else nbytes for name, nbytes in weights.items())
    users = sum(sizes[f"{USERS_FOLDER}/{name}"] for name in FILES)
    return {
        "items_ratio": sizes[ITEMS_FILE] / sum(each.nbytes for each in bundle.items.values()),
        "users_ratio": users / _users_nbytes(bundle),
        "graph_ratio": sizes[ENCODE_FILE] / sum(weights.values()),
        "graph_int8_ratio": sizes[ENCODE_INT8_FILE] / quantised,
    }


def _users_nbytes(bundle: Bundle) -> int:
    """Bytes of all users' arrays and ids."""
    ids = household_ids(bundle)
    return sum(
        len(user.user_id.encode()) + _nbytes(vars(user)) + _nbytes(vars(user.repeats))
        for user in bundle.users.get_many(ids)
        if user is not None
    )


def _nbytes(fields: Mapping[str, Any]) -> int:
    return sum(value.nbytes for value in fields.values() if isinstance(value, np.ndarray))


CASES: dict[str, Opener] = {
    "search_filtered": search_filtered,
    "search_graphs": search_graphs,
    "search_recall": search_recall,
    "artifact_bytes": artifact_bytes,
}
