"""The refresh in this process: what it makes, what it leaves alone, and what it refuses."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.bundle import Bundle
from engine.data.dataset import Dataset
from engine.errors import DataError, StoreError
from engine.evaluation.protocol import Cuts
from engine.refresh.run import HERE, Refreshed, refresh
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request
from engine.store.address import open_publisher, open_users
from engine.store.mmap import FILES, MemoryMappedUserStore
from engine.store.versions import rollback

ROOT = Path(__file__).resolve().parents[2]


def run(bundle: Path, data: Dataset | Path, store: Path, **options: Any) -> Refreshed:
    folder = data.folder if isinstance(data, Dataset) else data
    assert folder is not None
    return refresh(bundle, folder, str(store), address=HERE, **options)


def stored(store: Path, made: Refreshed) -> dict[str, bytes]:
    return {name: (store / "versions" / made.version.id / name).read_bytes() for name in FILES}


def test_at_the_bundles_cut_it_makes_the_bundles_own_users(
    bundle: Path, dataset: Dataset, cuts: Cuts, tmp_path: Path
) -> None:
    made = run(bundle, dataset, tmp_path / "store", until=cuts.test)
    assert made.computed == len(dataset.user_ids)
    assert made.unknown_items == 0
    for name, content in stored(tmp_path / "store", made).items():
        assert content == (bundle / "users" / name).read_bytes(), name


def test_parts_change_nothing_but_rounding(
    bundle: Path, dataset: Dataset, cuts: Cuts, tmp_path: Path
) -> None:
    made = run(bundle, dataset, tmp_path, until=cuts.test, part_users=7)
    assert made.version.parts == -(-len(dataset.user_ids) // 7)
    names = [name.decode() for name in dataset.user_ids]
    mine = MemoryMappedUserStore(tmp_path / "versions" / made.version.id).get_many(names)
    for got, expected in zip(mine, Bundle.open(bundle).users.get_many(names), strict=True):
        assert got is not None
        assert expected is not None
        np.testing.assert_array_equal(got.times, expected.times)
        np.testing.assert_array_equal(got.repeats.decayed, expected.repeats.decayed)
        np.testing.assert_allclose(got.h_next, expected.h_next, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.h_gen, expected.h_gen, rtol=1e-4, atol=1e-5)
    assert not (tmp_path / "staging" / made.version.id).exists()


def test_a_refreshed_user_is_answered_as_a_live_one_with_the_same_events(
    bundle: Path, dataset: Dataset, cuts: Cuts, tmp_path: Path
) -> None:
    """New purchases may come with the request or by the refresh: vectors, repeats and scores."""
    opened = Bundle.open(bundle)
    recommenders, middle = [], (cuts.test + cuts.end) // 2
    for until in (cuts.end, middle):
        run(bundle, dataset, tmp_path / str(until), until=until)
        users = open_users(str(tmp_path / str(until)), opened)
        recommenders.append(Recommender(replace(opened, users=users)))
    (refreshed, halfway), live, asked = recommenders, Recommender(opened), 0
    for user in range(len(dataset.user_ids)):
        at = slice(*dataset.event_offsets[user : user + 2])
        new = dataset.event_time[at] >= cuts.test
        if not new.any():
            continue
        asked += 1
        times = dataset.event_time[at][new]
        name, time = dataset.user_ids[user].decode(), int(times[-1]) + 86_400
        ids = dataset.item_ids[dataset.event_item[at][new]]
        none = np.zeros(0, np.int64)
        options = (None, 20, "round_robin", "allow", None, time, False)
        (expected,) = live.recommend([Request(name, ids, None, times, *options)])
        assert isinstance(expected, Reply)
        for got in (
            *refreshed.recommend([Request(name, none, None, None, *options)]),
            *halfway.recommend([Request(name, ids, None, times, *options)]),
        ):
            assert isinstance(got, Reply)
            np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(got.source, expected.source)
    assert asked > 30


def test_another_preparation_of_the_shop_is_translated(
    bundle: Path, dataset: Dataset, cuts: Cuts, tmp_path: Path
) -> None:
    """Other codes, scales and indices, an item that the bundle does not know."""
    meta, n = dataset.meta, len(dataset.item_ids)
    items = dataset.items_frame()
    (first,) = meta.user_categorical
    values = ["a new value", *meta.user_categorical[first][::-1]]
    codes = dataset.user_categorical.copy()
    codes[codes > 0] = 2 + len(values) - 1 - codes[codes > 0]
    feature = meta.user_numeric[0]
    other = feature.model_copy(update={"mean": feature.mean - 1, "std": feature.std * 2})
    numeric = (dataset.user_numeric * feature.std + feature.mean - other.mean) / other.std
    last = dataset.event_time == dataset.event_time.max()
    item = np.where(last, 0, dataset.event_item + 1).astype(np.int32)  # one before all others
    changed = replace(
        dataset,
        meta=meta.model_copy(
            update={
                "user_categorical": {first: values},
                "user_numeric": [other],
                "fingerprint": "0" * 64,
            }
        ),
        item_ids=np.append(1, dataset.item_ids),
        **{
            name: np.append(getattr(dataset, name)[:1], getattr(dataset, name))
            for name in ("item_text", "item_subclass", "item_from", "tag_offsets")
        },
        event_item=item,
        user_categorical=codes,
        user_numeric=numeric.astype(np.float32),
    )
    frame = items[[0, *range(n)]].with_columns(item_id=changed.item_ids)
    changed.save(tmp_path / "data", frame)
    made = run(bundle, tmp_path / "data", tmp_path / "store")
    assert made.unknown_items == 1
    plain = run(bundle, dataset, tmp_path / "plain")
    names = [name.decode() for name in dataset.user_ids]
    users = [
        MemoryMappedUserStore(folder / "versions" / m.version.id).get_many(names)
        for folder, m in ((tmp_path / "store", made), (tmp_path / "plain", plain))
    ]
    for got, expected in zip(*users, strict=True):
        assert got is not None
        assert expected is not None
        keep = expected.times != dataset.event_time.max()
        np.testing.assert_array_equal(got.categorical, expected.categorical)
        np.testing.assert_allclose(got.numeric, expected.numeric, atol=1e-5)
        np.testing.assert_array_equal(got.items, expected.items[keep])
        np.testing.assert_array_equal(got.sessions, expected.sessions[keep])
        if keep.all():
            np.testing.assert_allclose(got.h_gen, expected.h_gen, rtol=1e-3, atol=1e-4)


def test_versions_are_kept_and_gone_back_to(
    bundle: Path, dataset: Dataset, cuts: Cuts, tmp_path: Path
) -> None:
    ends = [cuts.test + day * 86_400 for day in range(4)]
    made = [run(bundle, dataset, tmp_path, until=end, keep=2).version for end in ends]
    present = {path.name for path in (tmp_path / "versions").iterdir()}
    assert present == {made[2].id, made[3].id}
    publisher = open_publisher(str(tmp_path))
    assert publisher.published().served == made[3]
    assert rollback(publisher) == made[2]
    with pytest.raises(StoreError, match="expected a version to go back to, got 1 in all"):
        rollback(publisher)
    assert publisher.published().served == made[2]
    again = run(bundle, dataset, tmp_path, until=ends[3], keep=2)
    assert (again.unchanged, again.version.key) == (False, made[3].key)
    assert run(bundle, dataset, tmp_path, until=ends[3], keep=2).unchanged
    present = {path.name for path in (tmp_path / "versions").iterdir()}
    assert present == {made[2].id, again.version.id}


def test_users_of_another_model_are_refused(
    bundle: Path, dataset: Dataset, cuts: Cuts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(bundle, dataset, tmp_path)
    own = Bundle.open(bundle).model_id
    monkeypatch.setattr(Bundle, "model_id", "f" * 64)
    message = (
        f"^users {tmp_path}: expected users of the model {own[:12]}, which it serves, "
        "got ffffffffffff: give each model a store of its own$"
    )
    with pytest.raises(StoreError, match=message):
        run(bundle, dataset, tmp_path)
    with pytest.raises(StoreError, match=message):
        open_users(str(tmp_path), Bundle.open(bundle))
    assert open_publisher(str(tmp_path)).published().served == first.version


def test_a_dataset_of_another_shop_is_refused(
    bundle: Path, dataset: Dataset, cuts: Cuts, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"timezone": "Europe/Berlin"}
    replace(dataset, meta=dataset.meta.model_copy(update=changes)).save(
        tmp_path / "data", dataset.items_frame()
    )
    with pytest.raises(DataError, match=r"timezone: expected 'America/New_York' as the bundle has"):
        run(bundle, tmp_path / "data", tmp_path / "store")
    changes = {"event_types": ["gift"]}
    replace(dataset, meta=dataset.meta.model_copy(update=changes)).save(
        tmp_path / "data", dataset.items_frame()
    )
    with pytest.raises(DataError, match=r"event_types: expected some of \[.*\], got \['gift'\]"):
        run(bundle, tmp_path / "data", tmp_path / "store")
    with pytest.raises(DataError, match=r"--until: expected a time not before the bundle's cut"):
        run(bundle, dataset, tmp_path / "store", until=cuts.validation)
    assert not (tmp_path / "store").exists()


def test_two_refreshes_of_a_folder_take_turns(
    bundle: Path, dataset: Dataset, tmp_path: Path
) -> None:
    first = run(bundle, dataset, tmp_path)
    working = open_publisher(str(tmp_path))
    working.begin(first.version.model_copy(update={"id": "other", "key": "other"}))
    with pytest.raises(StoreError, match="expected no other refresh at work"):
        run(bundle, dataset, tmp_path, part_users=5)
    del working
    assert not run(bundle, dataset, tmp_path, part_users=5).unchanged


def test_it_needs_neither_torch_nor_ray(bundle: Path, dataset: Dataset, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(('torch', 'ray', 'redis', 'polars', 'pandas'))\n"
        "from pathlib import Path\n"
        "from engine.refresh.run import HERE, refresh\n"
        "made = refresh(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], address=HERE)\n"
        "print(made.computed)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, bundle, dataset.folder, tmp_path],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, f"{len(dataset.user_ids)}\n"), done.stderr
