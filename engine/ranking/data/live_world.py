"""Who watches, who streams what on a simulated platform, and what comes of showing one the other.

Tastes and contents are vectors in four blocks. Each objective weighs the blocks its own way, and
some against each other: what draws a click may shorten the stay.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, ndtr

from ..auc import F64, Ids
from ..config import LiveConfig
from .live_text import Meaning, Words, draw_words, meanings, told, with_subjects

OBJECTIVES = ("click", "watch", "comment", "like", "gift")
_BLOCK = 4  # coordinates of each of the four blocks
_MIX = np.array(  # [blocks, M]: how a fit in each block moves each objective's logit
    [
        [1.0, 0.6, 0.2, 0.6, 0.0],
        [0.6, -0.7, 0.3, 0.5, -0.6],
        [0.0, 0.5, 1.0, -0.5, 0.5],
        [-0.3, 0.5, 0.0, 0.3, 1.1],
    ]
)
_LEANING = np.array([0.4, 0.4, 1.0, 1.0, 1.2])  # deviation over users
_CHARM = np.array([0.4, 0.3, 0.4, 0.4, 0.6])  # deviation over streamers of what ids alone tell
_APPEAL = np.array([0.4, 0.4, 0.4, 0.4, 0.6])  # deviation over contents for everyone
STAY_SPREAD = 1.2  # deviation of the log of the seconds watched
HABIT = np.array([0.25, 0.2, 0.4, 0.6, 0.8, 0.9, 1.4, 1.2])  # of a day's eighths, evenings busiest


@dataclass(frozen=True)
class People:
    """Users; `group` is an audience of live_text's, which age and gender tell."""

    taste: F64  # [U, D]
    leaning: F64  # [U, M]
    group: Ids  # [U]
    activity: F64  # [U] mean 1


@dataclass(frozen=True)
class Rooms:
    """Streams: a room each, its content's number before and after `drift_ms`."""

    streamer: Ids  # [R]
    start_ms: Ids  # [R] unix, ascending
    end_ms: Ids  # [R]
    content: Ids  # [R]
    drift_ms: Ids  # [R] from when content + 1 holds; end_ms where it does not


@dataclass(frozen=True)
class World:
    """Everything that stays while users come and go."""

    people: People
    popularity: F64  # [S] mean 1
    charm: F64  # [S, M]
    rooms: Rooms
    words: Words  # [C] contents, in order of streamer and time
    content: F64  # [C, D]
    since_ms: Ids  # [C] from when the content holds
    author: Ids  # [C] its streamer
    appeal: F64  # [D, M]
    affinity: float

    def at(self, room: Ids, time_ms: Ids) -> Ids:
        """Content of rooms at times."""
        later: Ids = self.rooms.content[room] + (time_ms >= self.rooms.drift_ms[room])
        return later

    def fit(self, user: Ids, room: Ids, time_ms: Ids) -> F64:
        """[n, M] logits but for a constant each: of a click, and of the rest after a click.

        That of `watch` is the log of the seconds over STAY_SPREAD instead.
        """
        content = self.content[self.at(room, time_ms)]
        product = (self.people.taste[user] * content).reshape(len(user), len(_MIX), _BLOCK).sum(2)
        streamer = self.rooms.streamer[room]
        found: F64 = (
            self.affinity * product / _BLOCK**0.5 @ _MIX
            + content @ self.appeal
            + self.people.leaning[user]
            + self.charm[streamer]
        )
        return found


def make_world(config: LiveConfig, seed: int) -> World:
    """A world of its own for each seed."""
    rng = np.random.default_rng([seed, 0])
    dim = _BLOCK * len(_MIX)
    meaning = meanings(dim, rng)
    people = _people(config, meaning, dim, rng)
    rooms, drifts = _rooms(config, rng)
    words, since, author = _contents(config, rooms, drifts, rng)
    own = rng.normal(size=(config.streamers, dim))[author]
    content = config.told**0.5 * told(words, meaning) + (1 - config.told) ** 0.5 * own
    luck = rng.normal(size=config.streamers)
    charm = _CHARM * rng.normal(size=(config.streamers, len(OBJECTIVES)))
    popularity = np.exp(config.tail * luck + charm[:, 0])
    appeal = _APPEAL * rng.normal(size=(dim, len(OBJECTIVES))) / dim**0.5
    return World(
        people, popularity / popularity.mean(), charm, rooms, words, content, since, author,
        appeal, config.affinity,
    )  # fmt: skip


def constant(fit: F64, rate: float) -> float:
    """What to add to logits [n] for a mean probability of `rate`."""
    return float(brentq(lambda b: expit(fit + b).mean() - rate, -30, 30))


def stay_constant(fit: F64, rate: float, watch_s: int) -> float:
    """What to add to log seconds over STAY_SPREAD for a share of `rate` of effective watches."""
    least = np.log(watch_s) / STAY_SPREAD
    return float(brentq(lambda b: ndtr(fit + b - least).mean() - rate, -30, 30))


def probabilities(fit: F64, constants: F64, watch_s: int) -> F64:
    """[n, M] true probability of each label: nothing happens without a click."""
    logit = fit + constants
    found: F64 = expit(logit)
    found[:, 1] = ndtr(logit[:, 1] - np.log(watch_s) / STAY_SPREAD)
    found[:, 1:] *= found[:, :1]
    return found


def _people(config: LiveConfig, meaning: Meaning, dim: int, rng: np.random.Generator) -> People:
    """Users like what is made for their group, and things of their own."""
    group = rng.integers(0, len(meaning.word["audience"]), config.users)
    taste = 0.6 * meaning.word["audience"][group] + 0.8 * rng.normal(size=(config.users, dim))
    leaning = _LEANING * rng.normal(size=(config.users, len(OBJECTIVES)))
    activity = rng.gamma(1.5, 1 / 1.5, config.users)
    return People(taste, leaning, group, activity / activity.mean())


def _rooms(config: LiveConfig, rng: np.random.Generator) -> tuple[Rooms, NDArray[np.bool_]]:
    """Streams from a day before the log on, by each streamer's habit; and which of them drift."""
    n, days = config.streamers, config.days + 1
    debut = np.where(rng.random(n) < config.new_streamers, rng.integers(1, days, n), 0)
    open_ = np.arange(days) >= debut[:, None]  # [S, days]
    rate = rng.gamma(2.0, 0.5, n)[:, None] * open_
    streams = rng.poisson(rate * (config.rooms_per_streamer_day * rate.size / rate.sum()))
    streamer = np.repeat(np.arange(n), streams.sum(1))
    day = np.repeat(np.tile(np.arange(days), n), streams.ravel())
    habit = 3 * rng.choice(len(HABIT), n, p=HABIT / HABIT.sum()) + 3 * rng.random(n)
    hour = 24 * day + (habit[streamer] + rng.normal(size=len(day)) * 2) % 24
    length = np.clip(rng.lognormal(np.log(1.2), 0.7, len(day)), 0.25, 10)
    order = np.lexsort((hour, streamer))
    streamer, hour, length = streamer[order], hour[order], length[order]
    # One stream at a time: the next one ends it.
    following = np.r_[np.where(np.diff(streamer) == 0, hour[1:], np.inf), np.inf]
    end = np.minimum(hour + length, following)
    drifts = rng.random(len(day)) < config.drift
    part = rng.uniform(0.1, 0.9, len(day))
    first_ms = (config.start_s - 86_400) * 1000
    start_ms, end_ms, middle_ms = (
        first_ms + (3_600_000 * h).astype(np.int64) for h in (hour, end, hour + part * (end - hour))
    )
    # A content a streamer, one more with each drift.
    content = streamer + np.cumsum(drifts) - drifts
    drift_ms = np.where(drifts, middle_ms, end_ms)
    by_time = np.argsort(start_ms, kind="stable")
    columns = (x[by_time] for x in (streamer, start_ms, end_ms, content, drift_ms))
    return Rooms(*columns), drifts[by_time]


def _contents(
    config: LiveConfig, rooms: Rooms, drifts: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Words, Ids, Ids]:
    """Words, beginning [ms] and streamer of each content: a drift changes some of the words."""
    begins = np.full(config.streamers + int(drifts.sum()), (config.start_s - 86_400) * 1000)
    later = rooms.content[drifts] + 1
    begins[later] = rooms.drift_ms[drifts]
    first = np.ones(len(begins), bool)
    first[later] = False
    author = np.cumsum(first) - 1
    fresh = draw_words(len(begins), rng)
    changes = {"theme": 0.1, "audience": 0.1, "place": 0.3, "scene": 0.4, "format": 0.5}
    words = {}
    for part, values in fresh.items():
        changed = first | (rng.random(len(begins)) < changes.get(part, 0.6))
        held = np.maximum.accumulate(np.where(changed, np.arange(len(begins)), 0))
        words[part] = values[held]
    return with_subjects(words), begins, author
