"""Publishing, following and going back: the same for a folder and for Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BackendUnavailable, ConfigError, StoreError
from engine.store import address, folder, redis
from engine.store.address import open_publisher
from engine.store.codec import encode, user_key
from engine.store.folder import FolderUserStore
from engine.store.redis import RedisUserStore
from engine.store.users import UserStore
from engine.store.versions import Published, UserPublisher, Version, publish, rollback
from tests.store.people import IDS, SHAPE, assert_same, people

MODEL = "a" * 64


@pytest.fixture(params=["folder", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "store")
    return str(request.getfixturevalue("redis_server").url)


def reader(url: str, model: str = MODEL) -> UserStore:
    if url.startswith("redis"):
        return RedisUserStore(url, model, SHAPE)
    return FolderUserStore(Path(url), model, SHAPE)


def version(number: int, **changes: Any) -> Version:
    fields: dict[str, Any] = {
        "id": f"v{number}", "key": f"key{number}", "model": MODEL, "cut": number, "published": 7,
        "expires": None, "users": len(IDS), "parts": 2,
    }  # fmt: skip
    return Version(**fields | changes)


def write(store: UserPublisher, made: Version, part: int, seed: int) -> None:
    chosen = people(seed)[:4] if part == 0 else people(seed)[4:]
    store.write(made, part, [(user_key(p.user_id), encode(p)) for p in chosen])


def put(url: str, number: int, keep: int = 2, **changes: Any) -> Version:
    """Publishes `people(number)`."""
    store = open_publisher(url)
    made = store.begin(version(number, **changes))
    for part in (1, 0):
        write(store, made, part, number)
    assert store.parts(made) == {0, 1}
    store.finish(made)
    publish(store, made, keep)
    return made


def serves(store: UserStore, number: int) -> None:
    for got, expected in zip(store.get_many(IDS), people(number), strict=True):
        assert_same(got, expected)
    assert store.version is not None
    assert store.version.id == f"v{number}"


def test_readers_follow_what_is_published(url: str) -> None:
    put(url, 1)
    store = reader(url)
    serves(store, 1)
    assert len(store) == len(IDS)
    put(url, 2)
    serves(store, 2)
    assert rollback(open_publisher(url)).id == "v1"
    serves(store, 1)
    put(url, 3)
    serves(store, 3)
    serves(reader(url), 3)
    assert store.get_many(["nobody", "", "a"])[:2] == [None, None]
    assert store.get_many([]) == []
    assert not any(store.errors.values())


def test_the_last_versions_are_kept_and_the_others_freed(url: str, request: Any) -> None:
    for number in (1, 2, 3, 4):
        put(url, number, keep=2)
    publisher = open_publisher(url)
    assert [v.id for v in publisher.published().versions] == ["v4", "v3"]
    assert publisher.published().retired == ()
    rollback(publisher)
    assert [v.id for v in publisher.published().retired] == ["v4"]
    put(url, 5)
    if url.startswith("redis"):
        keys = request.getfixturevalue("redis_server").client().keys()
        ids = {key.decode().split(":")[2] for key in keys} - {"published"}
        assert len(keys) == 1 + 2 * (len(IDS) + 2)
    else:
        ids = {path.name for path in (Path(url) / "versions").iterdir()}
        assert list((Path(url) / "staging").iterdir()) == []
    assert ids == {"v3", "v5"}


def test_an_unfinished_version_goes_on_under_its_own_name(url: str) -> None:
    first = open_publisher(url)
    made = first.begin(version(1))
    write(first, made, 1, 1)
    del first
    again = open_publisher(url)
    assert again.begin(version(1, id="later", published=99)) == made
    assert again.parts(made) == {1}
    with pytest.raises(StoreError, match="expected 2 parts of v1, got none of 0"):
        again.finish(made)
    write(again, made, 0, 1)
    again.finish(made)
    publish(again, made, 2)
    serves(reader(url), 1)


def test_a_version_that_was_finished_and_not_published_goes_on(url: str) -> None:
    first = open_publisher(url)
    made = first.begin(version(1))
    for part in (0, 1):
        write(first, made, part, 1)
    first.finish(made)
    del first
    again = open_publisher(url)
    assert again.begin(version(1, id="later")) == made
    assert again.parts(made) == {0, 1}
    again.finish(made)
    publish(again, made, 2)
    serves(reader(url), 1)


def test_an_unfinished_version_of_something_else_is_dropped(url: str, request: Any) -> None:
    first = open_publisher(url)
    for part in (0, 1):
        write(first, first.begin(version(1)) if part == 0 else version(1), part, 1)
    first.finish(version(1))
    del first
    put(url, 2)
    serves(reader(url), 2)
    if url.startswith("redis"):
        assert not request.getfixturevalue("redis_server").client().keys("*:v1:*")
    else:
        assert [path.name for path in (Path(url) / "versions").iterdir()] == ["v2"]


def test_a_part_that_was_cut_off_does_not_count(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_publisher(url)
    made = store.begin(version(1))

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if url.startswith("redis"):
            patch.setattr(redis.RedisPublisher, "_part", fail)
        else:
            patch.setattr(folder, "_sync", fail)
        with pytest.raises(KeyboardInterrupt):
            write(store, made, 0, 1)
    assert store.parts(made) == set()
    write(store, made, 0, 1)
    assert store.parts(made) == {0}


def test_nobody_publishes_over_a_switch_that_was_not_seen(url: str) -> None:
    put(url, 1)
    store = open_publisher(url)
    before = store.published()
    put(url, 2)
    with pytest.raises(StoreError, match="expected nobody else to publish meanwhile"):
        store.swap(before, before.publish(version(3), 2))
    serves(reader(url), 2)


def test_another_models_version_is_neither_written_nor_read(url: str) -> None:
    put(url, 1)
    store = reader(url)
    message = f"expected users of the model {'a' * 12}, which it serves, got {'b' * 12}"
    with pytest.raises(StoreError, match=message):
        put(url, 2, model="b" * 64)
    with pytest.raises(StoreError, match=message):
        reader(url, model="b" * 64)
    publisher = open_publisher(url)
    publisher.swap(publisher.published(), Published(versions=(version(2, model="b" * 64),)))
    serves(store, 1)
    assert store.errors["version"] == 1


def test_a_version_that_cannot_be_read_leaves_the_one_before(url: str, request: Any) -> None:
    put(url, 1)
    store = reader(url)
    if url.startswith("redis"):
        request.getfixturevalue("redis_server").client().set("stars:users:published", b"{")
    else:
        (Path(url) / "published.json").write_bytes(b"{")
    serves(store, 1)
    assert store.errors["version"] == 1
    with pytest.raises(StoreError, match=r"versions: Invalid JSON"):
        reader(url)


def test_nothing_published_is_said(url: str) -> None:
    with pytest.raises(StoreError, match="expected a published version, got none; `stars refresh`"):
        reader(url)
    with pytest.raises(StoreError, match="expected a version to go back to, got 0 in all"):
        rollback(open_publisher(url))


def test_users_expire(url: str) -> None:
    put(url, 1, expires=int(time.time()) + 2)
    store = reader(url)
    assert None not in store.get_many(IDS)
    deadline = time.monotonic() + 10
    while None not in store.get_many(IDS):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert store.get_many(IDS) == [None] * len(IDS)
    assert store.errors["expired"] >= len(IDS)


def test_expired_users_take_no_memory(redis_server: Any) -> None:
    put(redis_server.url, 1, expires=int(time.time()) + 1)
    deadline = time.monotonic() + 10
    while redis_server.client().keys("*:v1:*"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-8], lambda d: d[:60] + b"?" + d[61:], lambda _: b""]
)
def test_a_damaged_record_spoils_no_other(
    redis_server: Any, damage: Callable[[bytes], bytes]
) -> None:
    put(redis_server.url, 1)
    store, client = reader(redis_server.url), redis_server.client()
    name = "stars:users:v1:u:abc"
    client.set(name, damage(client.get(name)))
    client.delete("stars:users:v1:u:b")
    client.rpush("stars:users:v1:u:b", "a list")
    found = store.get_many(IDS)
    assert [place for place, record in enumerate(found) if record is None] == [2, 3]
    for place in (0, 1, 4, 5):
        assert_same(found[place], people(1)[place])
    assert store.errors["record"] == 1  # of the list nothing is seen: as if it were not there


def test_stores_share_a_redis_by_prefix(redis_server: Any) -> None:
    one, other = (f"{redis_server.url}?prefix={name}&timeout_ms=2000" for name in ("one", "other"))
    put(one, 1)
    put(other, 2, model="b" * 64)
    serves(reader(one), 1)
    serves(reader(other, "b" * 64), 2)


def test_a_batch_is_one_round_trip(redis_server: Any) -> None:
    put(redis_server.url, 1)
    store, client = reader(redis_server.url), redis_server.client()
    store.get_many(IDS)
    before = client.info("commandstats")
    store.get_many(IDS)
    after = client.info("commandstats")
    calls = {
        name: after[name]["calls"] - before.get(name, {"calls": 0})["calls"]
        for name in after
        if name != "cmdstat_info"
    }
    assert {name: n for name, n in calls.items() if n} == {"cmdstat_get": 1, "cmdstat_mget": 1}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ftp://host/x", r"^users: expected a folder, file://, redis:// or rediss://, got ftp://$"),
        ("redis://h/0?timeout_ms=0", "timeout_ms: expected milliseconds, got '0'"),
        ("redis://h/0?timeout_ms=fast", "timeout_ms: expected milliseconds, got 'fast'"),
        ("redis://h:port/0", "expected a Redis URL, got"),
        ("redis://h/0?no_such=1", "expected a Redis URL, got"),
    ],
)
def test_addresses_that_are_none(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_publisher(given)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"expected the package redis, .*\[redis\]"):
        open_publisher("redis://localhost")


def test_passwords_are_not_told() -> None:
    with pytest.raises(StoreError) as told:
        open_publisher("redis://:secret@127.0.0.1:1/0").published()
    assert "users redis://127.0.0.1:1/0: expected an answer, got" in str(told.value)
    assert "secret" not in str(told.value)


def test_records_are_as_they_were_published_however_the_id_looks(url: str) -> None:
    store = open_publisher(url)
    from tests.store.people import person

    odd = sorted((" a", "a:b", "a\nb", "*", "\udc80"), key=lambda text: user_key(text))
    made = store.begin(version(1, parts=1, users=len(odd)))
    store.write(made, 0, [(user_key(name), encode(person(name, 2))) for name in odd])
    store.finish(made)
    publish(store, made, 2)
    for got, name in zip(reader(url).get_many(odd), odd, strict=True):
        assert_same(got, person(name, 2))
