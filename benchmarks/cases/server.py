"""The served model, over gRPC and HTTP, under load.

Load comes from perf_analyzer for all ways alike: gRPC for the models of Triton Server, JSON over
HTTP for the service. One client at a time is Python, as users have it: the engine's for gRPC,
http.client for the service.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.case import ENGINE, Opener, Read, Setting, Statistics, Timed, exponent
from benchmarks.load_inputs import (
    EVENTS,
    K,
    Scenario,
    live,
    stored,
    with_filter,
    write_requests,
    write_tensors,
)
from benchmarks.paper_bundle import paper_bundle
from benchmarks.perf_analyzer import Target, closed_loop, find, holds
from benchmarks.processes import mapped_files, model_process, resident_bytes
from benchmarks.rate_search import highest_rate
from benchmarks.service import PATH, Service
from engine.bundle import Bundle
from engine.serving.client import StarsClient
from engine.serving.latency import NULL_REPOSITORY
from engine.serving.options import Options
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, parse
from engine.serving.server import MODEL_REPOSITORY, TritonServer

NULL, FASTAPI = "null", "fastapi"
MODELS = {ENGINE: "stars", NULL: "stars_null"}
OBJECTIVE_MS = 30.0
CONCURRENCIES = (1, 2, 4, 8, 16)
CHECKED = 50  # answers of each way
SCORE_ERROR = 1e-4  # of two ways of adding up
ROUNDS = 300
PAPER_EVENTS = 200
LOAD_S, WARM_S = 3.0, 1.5
ALLOWED_BYTES = 700e6  # of the model's process, beside twice the item tables


class Answered(Protocol):
    """What every client answers with."""

    item_ids: Any
    scores: Any


Ask = Callable[..., Answered]


def served(setting: Setting, *, bundle: Path | None = None) -> TritonServer:
    """`stars` and its null model on one server."""
    options = Options(threads=setting.threads)
    return TritonServer(
        [MODEL_REPOSITORY, NULL_REPOSITORY], bundle or setting.bundle, options=options
    )


@contextmanager
def stored_grpc(setting: Setting) -> Iterator[Timed]:
    """One client; the household's stored vectors answer."""
    bundle = Bundle.open(setting.bundle, verify=False)
    with _at_once("stored_grpc", setting, bundle, stored(bundle)) as case:
        yield case


@contextmanager
def live_grpc(setting: Setting) -> Iterator[Timed]:
    """One client; 50 events of a real household, all encoded, under a filter."""
    bundle = Bundle.open(setting.bundle, verify=False)
    scenario = with_filter(live(bundle, EVENTS), bundle)
    with _at_once("live_grpc", setting, bundle, scenario) as case:
        yield case


@contextmanager
def paper_live_grpc(setting: Setting) -> Iterator[Timed]:
    """One client; 200 events of a made-up user, by the `paper` encoder with random weights."""
    bundle = Bundle.open(paper_bundle(), verify=False)
    scenario = live(bundle, PAPER_EVENTS)
    with _at_once("paper_live_grpc", setting, bundle, scenario, rounds=60) as case:
        yield case


@contextmanager
def _at_once(
    name: str,
    setting: Setting,
    bundle: Bundle,
    scenario: Scenario,
    rounds: int = ROUNDS,
) -> Iterator[Timed]:
    """One request at a time, to `stars` and its null model in turns.

    Nobody else takes turns: another service's scan between them would empty the caches, of which
    the model that does nothing needs none.
    """
    truth = in_process(bundle, scenario, setting.threads)
    with ExitStack() as stack:
        url = stack.enter_context(served(setting, bundle=bundle.folder)).grpc_url
        asks: dict[str, Ask] = {
            way: stack.enter_context(StarsClient(url, model=model)).recommend
            for way, model in MODELS.items()
        }
        items = bundle.items["candidates"]
        yield Timed(
            name=name,
            parameters=_parameters(setting, bundle, scenario) | {"concurrency": 1},
            ways={way: _in_turn(asks[way], scenario) for way in MODELS},
            check=lambda way: _check(way, asks[way], scenario, truth),
            rounds=rounds,
            nbytes=items.size,  # the scan reads a byte of each number
            flops=2 * 2 * items.size,  # of the search; two vectors
        )


def _in_turn(ask: Ask, scenario: Scenario) -> Callable[[], object]:
    requests = cycle(scenario.asks)
    return lambda: ask(**next(requests), **scenario.parameters)


def _parameters(setting: Setting, bundle: Bundle, scenario: Scenario) -> dict[str, Any]:
    n_items, dim = bundle.items["candidates"].shape
    shape = {"n_items": n_items, "dim": dim, "d_model": bundle.items["rows"].shape[1]}
    events = len(scenario.asks[0].get("item_ids", ()))
    live_way = {"events": events, "user": "none: encoded whole, nothing kept"} if events else {}
    return {"requests": scenario.name, **live_way, **shape, "k": K, "threads": setting.threads}


def in_process(
    bundle: Bundle, scenario: Scenario, threads: int = 1, runtime: str = "auto"
) -> list[Reply]:
    """What the engine answers to the first CHECKED requests without a server, one at a time."""
    recommender = Recommender(bundle, Options(threads=threads, runtime=runtime))
    replies = []
    for ask in scenario.asks[:CHECKED]:
        user = np.array([[ask.get("user_id", "").encode()]], object)
        tensors = {"user_id": user, "item_ids": np.array([ask.get("item_ids", [])], np.int64)}
        tensors["event_types"] = np.array([ask.get("event_types", [])], np.int32)
        tensors["event_times"] = np.array([ask.get("event_times", [])], np.int64)
        request = parse(tensors, "", now_s=scenario.parameters["time"])[0]
        options = {**scenario.parameters, "filter": ask.get("filter")}
        reply = recommender.recommend([replace(request, **options)])[0]
        assert isinstance(reply, Reply), reply
        replies.append(reply)
    return replies


def _check(way: str, ask: Ask, scenario: Scenario, truth: list[Reply]) -> None:
    """The engine's items in its order but for near ties; of the null model none."""
    for request, wanted in zip(scenario.asks, truth, strict=False):
        got = ask(**request, **scenario.parameters)
        if way == NULL:
            assert len(got.item_ids) == 0, f"{way}: expected no items, got {got.item_ids}"
            continue
        found = wanted.item_ids >= 0
        assert_same(
            f"{way}: {request}",
            (np.asarray(got.item_ids), np.asarray(got.scores)),
            (wanted.item_ids[found], wanted.scores[found]),
        )


def assert_same(what: str, got: tuple[Any, Any], wanted: tuple[Any, Any]) -> None:
    """Raises AssertionError unless both answer the same items with the same scores.

    Two items may change places where their scores differ by no more than rounding; the last of
    either list, at the two last places, may be another item that ties with it.

    Args:
        got, wanted: item ids [n] and scores [n], best first.
    """
    items, scores = wanted
    assert len(got[0]) == len(items), f"{what}: expected items {items}, got {got[0]}"
    assert np.allclose(got[1], scores, atol=SCORE_ERROR), (
        f"{what}: expected scores {scores}, got {got[1]}"
    )
    for place in np.flatnonzero(got[0] != items):
        other = np.flatnonzero(got[0] == items[place])
        moved = len(other) and abs(scores[other[0]] - scores[place]) <= SCORE_ERROR
        left_out = not len(other) and place >= len(items) - 2
        assert moved or left_out, (
            f"{what}: place {place}: expected item {items[place]}, got {got[0][place]}"
        )


@contextmanager
def _targets(setting: Setting, scenario: Scenario, service: bool) -> Iterator[dict[str, Target]]:
    """What perf_analyzer asks, by way."""
    find()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tensors = write_tensors(scenario, folder / "tensors.json")
        url = stack.enter_context(served(setting)).grpc_url
        targets = {
            way: Target(url, "grpc", model, tensors, scenario.parameters)
            for way, model in MODELS.items()
        }
        if service:
            bodies = write_requests(scenario, folder / "requests.json")
            other = stack.enter_context(Service(setting.bundle, setting.threads))
            targets[FASTAPI] = Target(other.url, "http", PATH, bodies, {})
        for target in targets.values():
            closed_loop(target, concurrency=2, seconds=WARM_S)
        yield targets


@contextmanager
def stored_load(setting: Setting) -> Iterator[Read]:
    """Eight clients for three seconds a way, the ways in an order drawn anew each repeat."""
    bundle = Bundle.open(setting.bundle, verify=False)
    scenario, draw = stored(bundle), np.random.default_rng(0)
    with _targets(setting, scenario, service=True) as targets:

        def repeat() -> Statistics:
            order = draw.permutation(list(targets)).tolist()
            return {
                way: closed_loop(targets[way], concurrency=8, seconds=LOAD_S).statistics()
                for way in order
            }

        parameters = _parameters(setting, bundle, scenario)
        yield Read("stored_load", parameters | {"concurrency": 8, "seconds": LOAD_S}, repeat)


@contextmanager
def poisson_rate(setting: Setting) -> Iterator[Read]:
    """The highest rate of stored users at which p99 is within the objective."""
    bundle = Bundle.open(setting.bundle, verify=False)
    scenario = stored(bundle)
    with _targets(setting, scenario, service=False) as targets:
        start = {
            way: 0.7 * closed_loop(target, concurrency=8, seconds=1.5).throughput_per_s
            for way, target in targets.items()
        }

        def repeat() -> Statistics:
            for way, target in targets.items():
                start[way] = highest_rate(
                    holds(target, OBJECTIVE_MS, seconds=1.5), start[way], step=1.15
                )
            return {way: {"highest_rate_per_s": rate} for way, rate in start.items()}

        parameters = _parameters(setting, bundle, scenario)
        yield Read("poisson_rate", parameters | {"objective_p99_ms": OBJECTIVE_MS}, repeat)


@contextmanager
def growth_concurrency(setting: Setting) -> Iterator[Read]:
    """How the time of a request grows with the clients, each of which waits for its answer.

    That time is clients / throughput. Where each request costs the server the same however many
    there are, it grows with the clients (exponent 1) as soon as the server is busy, and less before
    and where batches share work. Above 1 a request costs more the more there are.
    """
    bundle = Bundle.open(setting.bundle, verify=False)
    scenario = stored(bundle)
    with _targets(setting, scenario, service=False) as targets:

        def repeat() -> Statistics:
            rates = [
                closed_loop(targets[ENGINE], concurrency=n, seconds=LOAD_S / 2).throughput_per_s
                for n in CONCURRENCIES
            ]
            times_ms = 1e3 * np.array(CONCURRENCIES) / rates
            times = {
                f"request_ms_at_{n}": ms
                for n, ms in zip(CONCURRENCIES, times_ms.tolist(), strict=True)
            }
            return {ENGINE: {"exponent": exponent(CONCURRENCIES, times_ms), **times}}

        yield Read("growth_concurrency", _parameters(setting, bundle, scenario), repeat)


@contextmanager
def cold_start(setting: Setting) -> Iterator[Read]:
    """From the start of the server's process to its first answer; then what its model holds.

    Memory is read after stored, live and filtered requests, so that all that is lazy is there.
    """
    bundle = Bundle.open(setting.bundle, verify=False)
    first, sequences = stored(bundle), with_filter(live(bundle, EVENTS), bundle)
    tables = bundle.items["rows"].nbytes + bundle.items["candidates"].nbytes
    allowed = (ALLOWED_BYTES + 2 * tables) / 2**20

    def repeat() -> Statistics:
        begin = time.perf_counter()
        options = Options(threads=setting.threads)
        with ExitStack() as stack:
            server = TritonServer([MODEL_REPOSITORY], setting.bundle, options=options)
            url = stack.enter_context(server).grpc_url
            client = stack.enter_context(StarsClient(url))
            client.recommend(**first.asks[0], **first.parameters)
            seconds = time.perf_counter() - begin
            for scenario in (first, sequences):
                for ask in scenario.asks[:CHECKED]:
                    client.recommend(**ask, **scenario.parameters)
            assert server.pid is not None
            process = model_process(server.pid, "stars")
            torch = any("/torch/" in name for name in mapped_files(process))
            resident = resident_bytes(process) / 2**20
        return {
            ENGINE: {
                "first_answer_s": seconds,
                "resident_mib": resident,
                "resident_allowed_mib": allowed,
                "imports_torch": float(torch),
            }
        }

    yield Read("cold_start", _parameters(setting, bundle, first), repeat)


CASES: dict[str, Opener] = {
    "stored_grpc": stored_grpc,
    "stored_load": stored_load,
    "live_grpc": live_grpc,
    "paper_live_grpc": paper_live_grpc,
    "poisson_rate": poisson_rate,
    "cold_start": cold_start,
    "growth_concurrency": growth_concurrency,
}
