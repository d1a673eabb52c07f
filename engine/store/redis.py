"""Users in Redis, for several machines.

    PREFIX:published    what is served, as in the embedded store
    PREFIX:staging      the version of a refresh at work
    PREFIX:ID:u:USER    the encoded record of one user
    PREFIX:ID:part:N    keys of the users of one part: there once all their records are

A batch is one round trip: what is served, and the records of the version that was served last; only
at a switch a second one follows. An answer that does not come in time is an error, never waited for
again before a pause.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry

from engine.errors import ConfigError, StoreDown, StoreError

from .codec import Shape, decode, user_key
from .folder import has_expired
from .users import ERRORS, UserRecord
from .versions import Published, Version, served_version

TIMEOUT_MS = 100  # of a reader, unless the URL says otherwise
PAUSE_S = 1.0  # how long a reader leaves a store alone that did not answer
_WRITE_TIMEOUT_S, _WRITE_RETRIES = 10.0, 3
_AT_ONCE = 256  # records in one message of a writer


class Address:
    """A Redis URL, with `prefix` and `timeout_ms` among its query parameters.

    Args:
        url: redis://[user:password@]host[:port][/database][?prefix=NAME&timeout_ms=N], or rediss.
        what: lies there, for what is said.
        prefix: of the keys, unless the URL has another.
    Raises:
        ConfigError: a timeout that is no positive number.
    """

    def __init__(self, url: str, what: str = "users", prefix: str = "stars:users") -> None:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        self.prefix = query.pop("prefix", prefix)
        timeout = query.pop("timeout_ms", str(TIMEOUT_MS))
        if not timeout.isdigit() or int(timeout) < 1:
            raise ConfigError(f"{what}: timeout_ms: expected milliseconds, got {timeout!r}")
        self.what, self.timeout_s = what, int(timeout) / 1000
        self.url = urlunsplit(parts._replace(query=urlencode(query)))
        # Without user and password: it goes into errors and logs.
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def key(self, *parts: str) -> str:
        """A key of this store."""
        return ":".join((self.prefix, *parts))

    def user(self, version: Version, user: bytes) -> bytes:
        """The key of a user's record."""
        return self.key(version.id, "u:").encode() + user


class RedisUserStore:
    """UserStore over what a Redis publishes; follows it from batch to batch.

    Args:
        url: see `Address`.
        model: `Bundle.model_id`; versions of another model are never read.
        shape: what the model expects of each record.
    Raises:
        ConfigError: the URL is none.
        StoreError: it answers, but publishes nothing, or users of another model. A store that does
            not answer is no error yet: it may do so when it is asked.
    """

    def __init__(self, url: str, model: str, shape: Shape) -> None:
        self.version: Version | None = None
        self.errors: Counter[str] = Counter(dict.fromkeys(ERRORS, 0))
        self._address, self._model, self._shape = Address(url), model, shape
        self._raw: bytes | None = None
        self._again_at, self._reason = 0.0, ""
        self._client: Any = reader(self._address)
        try:
            raw, _ = self._ask(())
        except StoreDown:
            return
        self._follow(raw)

    def __len__(self) -> int:
        return 0 if self.version is None else self.version.users

    def get_many(self, user_ids: Sequence[str]) -> list[UserRecord | None]:
        """Records in the order of `user_ids`, all of one version; None for an unknown user.

        Raises:
            StoreDown: no answer in time, now or less than a second ago.
            StoreError: nothing that this model can serve is published.
        """
        keys = [user_key(user_id) for user_id in user_ids]
        raw, values = self._ask(keys)
        if raw != self._raw:
            try:
                self._follow(raw)
            except StoreError:
                self.errors["version"] += 1
                if self.version is None or raw is None:
                    raise  # nothing is there, or nothing is left
                # What was served last is still right, and `values` are of it.
            else:
                _, values = self._ask(keys)
        if has_expired(self.version):
            self.errors["expired"] += len(user_ids)
            return [None] * len(user_ids)
        return [self._decode(u, value) for u, value in zip(user_ids, values, strict=True)]

    def _ask(self, keys: Sequence[bytes]) -> tuple[bytes | None, list[bytes | None]]:
        """What is published, and the records of the version that was served last."""
        if time.monotonic() < self._again_at:
            self.errors["down"] += 1
            raise StoreDown(self._reason)
        pipe = self._client.pipeline(transaction=False)
        pipe.get(self._address.key("published"))
        if self.version is not None and keys:
            pipe.mget([self._address.user(self.version, key) for key in keys])
        try:
            raw, *values = pipe.execute()
        except (redis.RedisError, OSError) as error:
            self.errors["down"] += 1
            self._again_at = time.monotonic() + PAUSE_S
            self._reason = (
                f"users {self._address.name}: expected an answer within "
                f"{self._address.timeout_s * 1000:g} ms, got {error}"
            )
            raise StoreDown(self._reason) from error
        return raw, values[0] if values else [None] * len(keys)

    def _follow(self, raw: bytes | None) -> None:
        self.version = served_version(raw, self._model, self._address.name)
        self._raw = raw

    def _decode(self, user_id: str, value: bytes | None) -> UserRecord | None:
        if value is None:
            return None
        try:
            return decode(user_id, value, self._shape)
        except ValueError:
            self.errors["record"] += 1
            return None


class RedisPublisher:
    """UserPublisher of a Redis. Give it memory for two versions, and no eviction."""

    def __init__(self, url: str) -> None:
        self._address, self.url = Address(url), url
        self.name = self._address.name
        retry = Retry(ExponentialBackoff(cap=2, base=0.1), _WRITE_RETRIES)
        self._client: Any = _client(self._address, _WRITE_TIMEOUT_S, retry)

    def published(self) -> Published:
        """What is served, nothing in a new store. Raises StoreDown where it does not answer."""
        with self._answering():
            raw = self._client.get(self._address.key("published"))
        return Published.parse(raw, self.name)

    def begin(self, version: Version) -> Version:
        """Takes up an unfinished version of the same key, or begins this one; drops any other.

        Two refreshes of one store at a time spoil each other: the later one drops the parts of the
        earlier, which then refuses to publish.
        """
        with self._answering():
            raw = self._client.get(self._address.key("staging"))
            if raw is not None:
                unfinished = Version.model_validate_json(raw)
                if unfinished.key == version.key:
                    return unfinished
                self._drop(unfinished)
            self._client.set(self._address.key("staging"), version.model_dump_json())
        return version

    def parts(self, version: Version) -> set[int]:
        """Parts that are complete."""
        with self._answering():
            pipe = self._client.pipeline(transaction=False)
            for part in range(version.parts):
                pipe.exists(self._part(version, part))
            return {part for part, found in enumerate(pipe.execute()) if found}

    def write(self, version: Version, part: int, records: list[tuple[bytes, bytes]]) -> None:
        """Stores one part: its records, then their keys, which make it count."""
        keys = [self._address.user(version, user) for user, _ in records]
        name = self._part(version, part)
        with self._answering():
            for start in range(0, len(keys), _AT_ONCE):
                pipe = self._client.pipeline(transaction=False)
                for place in range(start, min(start + _AT_ONCE, len(keys))):
                    pipe.set(keys[place], records[place][1], exat=version.expires)
                pipe.execute()
            pipe = self._client.pipeline(transaction=True)
            pipe.delete(name)  # of a try that was cut off
            pipe.rpush(name, *keys)
            if version.expires is not None:
                pipe.expireat(name, version.expires)
            pipe.execute()

    def finish(self, version: Version) -> None:
        """Raises StoreError where a part is missing."""
        missing = set(range(version.parts)) - self.parts(version)
        if missing:
            raise StoreError(
                f"users {self.name}: expected {version.parts} parts of {version.id}, "
                f"got none of {min(missing)}"
            )

    def swap(self, before: Published, after: Published) -> None:
        """Replaces what is published in one transaction; StoreError where it is not `before`."""
        name = self._address.key("published")
        with self._answering(), self._client.pipeline() as pipe:
            pipe.watch(name)
            if Published.parse(pipe.get(name), self.name) != before:
                raise StoreError(f"users {self.name}: expected nobody else to publish meanwhile")
            pipe.multi()
            pipe.set(name, after.to_json())
            try:
                pipe.execute()
            except redis.WatchError:
                raise StoreError(
                    f"users {self.name}: expected nobody else to publish meanwhile"
                ) from None

    def clean(self, published: Published) -> None:
        """Deletes retired versions, and the note of a refresh that is published."""
        with self._answering():
            for version in published.retired:
                self._drop(version)
            raw = self._client.get(self._address.key("staging"))
            done = {version.id for version in published.versions}
            if raw is not None and Version.model_validate_json(raw).id in done:
                self._client.delete(self._address.key("staging"))

    def _drop(self, version: Version) -> None:
        for part in range(version.parts):
            name = self._part(version, part)
            keys = self._client.lrange(name, 0, -1)
            for start in range(0, len(keys), _AT_ONCE):
                self._client.unlink(*keys[start : start + _AT_ONCE])
            self._client.unlink(name)

    def _part(self, version: Version, part: int) -> str:
        return self._address.key(version.id, "part", str(part))

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise StoreDown(f"users {self.name}: expected an answer, got {error}") from error


def reader(address: Address) -> Any:
    """A client that never waits long. Raises ConfigError for what is no Redis URL."""
    # A connection that was closed meanwhile is opened anew; a silent one is not asked again.
    retry = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    return _client(address, address.timeout_s, retry)


def _client(address: Address, timeout_s: float, retry: Retry) -> Any:
    try:
        client = redis.Redis.from_url(
            address.url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=retry,
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # an unknown option raises now, not later
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{address.what} {address.name}: expected a Redis URL, got {error}"
        ) from error
    return client
