"""Sessions of users through the rooms on air: what was shown when, what was clicked, how long."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from ..auc import F64, Ids
from ..config import LiveConfig
from .live_world import HABIT, STAY_SPREAD, World

_SLOT_MS = 300_000
_EIGHTH_MS = 3 * 3_600_000
_LATEST_MS = 45 * 60_000  # a session begins so far into its eighth of a day,
_LONGEST_MS = 75 * 60_000  # and shows nothing new so long after its beginning
STAY_MS = 1_500_000  # the longest stay: below the pause that ends a request


@dataclass(frozen=True)
class OnAir:
    """Rooms on air in every slot of five minutes, with running sums of their popularity."""

    first: Ids  # [slots + 1] places in the two below
    room: Ids
    total: F64  # [len(room) + 1]
    start_ms: int

    def draw(self, time_ms: Ids, n: int, rng: np.random.Generator) -> Ids:
        """[len(time_ms), n] rooms by popularity, with repeats; -1 where none is on air."""
        slot = (time_ms - self.start_ms) // _SLOT_MS
        low, high = self.first[slot], self.first[slot + 1]
        reach = (self.total[high] - self.total[low])[:, None]
        point = self.total[low][:, None] + rng.random((len(slot), n)) * reach
        place = np.searchsorted(self.total, point, "right") - 1
        place = np.clip(place, low[:, None], np.maximum(high - 1, low)[:, None])
        padded = np.append(self.room, -1)
        return np.where((high > low)[:, None], padded[place], -1)

    def all(self, time_ms: int) -> Ids:
        """Rooms on air, ascending."""
        slot = (time_ms - self.start_ms) // _SLOT_MS
        return np.sort(self.room[self.first[slot] : self.first[slot + 1]])


@dataclass(frozen=True)
class Sessions:
    """Visits in order of user and time."""

    user: Ids  # [V]
    start_ms: Ids  # [V]
    length: Ids  # [V] impressions, if all goes well


@dataclass(frozen=True)
class Shown:
    """Impressions in the order of their step, and within it of their session."""

    session: Ids
    user: Ids
    room: Ids
    time_ms: Ids
    click: NDArray[np.bool_]
    watch_ms: Ids  # 0 without a click
    fit: F64  # [n, M] as of World.fit


def on_air(config: LiveConfig, world: World) -> OnAir:
    """A room is on air in a slot if it is so in all of it, and an effective watch longer."""
    start_ms = config.start_s * 1000
    slots = (config.days + 1) * 86_400_000 // _SLOT_MS
    rooms = world.rooms
    begin = np.maximum(-(-(rooms.start_ms - start_ms) // _SLOT_MS), 0)
    end = np.minimum((rooms.end_ms - config.watch_s * 1000 - start_ms) // _SLOT_MS, slots)
    count = np.maximum(end - begin, 0)
    room = np.repeat(np.arange(len(begin)), count)
    slot = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + begin[room]
    order = np.argsort(slot, kind="stable")
    first = np.searchsorted(slot[order], np.arange(slots + 1))
    weight = world.popularity[rooms.streamer[room[order]]]
    return OnAir(first, room[order], np.r_[0.0, np.cumsum(weight)], start_ms)


def draw_sessions(
    config: LiveConfig, world: World, per_day: float, rng: np.random.Generator
) -> Sessions:
    """At most one in each eighth of a day, `per_day` a user in the mean."""
    wish = world.people.activity[:, None] * np.tile(HABIT, config.days)
    target = per_day * config.users * config.days
    scale = brentq(lambda x: np.minimum(x * wish, 0.95).sum() - target, 0, 1e6)
    user, eighth = np.nonzero(rng.random(wish.shape) < np.minimum(scale * wish, 0.95))
    start = config.start_s * 1000 + eighth * _EIGHTH_MS + rng.integers(0, _LATEST_MS, len(user))
    length = np.minimum(rng.geometric(1 / config.session_length, len(user)), 40)
    return Sessions(user, start, length)


def walk(
    config: LiveConfig,
    world: World,
    air: OnAir,
    sessions: Sessions,
    constants: F64,
    rng: np.random.Generator,
) -> Shown:
    """Step by step, all sessions at once; one ends when nothing new is on air."""
    now = sessions.start_ms.copy()
    alive = np.ones(len(now), bool)
    before = np.full((len(now), int(sessions.length.max())), -1)
    steps = []
    for step in range(before.shape[1]):
        alive &= (sessions.length > step) & (now - sessions.start_ms < _LONGEST_MS)
        v = np.flatnonzero(alive)
        offered = air.draw(now[v], config.candidates, rng)
        new = (offered[:, :, None] != before[v, None, :step]).all(2) & (offered >= 0)
        alive[v] = kept = new.any(1)
        v, offered, new = v[kept], offered[kept], new[kept]
        if not len(v):
            break
        user = sessions.user[v]
        fit = world.fit(
            np.repeat(user, config.candidates),
            offered.ravel(),
            np.repeat(now[v], config.candidates),
        ).reshape(*offered.shape, len(constants))
        merit = config.personalisation * fit[:, :, 0] + rng.gumbel(size=offered.shape)
        pick = np.where(new, merit, -np.inf).argmax(1)
        at = np.arange(len(v))
        room, fit = offered[at, pick], fit[at, pick]
        before[v, step] = room
        click = rng.random(len(v)) < expit(fit[:, 0] + constants[0])
        stay = np.exp(STAY_SPREAD * (fit[:, 1] + constants[1] + rng.normal(size=len(v))))
        left = np.minimum(world.rooms.end_ms[room] - now[v], STAY_MS)
        watch = np.where(click, np.minimum((1000 * stay).astype(np.int64), left), 0)
        steps.append(Shown(v, user, room, now[v], click, watch, fit))
        now[v] += watch + rng.integers(2000, 20_000, len(v))
    names = Shown.__dataclass_fields__
    return Shown(**{name: np.concatenate([getattr(one, name) for one in steps]) for name in names})
