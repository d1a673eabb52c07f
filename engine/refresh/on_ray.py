"""Parts of a refresh on Ray Data: on this machine, or on a cluster.

Every machine of a cluster has this project installed and sees bundle, dataset and, where the store
is a folder, the store under the same paths.
"""

import logging
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from engine.errors import BackendUnavailable

from .run import Job, PartWorker

LOCAL = "local"
_STORE_BYTES = 128 << 20  # parts go to the store, and through Ray only how many users they had


class _Parts:
    """What an actor of Ray does with batches of part numbers."""

    def __init__(self, job: Job) -> None:
        self._worker = PartWorker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"users": [self._worker.run(int(part)) for part in batch["part"]]}


def run_on_ray(job: Job, parts: list[int], address: str) -> Iterator[int]:
    """Users of each part that was stored, in the order in which they are done.

    Args:
        job: what to do. parts: that are to do.
        address: LOCAL, or what ray.init takes.
    Raises:
        BackendUnavailable: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise BackendUnavailable(
            "refresh: expected the package ray, got none; `pip install 'stars-engine[cluster]'`, "
            "or `--address here`, which does without"
        )
    if not parts:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray hides GPUs from workers that ask for none unless told so; it warns until it is told.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        options |= {
            "address": LOCAL,
            "num_cpus": len(os.sched_getaffinity(0)),
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
        }
    else:
        options["address"] = address
    ray.init(**options)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        cpus = int(ray.cluster_resources()["CPU"])  # type: ignore[no-untyped-call]
        size = max(1, min(len(parts), cpus // job.threads))
        numbers = ray.data.from_items([{"part": n} for n in parts], override_num_blocks=len(parts))
        stored = numbers.map_batches(
            _Parts,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=job.threads,
        )
        for row in stored.iter_rows():
            yield int(row["users"])
    finally:
        ray.shutdown()
