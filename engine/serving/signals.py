"""External signals from a feature source: what the shop knows now that no calendar knew beforehand.

A source holds numbers by place and name, raw as the training data had them:

    {"": {"holiday": 0}, "berlin": {"temperature": 4.5, "rain": 1}}

"" is everywhere; a place adds to it and wins. A file holds this as JSON and is replaced by a
rename; Redis holds a hash a place, under `stars:signals:<place>` unless the URL has another
`prefix` (engine/store/redis.py has its parameters).
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from engine.errors import BackendUnavailable, ConfigError, SignalError

REFRESH_S = 1.0  # how long Redis's answer counts
PREFIX = "stars:signals:"


class SignalSource(Protocol):
    """Where signals come from."""

    def at(self, place: str) -> Mapping[str, float]:
        """Raw values at a place by name; of what is not known nothing.

        Raises:
            SignalError: the source does not answer, or with what are no numbers.
        """


def open_signals(url: str, names: Sequence[str]) -> SignalSource:
    """The source at a file's path or a Redis URL.

    Args:
        names: of the signals that the model knows; a source with another name is refused.
    Raises:
        ConfigError: no such address, or no Redis URL.
        BackendUnavailable: the package redis is not there.
        SignalError: what lies there are no signals.
    """
    scheme = urlsplit(url).scheme
    if scheme in ("redis", "rediss"):
        return RedisSignals(url, names)
    if scheme in ("", "file"):
        return FileSignals(Path(urlsplit(url).path), names)
    raise ConfigError(f"signals: expected a file, redis:// or rediss://, got {url!r}")


class FileSignals:
    """A JSON file, read again when it changes."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        """Raises SignalError as `at` does."""
        self._path, self._names = path, names
        self._stamp: tuple[int, int] | None = None
        self._places: dict[str, dict[str, float]] = {}
        self._read()

    def at(self, place: str) -> Mapping[str, float]:
        """See SignalSource. A file that was broken keeps being an error until it is mended."""
        self._read()
        return self._places.get("", {}) | self._places.get(place, {})

    def _read(self) -> None:
        try:
            status = os.stat(self._path)
            stamp = (status.st_ino, status.st_mtime_ns)
            if stamp == self._stamp:
                return
            places = json.loads(self._path.read_bytes())
        except (OSError, ValueError) as error:
            raise SignalError(f"signals: {self._path}: expected JSON, got {error}") from error
        if not isinstance(places, dict):
            raise SignalError(f"signals: {self._path}: expected an object, got {places!r:.80}")
        self._places = {
            place: _numbers(f"{self._path}: {place!r}", values, self._names)
            for place, values in places.items()
        }
        self._stamp = stamp


class RedisSignals:
    """Hashes in Redis; an answer counts for a second, so that requests seldom wait for one."""

    def __init__(self, url: str, names: Sequence[str]) -> None:
        if find_spec("redis") is None:
            raise BackendUnavailable(
                "signals: expected the package redis, got none; install it with `pip install redis`"
            )
        from redis import RedisError

        from engine.store.redis import Address, reader

        self._failures = RedisError
        self._address = Address(url, "signals", PREFIX.removesuffix(":"))
        self._client: Any = reader(self._address)
        self._names, self._name = names, self._address.name.partition("://")[2]
        self._known: dict[str, tuple[float, dict[str, float] | SignalError]] = {}

    def at(self, place: str) -> Mapping[str, float]:
        """See SignalSource. A failure counts for a second too."""
        now = time.monotonic()
        until, known = self._known.get(place, (0.0, {}))
        if now >= until:
            try:
                known = self._ask(place)
            except SignalError as error:
                known = error
            self._known[place] = (time.monotonic() + REFRESH_S, known)
        if isinstance(known, SignalError):
            raise known
        return known

    def _ask(self, place: str) -> dict[str, float]:
        places = dict.fromkeys(("", place))
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for each in places:
                    pipe.hgetall(self._address.key(each))
                hashes = pipe.execute()
        except self._failures as error:
            raise SignalError(f"signals: redis {self._name}: {error}") from error
        found: dict[str, float] = {}
        for each, values in zip(places, hashes, strict=True):
            texts = {name.decode(errors="replace"): value for name, value in values.items()}
            where = f"redis {self._name}: {self._address.key(each)}"
            found |= _numbers(where, texts, self._names)
        return found


def _numbers(where: str, values: Any, names: Sequence[str]) -> dict[str, float]:
    """Finite numbers of known names; texts of numbers too, as Redis has no others."""
    if not isinstance(values, dict):
        raise SignalError(f"signals: {where}: expected an object, got {values!r:.80}")
    found = {}
    for name, value in values.items():
        if name not in names:
            known = ", ".join(names) or "none"
            raise SignalError(f"signals: {where}: expected signals of {known}, got {name!r}")
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or isinstance(value, bool):
            raise SignalError(f"signals: {where}: {name}: expected a finite number, got {value!r}")
        found[name] = number
    return found
