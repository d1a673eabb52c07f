"""The daily refresh: every user's record anew, in parts, then one switch.

A part is a range of users by id. Which users are encoded together depends on nothing but the
dataset, the bundle and the size of a part, and a part that is stored is never computed again: so a
refresh that was killed goes on, and ends with the bytes of one that was not.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from engine.bundle import Bundle
from engine.catalogue.catalogue import Catalogue
from engine.runtime.registry import choose, open_graph
from engine.serving.weights import RequestWeights
from engine.store.address import open_publisher
from engine.store.codec import CODEC, encode, user_key
from engine.store.versions import Version, check_model, publish

from .records import USERS_AT_ONCE, RecordMaker
from .source import UserSource

PART_USERS = 2048
HERE = "here"  # the address that computes in this process, without Ray


@dataclass(frozen=True)
class Job:
    """What every worker of one refresh must know.

    Attributes:
        bundle, data: folders; every machine sees them at the same place.
        until: unix seconds (or order) at which the past ends.
        store: URL of the store.
        version: that is being made.
        part_users: users of a part.
        runtime: of the encoder. threads: of one worker.
    """

    bundle: Path
    data: Path
    until: int
    store: str
    version: Version
    part_users: int
    runtime: str
    threads: int


@dataclass(frozen=True)
class Refreshed:
    """How a refresh ended.

    Attributes:
        version: that is served now.
        computed: users that this run encoded; the others it found done.
        seconds: of their encoding and storing.
        unknown_items: items of the dataset that the bundle does not know; their events are left
            out.
        unchanged: the store served this very version already.
    """

    version: Version
    computed: int
    seconds: float
    unknown_items: int
    unchanged: bool


class PartWorker:
    """Computes and stores parts of a job; everything is opened once."""

    def __init__(self, job: Job) -> None:
        self._job = job
        bundle = Bundle.open(job.bundle, verify=False)
        catalogue = Catalogue.current(bundle)
        self._source = UserSource(job.data, bundle.manifest, catalogue, job.until)
        self._maker = record_maker(bundle, catalogue, job.runtime, job.threads)
        self._store = open_publisher(job.store)

    def run(self, part: int) -> int:
        """Stores one part, and returns its users."""
        start = part * self._job.part_users
        users = self._source.read(start, min(start + self._job.part_users, len(self._source)))
        records = [(user_key(r.user_id), encode(r)) for r in self._maker.records(users)]
        self._store.write(self._job.version, part, records)
        return len(records)


def refresh(
    bundle: Path,
    data: Path,
    store: str,
    *,
    until: int | None = None,
    address: str = "local",
    keep: int = 3,
    ttl_s: int | None = None,
    threads: int = 1,
    runtime: str = "auto",
    part_users: int = PART_USERS,
    progress: Callable[[int, int], None] = lambda done, parts: None,
) -> Refreshed:
    """Recomputes every user of a dataset with a bundle's encoder, and publishes them to a store.

    Args:
        bundle: folder of the bundle that is served.
        data: folder of a prepared dataset of the same shop.
        store: URL of the store, see `engine.store.address`.
        until: unix seconds (or order) at which the past ends; None takes all events.
        address: "local" for Ray on this machine, "auto" or ray://… for a cluster, "here" for this
            process.
        keep: versions that stay, the served one among them.
        ttl_s: seconds from now after which the version's users are unknown; None never.
        threads: of one worker.
        runtime: of the encoder, see `engine.runtime.registry.choose`.
        part_users: users of a part; what is lost at most, for each worker, when it is killed.
        progress: called with the parts that are done and all of them.
    Raises:
        StoreError: the store serves another model, another refresh is at work, or it fails.
        DataError: the dataset is of another shop, or ends before the bundle's cut.
        BackendUnavailable: Ray, or a package of the store, is not there.
        ConfigError: no such store or runtime.
    """
    opened = Bundle.open(bundle)
    publisher = open_publisher(store)
    published = publisher.published()
    check_model(published, opened.model_id, publisher.name)
    catalogue = Catalogue.current(opened)
    source = UserSource(data, opened.manifest, catalogue, until)
    chosen = choose(runtime, opened.manifest.model)
    content = (
        CODEC, opened.model_id, _digest(catalogue), source.meta.fingerprint, source.cut,
        part_users, USERS_AT_ONCE, chosen.runtime, chosen.precision, threads,
    )  # fmt: skip
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    served = published.served
    if served is not None and served.key == key:
        return Refreshed(served, 0, 0.0, source.unknown_items, unchanged=True)
    now = datetime.now(UTC)
    version = publisher.begin(
        Version(
            id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",  # two of one second differ
            key=key,
            model=opened.model_id,
            cut=source.cut,
            published=int(now.timestamp()),
            expires=None if ttl_s is None else int(now.timestamp()) + ttl_s,
            users=len(source),
            parts=-(-len(source) // part_users),
        )
    )
    done = publisher.parts(version)
    todo = [part for part in range(version.parts) if part not in done]
    job = Job(
        bundle.resolve(), data.resolve(), source.cut, publisher.url, version,
        part_users, f"{chosen.runtime}-{chosen.precision}", threads,
    )  # fmt: skip
    began, computed = time.perf_counter(), 0
    for finished, users in enumerate(_run(job, todo, address), start=1):
        computed += users
        progress(len(done) + finished, version.parts)
    seconds = time.perf_counter() - began
    publisher.finish(version)
    version = version.model_copy(update={"published": int(time.time())})
    publish(publisher, version, keep)
    return Refreshed(version, computed, seconds, source.unknown_items, unchanged=False)


def record_maker(
    bundle: Bundle, catalogue: Catalogue, runtime: str = "auto", threads: int = 1
) -> RecordMaker:
    """Makes records by a bundle's own graph."""
    manifest = bundle.manifest
    choice = choose(runtime, manifest.model)
    weights = RequestWeights.of(bundle.request_weights)
    window = manifest.model["window"]
    return RecordMaker(
        open_graph(choice, bundle.graphs(choice.precision).encode, window, threads),
        catalogue.rows,
        weights.calendar(manifest),
        window,
        manifest.model["hop"],
        manifest.repeat_codes,
        catalogue.statistics.count,
    )


def _run(job: Job, parts: Iterable[int], address: str) -> Iterator[int]:
    """Users of each part that was stored, in the order in which they are done."""
    if address == HERE:
        worker = PartWorker(job)
        return map(worker.run, parts)
    from .on_ray import run_on_ray

    return run_on_ray(job, list(parts), address)


def _digest(catalogue: Catalogue) -> str:
    digest = hashlib.sha256(catalogue.item_ids.tobytes())
    digest.update(np.ascontiguousarray(catalogue.rows).data)
    return digest.hexdigest()
