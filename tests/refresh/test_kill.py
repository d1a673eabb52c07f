"""A refresh that is killed half-way and started again ends with the bytes of one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.data.dataset import Dataset
from engine.refresh.run import HERE, refresh
from engine.store.mmap import FILES

ROOT = Path(__file__).resolve().parents[2]
PART_USERS, PARTS, AT = 7, 9, 3

# Ends itself by SIGKILL in the middle: nothing is flushed, closed or told.
KILLED = """
import os, signal, sys
from pathlib import Path
from engine.refresh.run import refresh

def progress(done, parts):
    assert parts == 9
    if done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

bundle, data, store, address = sys.argv[1:]
refresh(Path(bundle), Path(data), store, address=address, part_users=7, progress=progress)
"""


def kill_half_way(bundle: Path, data: Path, store: str, address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, bundle, data, store, address],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


def folder_content(store: Path, version: str) -> dict[str, bytes]:
    assert [path.name for path in (store / "versions").iterdir()] == [version]
    assert list((store / "staging").iterdir()) == []
    return {name: (store / "versions" / version / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("address", [HERE, "local"])
def test_refresh_survives_kill(
    bundle: Path, dataset: Dataset, tmp_path: Path, address: str
) -> None:
    data = dataset.folder
    assert data is not None
    whole = refresh(bundle, data, str(tmp_path / "whole"), address=HERE, part_users=PART_USERS)
    assert (whole.computed, whole.version.parts) == (len(dataset.user_ids), PARTS)
    store = tmp_path / "store"
    kill_half_way(bundle, data, str(store), address)
    assert not (store / "published.json").exists()
    assert len(list(store.glob("staging/*/0*"))) >= AT  # Ray's workers outlive it for a moment
    again = refresh(bundle, data, str(store), address=address, part_users=PART_USERS)
    left = len(dataset.user_ids) - AT * PART_USERS
    assert again.computed == left if address == HERE else again.computed <= left + PART_USERS
    assert folder_content(store, again.version.id) == folder_content(
        tmp_path / "whole", whole.version.id
    )


def test_refresh_into_redis_survives_kill(
    bundle: Path, dataset: Dataset, tmp_path: Path, redis_server: Any
) -> None:
    data, client = dataset.folder, redis_server.client()
    assert data is not None
    content = []
    for prefix, killed in (("whole", False), ("store", True)):
        store = f"{redis_server.url}?prefix={prefix}"
        if killed:
            kill_half_way(bundle, data, store, HERE)
            assert client.get("store:published") is None
            assert len(client.keys("store:*:part:*")) == AT
        made = refresh(bundle, data, store, address=HERE, part_users=PART_USERS)
        assert made.computed == len(dataset.user_ids) - killed * AT * PART_USERS
        start = f"{prefix}:{made.version.id}:u:"
        keys = sorted(client.keys(f"{start}*"))
        content.append({key[len(start) :]: client.get(key) for key in keys})
        assert client.get(f"{prefix}:staging") is None
    assert content[0] == content[1]
    assert len(content[0]) == len(dataset.user_ids)
