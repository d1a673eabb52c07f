"""Training batches: windows of histories, session ends that carry the loss, candidates."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.config import Config
from engine.errors import DataError
from engine.features import UserFeatures
from engine.model.stars import Events
from engine.repeats import RepeatState, repeat_features

from .history import Past
from .pages import page_negatives
from .sampling import CandidateSampler, Drawn, Pairs

_NONE, _NOTHING = np.zeros(0, np.int64), np.zeros(0, np.int32)


@dataclass(frozen=True)
class Candidates:
    """Own and shared candidates of P positions; items are places in the batch's `item` list.

    Attributes:
        shared: [S] int64; shared_log_pi: [S] float32.
        own: [P, C] int64, -1 pads; log_pi: [P, C] float32; negative: [P, C] bool.
        weight_next, weight_general: [P, C] float32, targets of either head.
        bought: [n] int64 places in the flattened [P, C] that are repeats.
        features: [n, F] float32 of those.
    """

    shared: Tensor
    shared_log_pi: Tensor
    own: Tensor
    log_pi: Tensor
    negative: Tensor
    weight_next: Tensor
    weight_general: Tensor
    bought: Tensor
    features: Tensor


@dataclass(frozen=True)
class Batch:
    """One training step.

    Attributes:
        item: [n] int64, the distinct catalogue items of the batch.
        sequence: [B, L] int64, events as places in `item`.
        events: their fields.
        ends: [B, R] int64, events before each end, padded with 0.
        position: [P] int64, places of the P ends in the flattened [B, R].
        hour, weekday, week: [P] int64; gap_days: [P]; signals: [P, S]: the requests.
        auxiliary: [P] int64, one target of each position, a place in `item`.
        candidates: of the positions.
    """

    item: Tensor
    sequence: Tensor
    events: Events
    ends: Tensor
    position: Tensor
    hour: Tensor
    weekday: Tensor
    week: Tensor
    gap_days: Tensor
    signals: Tensor
    auxiliary: Tensor
    candidates: Candidates

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        moved: Batch = _to(self, device)
        return moved


def _to(value: Any, device: torch.device) -> Any:
    moved = {
        f.name: v.to(device) if isinstance(v := getattr(value, f.name), Tensor) else _to(v, device)
        for f in fields(value)
    }
    return type(value)(**moved)


@dataclass(frozen=True)
class _Window:
    """Events [start, stop) of a user and the session ends in it: `ends` [R] events before the end,
    relative to the start; `target` [R] ordinals of the sessions that follow."""

    user: int
    start: int
    stop: int
    ends: NDArray[np.int64]
    target: NDArray[np.int64]


class Batches:
    """Deterministic batches: step s of epoch e is the same whatever ran before it."""

    def __init__(self, past: Past, config: Config, rank: int = 0, world: int = 1) -> None:
        """rank, world: this process and the number of processes, which share every epoch."""
        self._past, self._config = past, config
        self._rank, self._world = rank, world
        self._sampler = CandidateSampler(past, config.train)
        self._promotions = past.dataset.promotions if config.model.promotions else None
        self._pages = page_negatives(past, config.train.page_negatives)
        trained = [u for u, starts in enumerate(past.session_start) if len(starts) > 2]
        if not trained:
            raise DataError("training: expected a user with two sessions before the cut, got none")
        self._users = np.array(trained)

    def steps(self) -> int:
        """Steps of one epoch and process: as many as the windows fill in the mean over phases."""
        model = self._config.model
        counts = np.array([self._past.session_start[u][-1] for u in self._users])
        phases = np.arange(max(model.window // model.hop, 1)) * model.hop
        left = np.maximum(counts[:, None] - phases, 0)  # behind the first window of the phase
        n_windows = -(-left // model.window) + (phases > 0)
        n = int(n_windows.mean(axis=1).sum())
        return max(n // (self._config.train.batch_size * self._world), 1)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from `first_step` on."""
        train = self._config.train
        rng = np.random.default_rng((train.seed, epoch))
        windows = self._windows(rng)
        order = rng.permutation(len(windows))
        size = train.batch_size * self._world
        if train.length_batches > 1:
            lengths = np.array([w.stop - w.start for w in windows])
            order = _by_length(order, lengths, size, train.length_batches, rng)
        for step in range(first_step, self.steps()):
            places = np.arange(step * size, (step + 1) * size) % len(windows)
            chosen = order[places][self._rank :: self._world]
            step_rng = np.random.default_rng((train.seed, epoch, step, self._rank))
            yield self.batch([windows[i] for i in chosen], step_rng)

    def _windows(self, rng: np.random.Generator) -> list[_Window]:
        """Windows that tile every history from a random phase.

        They start where serving's windows start, at multiples of the hop. An end may stand anywhere
        in its window; serving reads ends near the window's end, once a history is longer than one.
        """
        model = self._config.model
        phases = rng.integers(0, max(model.window // model.hop, 1), len(self._users)) * model.hop
        windows = []
        for user, phase in zip(self._users.tolist(), phases.tolist(), strict=True):
            n = int(self._past.session_start[user][-1])
            starts = [0, *range(phase or model.window, n, model.window)]
            for start, stop in zip(starts, [*starts[1:], n], strict=True):
                window = self._window(user, start, stop, rng)
                if len(window.ends):
                    windows.append(window)
        return windows

    def _window(self, user: int, start: int, stop: int, rng: np.random.Generator) -> _Window:
        """Events [start, stop) with at most `positions` of its session ends."""
        begins = self._past.session_start[user]
        follows = np.arange(len(begins) - 1)  # session s follows the end at its first event
        inside = follows[(begins[:-1] >= start) & (begins[:-1] <= stop)]
        if start:
            inside = inside[begins[inside] > start]  # at least one event
        wanted = 1 if self._config.model.pooling == "cls" else self._config.train.positions
        if len(inside) > wanted:
            inside = np.sort(rng.choice(inside, wanted, replace=False))
        ends = begins[inside] - start
        if self._config.model.pooling == "cls" and len(ends):
            stop = start + int(ends[0])
        return _Window(user, start, stop, ends, inside)

    def batch(self, windows: list[_Window], rng: np.random.Generator) -> Batch:
        """One step of these windows."""
        past = self._past
        at, valid = _gather_at(windows, past.offsets)
        n_ends = max(len(w.ends) for w in windows)
        ends = np.zeros((len(windows), n_ends), np.int64)
        position = []
        for b, w in enumerate(windows):
            ends[b, : len(w.ends)] = w.ends
            position.append(b * n_ends + np.arange(len(w.ends)))
        user = [w.user for w in windows for _ in w.ends]
        session = [int(s) for w in windows for s in w.target]
        request = self._request(user, session)
        states = self._states(user, session)
        following, general = self._targets(user, session, rng)
        pages = Pairs.of([self._pages.get(key, _NONE) for key in zip(user, session, strict=True)])
        bought = [state.item for state in states] or [_NOTHING] * len(user)
        drawn = self._sampler.draw(bought, following, general, pages, rng)
        n_states = len(states)
        features = repeat_features(
            states,
            past.statistics,
            request["time"][:n_states],
            self._beside(states, request["day"][:n_states]),
        )

        item, place = np.unique(
            np.concatenate([past.item[at][valid], drawn.item, drawn.shared]), return_inverse=True
        )
        sequence = np.zeros(at.shape, np.int64)
        in_events, in_own, in_shared = np.split(place, np.cumsum([valid.sum(), len(drawn.item)]))
        sequence[valid] = in_events
        return Batch(
            item=torch.from_numpy(item.astype(np.int64)),
            sequence=torch.from_numpy(sequence),
            events=self._events([w.user for w in windows], at),
            ends=torch.from_numpy(ends),
            position=torch.from_numpy(np.concatenate(position)),
            hour=torch.from_numpy(request["hour"]),
            weekday=torch.from_numpy(request["weekday"]),
            week=torch.from_numpy(request["week"]),
            gap_days=torch.from_numpy(request["gap_days"]),
            signals=torch.from_numpy(request["signals"]),
            auxiliary=torch.from_numpy(np.searchsorted(item, _one_each(following, rng))),
            candidates=_padded(drawn, features, in_own, in_shared),
        )

    def _events(self, users: list[int], at: NDArray[np.int64]) -> Events:
        """Fields of the events `at` [B, L], places in the flat arrays."""
        past = self._past
        fields_at = past.calendar.fields(past.time[at])
        features = UserFeatures(
            past.dataset.user_categorical[users], past.dataset.user_numeric[users]
        )
        arrays = {
            "event_type": past.type[at].astype(np.int64),
            "recency": past.recency[at],
            "signals": past.calendar.signals_on(fields_at["day"]),
            **fields_at,
            **features.inputs(),
        }
        return Events(**{name: torch.from_numpy(array) for name, array in arrays.items()})

    def _request(self, user: list[int], session: list[int]) -> dict[str, NDArray[Any]]:
        """The requests [P] that `session` answers: time is the start of the session."""
        past = self._past
        begin = np.array([past.session_start[u][s] for u, s in zip(user, session, strict=True)])
        at = past.offsets[user] + begin
        time = past.time[at]
        last = np.where(begin > 0, past.time[np.maximum(at - 1, 0)], time)
        fields = past.calendar.fields(time)
        return {
            "time": time,
            "signals": past.calendar.signals_on(fields["day"]),
            "gap_days": past.calendar.gap_days(time, last),
            **{name: fields[name] for name in ("hour", "weekday", "week", "day")},
        }

    def _targets(
        self, user: list[int], session: list[int], rng: np.random.Generator
    ) -> tuple[Pairs, Pairs]:
        """Distinct items of the next session, and of the following ones (for L_gen)."""
        train, most = self._config.train, self._config.train.target_candidates
        following = self._span(user, session, train.target_sessions, train.target_decay)
        general = self._span(user, session, train.gen_sessions)
        counts = [np.bincount(p.position, minlength=len(user)) for p in (following, general)]
        if max(int(count.max(initial=0)) for count in counts) <= most:
            return following, general
        kept: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
        firsts = [np.cumsum(count) - count for count in counts]
        for place in range(len(user)):  # the draws of a position stand together
            for first, count, rows in zip(firsts, counts, kept, strict=True):
                inside = np.arange(count[place])
                if count[place] > most:
                    inside = rng.choice(inside, most, replace=False)
                rows.append(first[place] + inside)
        of_next, of_general = (
            pairs.rows(np.concatenate(rows))
            for pairs, rows in zip((following, general), kept, strict=True)
        )
        return of_next, of_general

    def _span(
        self, user: list[int], session: list[int], sessions: int, decay: float = 1.0
    ) -> Pairs:
        """Distinct items of the `sessions` sessions that follow each position; an item's weight
        fades by `decay` with every session before its first."""
        past, n_items = self._past, len(self._past.dataset.item_ids)
        begins = [past.session_start[u] for u in user]
        start = np.array([b[s] for b, s in zip(begins, session, strict=True)])
        last = [min(s + sessions, len(b) - 1) for b, s in zip(begins, session, strict=True)]
        count = np.array([b[n] for b, n in zip(begins, last, strict=True)]) - start
        position = np.repeat(np.arange(len(user)), count)
        inside = np.arange(len(position)) - np.repeat(np.cumsum(count) - count, count)
        item = past.item[np.repeat(past.offsets[user] + start, count) + inside]
        key, first = np.unique(position * n_items + item, return_index=True)
        position = key // n_items
        if sessions == 1:
            return Pairs(position, key % n_items)
        ordinal = past.session[np.repeat(past.offsets[user] + start, count) + inside]
        ahead = (ordinal - np.repeat(np.array(session), count))[first]
        weight = decay**ahead
        weight /= np.bincount(position, weight)[position]
        return Pairs(position, key % n_items, weight.astype(np.float32))

    def _states(self, user: list[int], session: list[int]) -> list[RepeatState]:
        """Repeat items before each session; none at all where no candidate comes of them."""
        if not self._config.train.history_candidates:
            return []
        return [self._state(u, s) for u, s in zip(user, session, strict=True)]

    def _beside(self, states: list[RepeatState], days: NDArray[np.int64]) -> NDArray[np.float32]:
        """What is known of the states' items on the days of their requests: sales, promotions."""
        items = np.concatenate([_NOTHING, *(state.item for state in states)])
        days = np.repeat(days, [len(state.item) for state in states])
        sold = self._past.sales.recent(items, days)
        if self._promotions is None:
            return sold
        return np.concatenate([sold, self._promotions.at(items, days)], axis=1)

    def _state(self, user: int, session: int) -> RepeatState:
        """Repeat items before `session`."""
        begin = int(self._past.session_start[user][session])
        last = int(self._past.time[self._past.offsets[user] + begin - 1]) if begin else 0
        return self._past.repeats[user].after(session - 1, last)


def _by_length(
    order: NDArray[np.int64],
    lengths: NDArray[np.int64],
    size: int,
    together: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The shuffled `order`, sorted by length within every `together` batches of `size`; the batches
    are shuffled again, so that no step says how long its windows are."""
    n_batches = len(order) // size
    batches = order[: n_batches * size]
    parts = [batches[i : i + together * size] for i in range(0, len(batches), together * size)]
    ordered = [part[np.argsort(lengths[part], kind="stable")] for part in parts]
    shuffled = np.concatenate([_NONE, *ordered]).reshape(n_batches, size)
    whole: NDArray[np.int64] = np.append(rng.permutation(shuffled), order[n_batches * size :])
    return whole


def _gather_at(
    windows: list[_Window], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Places [B, L] of the windows' events in the flat arrays, and which of them are real."""
    lengths = np.array([w.stop - w.start for w in windows])
    step = np.arange(max(int(lengths.max()), 1))
    valid = step < lengths[:, None]
    first = np.array([offsets[w.user] + w.start for w in windows])
    return np.where(valid, first[:, None] + step, 0), valid


def _one_each(pairs: Pairs, rng: np.random.Generator) -> NDArray[np.int64]:
    """One item [P] of each position; any, since the first would be the one with the lowest id."""
    counts = np.bincount(pairs.position)
    chosen = np.cumsum(counts) - counts + (rng.random(len(counts)) * counts).astype(np.int64)
    items: NDArray[np.int64] = pairs.item[chosen]
    return items


def _padded(
    drawn: Drawn,
    features: NDArray[np.float32],
    place: NDArray[np.int64],
    shared_place: NDArray[np.int64],
) -> Candidates:
    """[P, C] tensors; `place` [n] and `shared_place` [S] are the items' places in the batch."""
    counts = np.bincount(drawn.position)
    column = np.arange(len(drawn.position)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(counts), int(counts.max()))

    def pad(values: NDArray[np.generic], empty: float) -> Tensor:
        out = np.full(shape, empty, values.dtype)
        out[drawn.position, column] = values
        return torch.from_numpy(out)

    bought = drawn.history >= 0
    return Candidates(
        shared=torch.from_numpy(shared_place),
        shared_log_pi=torch.from_numpy(drawn.shared_log_pi),
        own=pad(place, -1),
        log_pi=pad(drawn.log_pi, 0),
        negative=pad(drawn.negative, 0),
        weight_next=pad(drawn.weight_next, 0),
        weight_general=pad(drawn.weight_general, 0),
        bought=torch.from_numpy((drawn.position * shape[1] + column)[bought]),
        features=torch.from_numpy(features[drawn.history[bought]]),
    )
