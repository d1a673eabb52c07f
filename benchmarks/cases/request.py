"""The request path without a server, beside the same recommender in torch, and how costs grow."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from benchmarks.case import (
    ENGINE,
    Case,
    Opener,
    Read,
    Setting,
    Statistics,
    Timed,
    exponent,
    in_turn,
)
from benchmarks.encoders import Encoders
from benchmarks.load_inputs import Ask, Scenario, live, stored, with_filter
from benchmarks.opponents import numpy_product
from benchmarks.peers import WAYS, Peer
from benchmarks.service import Question, TorchRecommender
from engine.bundle import ENCODE_FILE, Bundle
from engine.compile.timing import interleaved
from engine.retrieval.choose import build, choose
from engine.retrieval.mask import pack_mask
from engine.runtime.onnx_cpu import OnnxEncoder
from engine.serving.options import Options
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request, parse

from .encoder import torch_threads
from .server import assert_same

TORCH = "torch"
ROUNDS, PEER_ROUNDS, CHECKED = 200, 40, 50
SIZES = (10_000, 31_623, 100_000, 316_228, 1_000_000)
LENGTHS = (25, 50, 100, 200)
BATCHES = (1, 2, 4, 8, 16, 32)
GROWTH_ROUNDS, DIM, K = 15, 64, 10


class Sides(NamedTuple):
    """The same requests to the engine and to the plain recommender."""

    bundle: Bundle
    scenario: Scenario
    engine: Callable[[int], Any]
    plain: Callable[[int], Any]


def _sides(setting: Setting, make: Callable[[Bundle], Scenario]) -> Sides:
    bundle = Bundle.open(setting.bundle, verify=False)
    scenario, recommender = make(bundle), Recommender(bundle, Options(threads=setting.threads))
    requests = requests_of(scenario)
    plain = TorchRecommender(bundle)
    # A bundle has no weights of torch: who has only its graph runs that.
    plain.encoder = OnnxEncoder(bundle.folder / ENCODE_FILE, setting.threads)  # type: ignore[assignment]
    questions = [_question(ask, scenario) for ask in scenario.asks]
    allowed = _filter(bundle, scenario.asks)

    def ask_engine(i: int) -> Any:
        return recommender.recommend([requests[i]])[0]

    def ask_plain(i: int) -> Any:
        if allowed is not None:
            plain.inactive = torch.from_numpy(~allowed(scenario.asks[i]))
        return plain.recommend(questions[i])

    return Sides(bundle, scenario, ask_engine, ask_plain)


def requests_of(scenario: Scenario) -> list[Request]:
    """The scenario's requests as the served model parses them."""
    made = []
    for ask in scenario.asks:
        tensors = {
            "user_id": np.array([[ask.get("user_id", "").encode()]], object),
            "item_ids": np.array([ask.get("item_ids", [])], np.int64),
            "event_types": np.array([ask.get("event_types", [])], np.int32),
            "event_times": np.array([ask.get("event_times", [])], np.int64),
        }
        request = parse(tensors, "", now_s=scenario.parameters["time"])[0]
        made.append(replace(request, **scenario.parameters, filter=ask.get("filter")))
    return made


def _question(ask: Ask, scenario: Scenario) -> Question:
    known = {name: value for name, value in ask.items() if name in Question.model_fields}
    return Question(**known, **scenario.parameters)


def _filter(bundle: Bundle, asks: Sequence[Ask]) -> Callable[[Ask], NDArray[np.bool_]] | None:
    """Evaluates a request's filter by a data frame; None where no request has one."""
    if not any("filter" in ask for ask in asks):
        return None
    column = bundle.columns["subclass"]
    names = np.array([*column.strings, None], object)
    frame = pl.DataFrame({"subclass": names[np.where(column.valid, column.data, -1)].tolist()})
    active = bundle.items["active"]

    def allowed(ask: Ask) -> NDArray[np.bool_]:
        wanted = json.loads(ask["filter"])["subclass"]["in"]
        kept = frame.select(pl.col("subclass").is_in(wanted).fill_null(False)).to_series()
        both: NDArray[np.bool_] = active & kept.to_numpy()
        return both

    return allowed


def _in_process(name: str, make: Callable[[Bundle], Scenario]) -> Opener:
    """Requests one at a time, each way through all of them in turn."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Case]:
        with torch_threads(setting.threads):
            sides = _sides(setting, make)
            ways = {ENGINE: sides.engine, TORCH: sides.plain}
            checked = range(min(CHECKED, len(sides.scenario.asks)))
            items = sides.bundle.items["candidates"]
            truth = [sides.plain(i) for i in checked]

            def check(way: str) -> None:
                for i, wanted in zip(checked, truth, strict=True):
                    got = ways[way](i)
                    assert way == TORCH or isinstance(got, Reply), f"{way}: request {i}: {got}"
                    assert_same(f"{way}: request {i}", _answer(got), _answer(wanted))

            yield Timed(
                name,
                {
                    "items": len(items), "d": items.shape[1], "k": K,
                    "events": len(sides.scenario.asks[0].get("item_ids", ())),
                    "requests": len(sides.scenario.asks), "threads": setting.threads,
                },
                {way: in_turn(ask, len(sides.scenario.asks)) for way, ask in ways.items()},
                check,
                ROUNDS,
                items.size,  # the scan reads a byte of each number
                2 * 2 * items.size,
            )  # fmt: skip

    return opened


def _answer(reply: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Item ids and scores, without padding."""
    items, scores = np.asarray(reply.item_ids), np.asarray(reply.scores)
    return items[items >= 0], scores[items >= 0]


@contextmanager
def peer_inference(setting: Setting) -> Iterator[Case]:
    """Ten items after a history of 50 events, by libraries whose models are of `small`'s size.

    The engine answers with two vectors, context, repeats and lists of its own trained or random
    model; RecTools and RePlay with one product of a SASRec.
    """
    bundle = Bundle.open(setting.bundle, verify=False)
    scenario, n_items = live(bundle), len(bundle.items["item_ids"])
    requests = requests_of(scenario)[:CHECKED]
    histories = np.searchsorted(
        bundle.items["item_ids"], np.stack([request.item_ids for request in requests])
    )
    recommender = Recommender(bundle, Options(threads=setting.threads))
    with ExitStack() as stack:
        peers = {
            way: stack.enter_context(Peer(way, histories, n_items, setting.threads)) for way in WAYS
        }

        def check(way: str) -> None:
            for n in range(5):
                if way == ENGINE:
                    (reply,) = recommender.recommend([requests[n]])
                    assert isinstance(reply, Reply), reply
                    assert len(set(reply.item_ids.tolist()) - {-1}) == K, reply
                else:
                    got, wanted = peers[way].ask(n), peers[way].truth(n)
                    # bf16, in which OpenVINO computes where it can, swaps near scores.
                    same = len(set(got) & set(wanted))
                    assert len(set(got)) == K, f"{way}: expected {K} items, got {got}"
                    assert same >= K - 3, f"{way}: expected {wanted}, got {got}"

        asks: dict[str, Callable[[int], Any]] = {way: peer.ask for way, peer in peers.items()}
        asks[ENGINE] = lambda n: recommender.recommend([requests[n]])
        n_requests = len(requests)
        yield Timed(
            "peer_inference",
            {"items": n_items, "events": histories.shape[1], "k": K, "threads": setting.threads},
            {way: in_turn(asks[way], n_requests) for way in (ENGINE, *peers)},
            check,
            PEER_ROUNDS,
            bundle.items["candidates"].size,
            2 * 2 * bundle.items["candidates"].size,
        )


def _growth(ways: dict[int, dict[str, Callable[[], object]]]) -> Statistics:
    """p50_ms_<size> of every way, and `exponent` of it against the size."""
    times = {size: interleaved(calls, GROWTH_ROUNDS, warmup=2) for size, calls in ways.items()}
    found: Statistics = {}
    for way in ways[min(ways)]:
        p50 = {size: measured[way].p50 for size, measured in times.items()}
        found[way] = {f"p50_ms_{size}": value for size, value in p50.items()}
        found[way]["exponent"] = exponent([*p50], [*p50.values()])
    return found


@contextmanager
def growth_items(setting: Setting) -> Iterator[Case]:
    """Search for the two vectors of one request over 10^4 to 10^6 random rows."""
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((2, DIM), np.float32)
    ways: dict[int, dict[str, Callable[[], object]]] = {}
    for size in SIZES:
        rows = rng.standard_normal((size, DIM), np.float32)
        bias = rng.standard_normal(size, np.float32)
        index = build(choose("auto", size, DIM), rows, bias, setting.threads)
        product, mask = numpy_product(rows, bias), pack_mask(rng.random((1, size)) < 0.99)
        both = np.repeat(mask, 2, axis=0)
        ways[size] = {
            ENGINE: lambda index=index, both=both: index.search(queries, K, both),
            "numpy": lambda product=product, both=both: product.ask(queries, K, both),
        }
    shapes = {"d": DIM, "queries": 2, "k": K, "threads": setting.threads}
    yield Read("growth_items", shapes, lambda: _growth(ways))


@contextmanager
def growth_length(setting: Setting) -> Iterator[Case]:
    """A whole window encoded by what serves `small`, over 25 to 200 events."""
    with torch_threads(setting.threads):
        encoders = Encoders("small", setting.threads)
        ways: dict[int, dict[str, Callable[[], object]]] = {}
        for length in LENGTHS:
            batch = encoders.window_of(length)
            ways[length] = {ENGINE: lambda batch=batch: encoders.engine.encode(batch)}
        shapes = {"preset": "small", "threads": setting.threads}
        yield Read("growth_length", shapes, lambda: _growth(ways))


@contextmanager
def growth_batch(setting: Setting) -> Iterator[Case]:
    """1 to 32 stored requests answered at once."""
    bundle = Bundle.open(setting.bundle, verify=False)
    recommender = Recommender(bundle, Options(threads=setting.threads))
    requests = requests_of(stored(bundle))
    ways: dict[int, dict[str, Callable[[], object]]] = {}
    for size in BATCHES:
        parts = [requests[start : start + size] for start in range(0, len(requests), size)]
        turns = cycle([part for part in parts if len(part) == size])
        ways[size] = {ENGINE: lambda turns=turns: recommender.recommend(next(turns))}
    shapes = {"items": len(bundle.items["item_ids"]), "k": K, "threads": setting.threads}
    yield Read("growth_batch", shapes, lambda: _growth(ways))


CASES: dict[str, Opener] = {
    "stored_request_in_process": _in_process("stored_request_in_process", stored),
    "live_request_in_process": _in_process("live_request_in_process", live),
    "filtered_request_in_process": _in_process(
        "filtered_request_in_process", lambda bundle: with_filter(stored(bundle), bundle)
    ),
    "peer_inference": peer_inference,
    "growth_items": growth_items,
    "growth_length": growth_length,
    "growth_batch": growth_batch,
}
