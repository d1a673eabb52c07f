"""The same recommender as people write it: FastAPI, pydantic, torch; one worker, no batching.

    python -m benchmarks.service BUNDLE [--port 8080] [--threads 1] [--data D --run R]

It answers stored users, and sequences of events where --data and --run give the trained model, with
the engine's features and small weights, which training has too. It has no filters, no changes of
items, no users with new events, no metrics.
"""

import http.client
import json
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
import typer
import uvicorn
from fastapi import FastAPI, HTTPException
from numpy.typing import NDArray
from pydantic import BaseModel

from engine.bundle import Bundle
from engine.data.dataset import Dataset
from engine.errors import ServerError
from engine.features import History, UserFeatures, encode_inputs
from engine.model.stars import Stars
from engine.repeats import RepeatItemStatistics, RepeatState, repeat_features, repeat_history
from engine.runtime.torch import TorchEncoder
from engine.serving.request import SOURCES
from engine.serving.weights import RequestWeights

from .load_inputs import household_ids

READY_LIMIT_S = 60.0
REPEAT, POPULARITY = SOURCES.index("repeat"), SOURCES.index("popularity")
PATH = "recommend"


class Question(BaseModel):
    """A stored user, or a sequence of events of nobody."""

    user_id: str | None = None
    item_ids: list[int] = []
    event_types: list[int] = []
    event_times: list[int] = []
    k: int = 10
    time: int


class Answer(BaseModel):
    """Best first; sources as `stars` numbers them."""

    item_ids: list[int]
    scores: list[float]
    source: list[int]


class TorchRecommender:
    """The whole catalogue scored by one product, bought items overwritten, torch.topk."""

    def __init__(self, bundle: Bundle, model: Stars | None = None) -> None:
        items, self.manifest = bundle.items, bundle.manifest
        self.item_ids: NDArray[np.int64] = items["item_ids"]
        self.candidates = torch.from_numpy(items["candidates"])
        log_p = torch.from_numpy(items["log_p"])
        self.bias = -bundle.manifest.lambda_serve * log_p
        self.log_p = log_p.masked_fill(~torch.from_numpy(items["active"]), -torch.inf)
        self.inactive = torch.from_numpy(~items["active"])
        self.rows = items["rows"]
        self.statistics = RepeatItemStatistics(
            **{name: items[name] for name in RepeatItemStatistics.FIELDS}
        )
        self.sold: NDArray[np.float32] = items["sold"]
        self.promotions = bundle.promotions
        self.weights = RequestWeights.of(bundle.request_weights)
        self.calendar = self.weights.calendar(bundle.manifest)
        records = bundle.users.get_many(household_ids(bundle))
        self.users = {record.user_id: record for record in records if record is not None}
        self.encoder = None if model is None else TorchEncoder(model)

    def recommend(self, question: Question) -> Answer:
        """Raises KeyError for an item that is none, RuntimeError for events without a model."""
        user = self.users.get(question.user_id or "")
        if question.item_ids:
            vectors, state, last = self._live(question)
        elif user is not None:
            vectors = torch.from_numpy(np.stack([user.h_next, user.h_gen]))
            state, last = user.repeats, int(user.times[-1])
        else:
            best = torch.topk(self.log_p, question.k)
            return self._answer(best.indices, best.values, [POPULARITY] * question.k)
        delta = torch.from_numpy(self._context(question.time, last))
        scores = self._scores(vectors + delta, state, question.time)
        best = torch.topk(scores, question.k)
        return self._round_robin(best.values, best.indices, set(state.item.tolist()), question.k)

    def _live(self, question: Question) -> tuple[torch.Tensor, RepeatState, int]:
        """Vectors [2, D], repeat items and last time of a sequence of events."""
        if self.encoder is None:
            raise RuntimeError("events: expected a service with the trained model, got none")
        ids = np.array(question.item_ids)
        items = np.searchsorted(self.item_ids, ids).astype(np.int32)
        if not np.array_equal(self.item_ids[np.minimum(items, len(self.item_ids) - 1)], ids):
            raise KeyError("item_ids: expected ids of the catalogue")
        times = np.array(question.event_times)
        types = np.array(question.event_types, np.int32)
        weights, model = self.weights, self.manifest.model
        features = UserFeatures(
            np.zeros((1, weights.n_categorical), np.int32),
            np.full((1, weights.n_numeric), np.nan, np.float32),
        )
        history = History(items, times, types)
        inputs = encode_inputs(
            [history], features, self.rows, self.calendar, model["window"], model["hop"]
        )
        vectors = np.concatenate(self.encoder.encode(inputs))
        days = self.calendar.clock.day(times)
        sessions = np.cumsum(np.diff(days, prepend=days[0]) > 0).astype(np.int32)
        bought = np.isin(types, self.manifest.repeat_codes)
        past = repeat_history(items[bought], times[bought], sessions[bought])
        state = past.after(int(sessions[-1]), int(times[-1]))
        nothing = np.zeros(len(state.item), np.float32)  # the statistics know none of it
        state = replace(state, all_count=nothing, all_span=nothing)
        return torch.from_numpy(vectors), state, int(times[-1])

    def _context(self, time: int, last: int) -> NDArray[np.float32]:
        """[D] the offset of the request's moment."""
        fields = self.calendar.fields(np.array([time]))
        signals = self.calendar.signals_on(fields["day"])
        gap_days = self.calendar.gap_days(np.array([time]), np.array([last]))
        moments = np.stack([fields[name] for name in ("hour", "weekday", "week")], axis=1)
        return self.weights.context(moments, gap_days, signals)[0]

    @torch.inference_mode()
    def _scores(self, vectors: torch.Tensor, state: RepeatState, time: int) -> torch.Tensor:
        """[2, N] of the whole catalogue, -inf for what may not be answered."""
        scores = vectors @ self.candidates.T + self.bias
        if len(state.item) and self.manifest.model["repeats"]:
            bought = torch.from_numpy(state.item.astype(np.int64))
            day = self.calendar.fields(np.array([time]))["day"]
            beside = self.sold[state.item]
            if self.promotions is not None:
                announced = self.promotions.at(state.item, day.repeat(len(state.item)))
                beside = np.concatenate([beside, announced], axis=1)
            features = repeat_features([state], self.statistics, np.array([time]), beside)
            repeats = torch.from_numpy(self.weights.repeat_scores(features)).T
            scale = torch.from_numpy(self.weights.scale)[:, None]
            dot = vectors @ self.candidates[bought].T
            scores[:, bought] = scale * dot + repeats + self.bias[bought]
        return scores.masked_fill_(self.inactive, -torch.inf)

    def _round_robin(
        self, values: torch.Tensor, indices: torch.Tensor, bought: set[int], k: int
    ) -> Answer:
        """The two lists in turns, each item once."""
        lists = [
            [(item, score) for item, score in zip(i, s, strict=True) if score > -np.inf]
            for i, s in zip(indices.tolist(), values.tolist(), strict=True)
        ]
        taken: dict[int, tuple[float, int]] = {}
        turn = 0
        while len(taken) < k and any(lists):
            while lists[turn] and lists[turn][0][0] in taken:
                lists[turn].pop(0)
            if lists[turn]:
                item, score = lists[turn].pop(0)
                taken[item] = (score, REPEAT if item in bought else turn)
            turn = 1 - turn
        scores = [score for score, _ in taken.values()]
        return self._answer(list(taken), scores, [source for _, source in taken.values()])

    def _answer(self, items: Any, scores: Any, source: list[int]) -> Answer:
        ids = self.item_ids[np.asarray(items, np.int64)].tolist()
        return Answer(item_ids=ids, scores=list(map(float, scores)), source=source)


def make_app(recommender: TorchRecommender) -> FastAPI:
    """POST /recommend. The function is no coroutine, so FastAPI runs it in its pool of threads."""
    app = FastAPI()

    @app.post(f"/{PATH}")
    def recommend(question: Question) -> Answer:
        try:
            return recommender.recommend(question)
        except (KeyError, RuntimeError) as error:
            raise HTTPException(422, str(error)) from error

    @app.get("/ready")
    def ready() -> bool:
        return True

    return app


class Service:
    """The service in a process of its own: ready inside the `with` block, gone after it.

    Args:
        bundle: folder.
        threads: of torch.
        data, run: what the bundle was exported from, for sequences of events.
    """

    def __init__(
        self, bundle: Path, threads: int = 1, data: Path | None = None, run: Path | None = None
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"127.0.0.1:{free.getsockname()[1]}"
        port = self.url.split(":")[1]
        self._command = [sys.executable, "-m", __name__, str(bundle), "--port", port]
        self._command += ["--threads", str(threads)]
        if data is not None and run is not None:
            self._command += ["--data", str(data), "--run", str(run)]

    def __enter__(self) -> Self:
        """Raises ServerError where it ended or was not ready in time."""
        root = Path(__file__).resolve().parents[1]
        self._process = subprocess.Popen(
            self._command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + READY_LIMIT_S
        while not self._is_ready():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self._process.kill()
                said = self._process.communicate()[1][-2000:]
                raise ServerError(f"{' '.join(self._command)}: expected it ready, got: {said}")
            time.sleep(0.1)
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.communicate()

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self.url, timeout=2.0)
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/ready")
            return connection.getresponse().status == http.HTTPStatus.OK
        return False


class JsonClient:
    """One kept connection of http.client, the quickest of Python's."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(url)

    def recommend(self, **question: Any) -> Answer:
        """Raises ServerError where the service answers with another status."""
        headers = {"Content-Type": "application/json"}
        self._connection.request("POST", f"/{PATH}", json.dumps(question), headers)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != http.HTTPStatus.OK:
            raise ServerError(f"service: expected an answer, got {response.status}: {body[:500]!r}")
        return Answer.model_construct(**json.loads(body))

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def main(
    bundle: Path,
    port: int = 8080,
    threads: int = 1,
    data: Annotated[Path | None, typer.Option(help="dataset, for sequences of events")] = None,
    run: Annotated[Path | None, typer.Option(help="run of the bundle, for the same")] = None,
) -> None:
    """Serves until it is told to end."""
    torch.set_num_threads(threads)
    model = None
    if data is not None and run is not None:
        # Here, since it loads the exporters, which answer nobody.
        from engine.pipeline import load_model, read_config

        model = load_model(Dataset.load(data), read_config(run), run)
    app = make_app(TorchRecommender(Bundle.open(bundle), model))
    uvicorn.run(
        app, port=port, log_level="warning", access_log=False, loop="uvloop", http="httptools"
    )


if __name__ == "__main__":
    typer.run(main)
