"""Stored users and the refresh by size: bytes a user, reads, throughput.

    python -m benchmarks.scale_users [read refresh] [--users 1000000] [--json FILE]

`read` stores made-up users of 0 to 150 events each and reads batches of random ones; every backend
holds the same encoded records and gives the same decoded ones, checked before anything is timed.
`refresh` makes the records of real users of the demo's dataset (`make demo`) by a model with random
weights: in the refresh's batches, and one unpadded user at a time, in turn.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Annotated, Any

import lmdb
import numpy as np
import typer

from engine.bundle import Bundle
from engine.catalogue.catalogue import Catalogue
from engine.config import load_config
from engine.data.dataset import Dataset
from engine.refresh.records import RecordMaker
from engine.refresh.run import record_maker
from engine.refresh.source import UserSource
from engine.repeats import repeat_history
from engine.store.address import open_publisher
from engine.store.codec import Shape, decode, encode, user_key
from engine.store.folder import FolderUserStore
from engine.store.redis import RedisUserStore
from engine.store.users import UserRecord
from engine.store.versions import Version, publish
from tests.store.people import assert_same
from tests.store.redis_server import RedisServer

from .stored import Row, replace_rows, surroundings

RESULTS = Path(__file__).resolve().parent / "results" / "users.json"
DEMO = Path(__file__).resolve().parents[1] / "artifacts" / "demo" / "dataset"
SHAPE, EVENTS_MAX, PEOPLE = Shape(64, 3, 2), 150, 4096
PART, ROUNDS, REDIS_USERS_MAX = 16_384, 2_000, 100_000
MODEL = "0" * 64
LIBRARIES = ("numpy", "redis", "lmdb", "onnxruntime")
Reads = Callable[[list[str]], list[UserRecord | None]]


def people() -> list[UserRecord]:
    """Different users, of whom every store holds many copies under other names."""
    rng = np.random.default_rng(0)
    made = []
    for place in range(PEOPLE):
        n = place * 2_654_435_761 % PEOPLE * (EVENTS_MAX + 1) // PEOPLE  # all lengths, mixed
        items = rng.zipf(1.3, n).clip(max=50_000).astype(np.int32)
        times = np.sort(rng.integers(0, 10**8, n)) + 1_600_000_000
        sessions = (np.arange(n) // 5).astype(np.int32)
        state = repeat_history(items, times, sessions).after(n // 5, int(times.max(initial=0)))
        made.append(
            UserRecord(
                user_id="",
                h_next=rng.standard_normal(SHAPE.dim, np.float32),
                h_gen=rng.standard_normal(SHAPE.dim, np.float32),
                categorical=rng.integers(0, 9, SHAPE.n_categorical).astype(np.int32),
                numeric=rng.standard_normal(SHAPE.n_numeric).astype(np.float32),
                items=items,
                times=times,
                types=np.zeros(n, np.int32),
                sessions=sessions,
                repeats=replace(state, all_count=None, all_span=None),
            )
        )
    return made


def content_bytes(user: UserRecord) -> int:
    """What a record holds, without header, padding and index: its arrays, numbers and name."""
    arrays = [*vars(user).values(), *vars(user.repeats).values()]
    return 12 + len(user.user_id) + sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))


def parts(n_users: int, made: list[UserRecord]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Encoded users, some at a time, by ascending name."""
    for start in range(0, n_users, PART):
        yield [
            (user_key(name(u)), encode(replace(made[u % PEOPLE], user_id=name(u))))
            for u in range(start, min(start + PART, n_users))
        ]


def name(user: int) -> str:
    """Names of the length that shops use, ascending as numbers do."""
    return f"customer-{user:09d}"


def fill(url: str, n_users: int, made: list[UserRecord]) -> None:
    """Publishes the users to a store."""
    store = open_publisher(url)
    now = Version(
        id="v1", key="k", model=MODEL, cut=0, published=0, expires=None, users=n_users,
        parts=-(-n_users // PART),
    )  # fmt: skip
    now = store.begin(now)
    for place, part in enumerate(parts(n_users, made)):
        store.write(now, place, part)
    store.finish(now)
    publish(store, now, 2)


def read_folder(n_users: int, made: list[UserRecord], folder: Path) -> Iterator[Row]:
    """The embedded store: warm, and right after its files left the page cache."""
    fill(str(folder), n_users, made)
    files = list((folder / "versions" / "v1").iterdir())
    row = {"backend": "folder", "store_bytes": sum(path.stat().st_size for path in files)}
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    store = FolderUserStore(folder, MODEL, SHAPE)
    yield row | {"backend": "folder, cold"} | timed(store.get_many, n_users, rounds=100)
    for path in files:
        path.read_bytes() if path.stat().st_size < 1 << 28 else _touch(path)
    check(store.get_many, n_users, made)
    yield row | timed(store.get_many, n_users)


def _touch(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def read_redis(n_users: int, made: list[UserRecord], folder: Path) -> Iterator[Row]:
    """A Redis on this machine, over TCP."""
    with RedisServer(folder) as server:
        before = server.client().info("memory")["used_memory"]
        url = f"{server.url}?timeout_ms=5000"
        fill(url, n_users, made)
        used = server.client().info("memory")["used_memory"] - before
        store = RedisUserStore(url, MODEL, SHAPE)
        check(store.get_many, n_users, made)
        yield {"backend": "redis", "store_bytes": used} | timed(store.get_many, n_users)


def read_lmdb(n_users: int, made: list[UserRecord], folder: Path) -> Iterator[Row]:
    """LMDB with the same records, one read transaction a batch, no copies."""
    with lmdb.open(str(folder), map_size=64 << 30, readahead=False) as database:
        for part in parts(n_users, made):
            with database.begin(write=True) as transaction:
                transaction.cursor().putmulti(part, append=True)

        def get_many(names: list[str]) -> list[UserRecord | None]:
            with database.begin(buffers=True) as transaction:
                values = [transaction.get(user_key(each)) for each in names]
                return [
                    None if value is None else decode(each, value, SHAPE)
                    for each, value in zip(names, values, strict=True)
                ]

        check(get_many, n_users, made)
        size = (folder / "data.mdb").stat().st_size
        yield {"backend": "lmdb", "store_bytes": size} | timed(get_many, n_users)


def check(get_many: Reads, n_users: int, made: list[UserRecord]) -> None:
    """Nothing is timed that answers wrongly."""
    chosen = np.random.default_rng(1).integers(0, n_users, 256).tolist()
    for user, got in zip(chosen, get_many([name(u) for u in chosen]), strict=True):
        assert_same(got, replace(made[user % PEOPLE], user_id=name(user)))
    assert get_many(["customer", name(n_users)]) == [None, None]


def timed(get_many: Reads, n_users: int, rounds: int = ROUNDS) -> Row:
    """Percentiles of batches of 1 and 64 random users, in turn.

    `undisturbed` leaves out the batches in whose middle the system gave the core to somebody else.
    """
    rng, row = np.random.default_rng(2), {}
    spent: dict[int, list[tuple[float, bool]]] = {1: [], 64: []}
    for _ in range(rounds):
        for size, times in spent.items():
            names = [name(u) for u in rng.integers(0, n_users, size).tolist()]
            before = getrusage(RUSAGE_SELF).ru_nivcsw
            began = time.perf_counter()
            found = get_many(names)
            took = 1e3 * (time.perf_counter() - began)
            times.append((took, getrusage(RUSAGE_SELF).ru_nivcsw == before))
            assert len(found) == size
    for size, times in spent.items():
        every, alone = [t for t, _ in times], [t for t, undisturbed in times if undisturbed]
        row[f"read{size}_p50_ms"] = round(float(np.percentile(every, 50)), 4)
        row[f"read{size}_p99_ms"] = round(float(np.percentile(every, 99)), 4)
        row[f"read{size}_p99_undisturbed_ms"] = round(float(np.percentile(alone, 99)), 4)
        row[f"read{size}_disturbed"] = round(1 - len(alone) / rounds, 4)
    return row | {"rounds": rounds}


def read_rows(users_max: int) -> Iterator[Row]:
    """Rows of the case `read`."""
    made = people()
    sizes = [n for n in (1_000, 10_000, 100_000, 1_000_000) if n <= users_max]
    mean = float(np.mean([content_bytes(replace(p, user_id=name(0))) for p in made]))
    for n_users in sizes:
        for backend in (read_folder, read_lmdb, read_redis):
            if backend is read_redis and n_users > REDIS_USERS_MAX:
                continue
            folder = Path(tempfile.mkdtemp(prefix="users-"))
            try:
                for row in backend(n_users, made, folder):
                    yield {
                        "case": "read", "users": n_users, "events_a_user": EVENTS_MAX / 2,
                        "raw_bytes": round(mean * n_users), "raw_bytes_a_user": round(mean, 1),
                        "store_bytes_a_user": round(row["store_bytes"] / n_users, 1), **row,
                    }  # fmt: skip
            finally:
                shutil.rmtree(folder)


def refresh_rows(data: Path) -> Iterator[Row]:
    """Rows of the case `refresh`: each preset, one thread, both ways in turn."""
    for preset, n_users in (("small", 1_024), ("paper", 64)):
        with tempfile.TemporaryDirectory() as folder:
            maker, source = random_maker(preset, data, Path(folder) / "bundle")
            users = np.random.default_rng(0).choice(len(source), n_users, replace=False)
            start = int(users.min() % max(1, len(source) - n_users))
            batch, spent = source.read(start, start + n_users), {"batched": [], "one": []}
            maker.records(source.read(start, start + 8))
            for _ in range(3):
                began = time.perf_counter()
                batched = maker.records(batch)
                spent["batched"].append(time.perf_counter() - began)
                began = time.perf_counter()
                for place in range(start, start + n_users):
                    one = maker.records(source.read(place, place + 1))
                spent["one"].append(time.perf_counter() - began)
            np.testing.assert_allclose(one[0].h_gen, batched[-1].h_gen, rtol=0.2, atol=0.05)
            ways = {way: n_users / float(np.median(times)) for way, times in spent.items()}
            yield {
                "case": "refresh", "preset": preset, "users": n_users, "threads": 1,
                "events_a_user": round(len(batch.item) / n_users, 1),
                "users_per_s": round(ways["batched"], 1),
                "one_by_one_users_per_s": round(ways["one"], 1),
                "ratio": round(ways["batched"] / ways["one"], 3),
            }  # fmt: skip


def random_maker(preset: Any, data: Path, folder: Path) -> tuple[RecordMaker, UserSource]:
    """A bundle of random weights over the dataset, which holds few of its users."""
    from engine.compile.export import export
    from engine.model.build import build_model

    dataset, config = Dataset.load(data), load_config(preset, None)
    end = int(dataset.event_offsets[64])
    names = ("item", "time", "type", "session")
    few = replace(
        dataset,
        user_ids=dataset.user_ids[:64],
        user_categorical=dataset.user_categorical[:64],
        user_numeric=dataset.user_numeric[:64],
        event_offsets=dataset.event_offsets[:65],
        **{f"event_{each}": getattr(dataset, f"event_{each}")[:end] for each in names},
    )
    model = build_model(config.model, dataset, 0).eval()
    export(model, few, config, int(dataset.event_time.max()) + 1, folder, 0.0)
    bundle = Bundle.open(folder, verify=False)
    catalogue = Catalogue.current(bundle)
    return record_maker(bundle, catalogue), UserSource(data, bundle.manifest, catalogue)


def main(
    cases: Annotated[list[str] | None, typer.Argument(help="read, refresh; default both")] = None,
    users: Annotated[int, typer.Option(help="largest store")] = 1_000_000,
    data: Annotated[Path, typer.Option(help="prepared dataset")] = DEMO,
    json_to: Annotated[Path, typer.Option("--json", help="rows of other cases stay")] = RESULTS,
) -> None:
    """Measures, prints and stores the rows."""
    chosen = cases or ["read", "refresh"]
    about = {"niceness": os.nice(0), **surroundings("benchmarks.scale_users", LIBRARIES)}
    rows = []
    ways = {"read": lambda: read_rows(users), "refresh": lambda: refresh_rows(data)}
    for case in chosen:
        for row in ways[case]():
            print(json.dumps(row), flush=True)
            rows.append(row | about)
    replace_rows(json_to, rows, ("case",))


if __name__ == "__main__":
    typer.run(main)
