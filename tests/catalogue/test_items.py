"""Items that training has not seen, updates and removals: beside a bundle, and while it serves."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from benchmarks.hashed_words import HashedWords
from engine.bundle import Bundle
from engine.catalogue.catalogue import Catalogue
from engine.catalogue.changes import ChangeLog, ItemChange, changes_folder
from engine.catalogue.content import ItemEditor
from engine.cli import app
from engine.errors import BundleError, DataError
from engine.serving.client import StarsClient
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request
from engine.serving.server import MODEL_REPOSITORY, TritonServer

NEW = 900_001
OLD = [1000 + 7 * n for n in range(8)]  # ids of the generated shop


@pytest.fixture
def own(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to change items beside."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def editor(path: Path) -> ItemEditor:
    opened = Bundle.open(path, verify=False)
    return ItemEditor(opened, ChangeLog(changes_folder(path), opened.model_id), HashedWords())


def described(path: Path, place: int, item_id: int = NEW, **changes: Any) -> pl.DataFrame:
    """The columns of a trained item under another id."""
    columns = Bundle.open(path, verify=False).columns
    values = {name: columns[name].take([place])[0] for name in columns}
    return pl.DataFrame([{"item_id": item_id} | values | changes])


def changed(path: Path) -> Catalogue:
    opened = Bundle.open(path, verify=False)
    log = ChangeLog(changes_folder(path), opened.model_id)
    return Catalogue.of(opened).changed(log.read())


def ask(recommender: Recommender, **changes: Any) -> Reply:
    fields: dict[str, Any] = {
        "user_id": "user-003", "item_ids": np.zeros(0, np.int64), "event_types": None,
        "event_times": None, "context": None, "k": 20, "strategy": "next", "repeats": "exclude",
        "filter": None, "time": 1_714_000_000, "explain": False,
    }  # fmt: skip
    (reply,) = recommender.recommend([Request(**fields | changes)])
    assert isinstance(reply, Reply), reply
    return reply


def test_an_item_described_as_a_trained_one_has_its_row_but_for_delta(own: Path) -> None:
    editor(own).add(described(own, place=5))
    catalogue = changed(own)
    assert catalogue.places(np.array([NEW, 0, 1])).tolist()[0] == len(catalogue) - 1
    before = Bundle.open(own, verify=False)
    # Δ of the trained item is what is left: with it, the new row would be the trained one.
    same = editor(own)
    same.update(
        described(own, 5, item_id=int(before.items["item_ids"][5])).select("item_id", "text")
    )
    again = changed(own)
    np.testing.assert_allclose(again.rows[5], before.items["rows"][5], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        again.candidates[5], before.items["candidates"][5], rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(catalogue.rows[-1], before.items["rows"][5], atol=1e-5)
    assert np.corrcoef(catalogue.rows[-1], before.items["rows"][5])[0, 1] > 0.8


def test_a_new_item_is_recommended_filtered_and_valid_history(own: Path) -> None:
    recommender = Recommender.load(own)
    best = int(ask(recommender).item_ids[0])
    place = int(recommender.catalogue.places(np.array([best]))[0])
    editor(own).add(described(own, place, price=0.5))
    assert NEW not in ask(recommender).item_ids
    assert recommender.update_items()
    assert not recommender.update_items()
    assert NEW in ask(recommender).item_ids
    cheap = ask(recommender, filter='{"price": {"le": 0.5}}', explain=True)
    assert NEW in cheap.item_ids
    assert ask(recommender, item_ids=np.array([NEW, best]), user_id=None).item_ids[0] > 0
    assert ask(recommender, user_id="nobody", k=500).item_ids.tolist().count(NEW) == 1


def test_removal_and_return(own: Path) -> None:
    recommender = Recommender.load(own)
    first, second = ask(recommender).item_ids[:2].tolist()
    editor(own).remove([first])
    recommender.update_items()
    answer = ask(recommender, item_ids=np.array([first]), user_id=None)
    assert first not in answer.item_ids
    assert ask(recommender).item_ids[0] == second
    place = int(recommender.catalogue.places(np.array([first]))[0])
    editor(own).update(pl.DataFrame({"item_id": [first], "price": [1.25]}))
    recommender.update_items()
    assert first not in ask(recommender).item_ids, "an update does not bring it back"
    editor(own).add(described(own, place, item_id=first))
    recommender.update_items()
    assert ask(recommender).item_ids[0] == first
    assert len(recommender.catalogue) == recommender.bundle.columns.n_items


def test_a_price_counts_from_the_next_request(own: Path) -> None:
    recommender = Recommender.load(own)
    item = int(ask(recommender).item_ids[3])
    wanted = '{"price": {"gt": 1e6}}'
    assert (ask(recommender, filter=wanted).item_ids == -1).all()
    index = recommender._index
    editor(own).update(pl.DataFrame({"item_id": [item], "price": [2e6]}))
    recommender.update_items()
    assert ask(recommender, filter=wanted).item_ids.tolist() == [item] + [-1] * 19
    assert recommender._index is index, "columns alone need no new index"


def test_what_is_kept_of_users_survives_new_items_alone(own: Path) -> None:
    recommender = Recommender.load(own)
    (record,) = recommender.bundle.users.get_many(["user-003"])
    assert record is not None
    time = int(record.times[-1]) + 86_400
    event = {"item_ids": recommender.catalogue.item_ids[[4]], "event_times": np.array([time])}
    ask(recommender, **event, time=time)
    editor(own).add(described(own, place=5))
    recommender.update_items()
    ask(recommender, **event, time=time)
    editor(own).update(described(own, 9, int(recommender.catalogue.item_ids[4])))
    recommender.update_items()
    ask(recommender, **event, time=time)
    counts = recommender.live.counts
    assert {kind: counts[kind] for kind in ("first", "unchanged", "features")} == {
        "first": 1, "unchanged": 1, "features": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e, p: e.add(described(p, 5, OLD[3])), "expected a new item, got 1021: update it"),
        (lambda e, p: e.update(described(p, 5)), "of the catalogue, got 900001: add it"),
        (lambda e, p: e.remove([OLD[0], NEW]), "of the catalogue, got 900001"),
        (lambda e, p: e.add(pl.DataFrame({"item_id": [NEW]})), "expected a column text"),
        (lambda e, p: e.add(described(p, 5, colour="red")), "columns of .*, got 'colour'"),
        (lambda e, p: e.add(described(p, 5, price="dear")), "'price': item .*: expected float"),
        (lambda e, p: e.add(described(p, 5, text=None)), "row 0: text: expected a text, got null"),
        (
            lambda e, p: e.add(pl.concat([described(p, 5), described(p, 6)])),
            "expected each item once, got 900001 twice",
        ),
        (
            lambda e, p: e.update(pl.DataFrame({"item_id": ["3"], "price": [1.0]})),
            "item_id: expected 64-bit integers",
        ),
    ],
)
def test_what_is_refused_changes_nothing(own: Path, change: Any, message: str) -> None:
    with pytest.raises((DataError, BundleError), match=message):
        change(editor(own), own)
    assert ChangeLog(changes_folder(own), "").version() is None


def test_another_embedder_is_refused(own: Path) -> None:
    opened = Bundle.open(own, verify=False)
    log = ChangeLog(changes_folder(own), opened.model_id)
    with pytest.raises(DataError, match=r"expected embeddings of .*, got none"):
        ItemEditor(opened, log).add(described(own, 5))
    assert ItemEditor(opened, log).update(pl.DataFrame({"item_id": OLD[3:4], "price": [1.0]})) == 1


def test_changes_of_another_bundle_are_refused(own: Path) -> None:
    with ChangeLog(changes_folder(own), "another").write() as changes:
        changes[OLD[3]] = ItemChange(active=False)
    with pytest.raises(BundleError, match=r"expected changes of bundle .*, got of another: add"):
        Recommender.load(own)


def test_broken_changes_leave_a_server_as_it_was(own: Path) -> None:
    recommender = Recommender.load(own)
    before = ask(recommender).item_ids
    folder = changes_folder(own)
    editor(own).remove([int(before[0])])
    (folder / "000001.json").write_text("{")
    with pytest.raises(BundleError, match="expected item changes"):
        recommender.update_items()
    np.testing.assert_array_equal(ask(recommender).item_ids, before)


def test_writers_take_turns(own: Path) -> None:
    def remove(item: int) -> None:
        editor(own).remove([item])

    threads = [threading.Thread(target=remove, args=(item,)) for item in OLD]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not changed(own).active[:8].any()
    assert len([*changes_folder(own).glob("*.json")]) == 3


def test_new_rows_come_from_the_text(own: Path) -> None:
    """A planted error: with another text the row is another."""
    editor(own).add(described(own, 5))
    editor(own).add(described(own, 5, NEW + 1, text="quite another thing"))
    rows = changed(own).rows
    assert not np.allclose(rows[-1], rows[-2], atol=1e-3)


def test_new_item_is_recommended_without_training(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product that did not exist at training time, without a restart; its removal at once."""
    monkeypatch.setattr("engine.data.text.MiniLmEmbedder", HashedWords)
    run = CliRunner()

    def command(*words: str) -> str:
        result = run.invoke(app, ["items", *words, "--bundle", str(own)])
        assert result.exit_code == 0, result.output
        return result.output

    with TritonServer([MODEL_REPOSITORY], own) as server, StarsClient(server.grpc_url) as client:
        asked: dict[str, Any] = {"k": 20, "time": 1_714_000_000, "repeats": "exclude"}
        best = int(client.recommend("user-003", **asked).item_ids[0])
        place = int(changed(own).places(np.array([best]))[0])
        described(own, place).write_parquet(tmp_path / "new.parquet")
        assert "1 items added" in command("add", str(tmp_path / "new.parquet"))
        assert NEW in client.recommend("user-003", **asked).item_ids
        setting = json.dumps({"price": 3e6})
        assert "1 items updated" in command("update", "--item", str(NEW), "--set", setting)
        dear = client.recommend("user-003", **asked, filter='{"price": {"gt": 1e6}}')
        assert dear.item_ids[0] == NEW
        assert "1 items removed" in command("remove", str(NEW))
        assert NEW not in client.recommend("user-003", **asked).item_ids
    refused = run.invoke(app, ["items", "update", "--bundle", str(own)])
    assert refused.exit_code == 2
