"""Peers: what they are handed, what comes back, and that the real libraries keep the contract."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from engine.data.dataset import Dataset
from engine.errors import BackendUnavailable
from engine.evaluation import peer_environments, peer_worker, peers
from engine.evaluation.guard import _changed, check
from engine.evaluation.peer_environments import install, interpreter, missing
from engine.evaluation.peer_settings import GROCERIES, NAMES, REVIEWS
from engine.evaluation.peers import (
    NearestSettings,
    Sequences,
    TransformerSettings,
    leave_one_out_lists,
    next_session_lists,
    peer_lists,
)
from engine.evaluation.protocol import Cuts, Task, next_session
from tests.tiny import tiny_shop

TINY = TransformerSettings(n_factors=16, session_max_len=12, n_negatives=8, batch_size=32)
# Lists the last item of every asked history, and says what it was handed.
FAKE = """
import json, sys
from pathlib import Path
import numpy as np

folder = Path(sys.argv[1])
request = json.loads((folder / "request.json").read_text())
file = np.load(folder / "sequences.npz")
lists = np.full((len(file["users"]), request["k"]), -1)
lists[:, 0] = file["asked_item"][file["asked_offsets"][1:][file["users"]] - 1]
np.savez(folder / "lists.npz", lists=lists, discovery=lists + 1)
held = file["train_held"]
answer = {"minutes": request["minutes"], "epochs": request["epochs"] or 0, "kept": 0,
          "stopped_by": "time", "answer_minutes": 0.25, "events": int((~held).sum()),
          "versions": {"request": json.dumps(request), "folder": str(folder)}}
(folder / "answer.json").write_text(json.dumps(answer))
"""


def sequences(rows: list[list[int]]) -> Sequences:
    """Each item a basket of its own, nothing held."""
    items = np.array([item for row in rows for item in row], np.int64)
    lengths = [len(row) for row in rows]
    session = np.concatenate([np.arange(n) for n in lengths]).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(offsets, items, session, np.zeros(len(items), np.bool_))


ROWS = sequences([[1, 2, 3, 4], [2, 3], [5, 1, 2]])


@pytest.fixture
def faked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker in this interpreter whose text a test may change."""
    worker = tmp_path / "fake.py"
    worker.write_text(FAKE)
    monkeypatch.setattr(peers, "WORKER", worker)
    monkeypatch.setattr(peers, "interpreter", lambda library: Path(sys.executable))
    return worker


@pytest.fixture(scope="module")
def task(dataset: Dataset, cuts: Cuts) -> Task:
    return next_session(dataset, cuts.test, cuts.end)


def real(library: str) -> None:
    if missing([library]):
        pytest.skip(f"{library}: no environment; `peer_environments` makes it: not run")


def test_a_peer_is_handed_what_came_before_the_cut(dataset: Dataset, task: Task) -> None:
    past = Sequences.before(dataset, task.cut)
    for user in range(len(dataset.user_ids)):
        own = slice(*dataset.event_offsets[user : user + 2])
        known = dataset.event_time[own] < task.cut
        at = slice(*past.offsets[user : user + 2])
        np.testing.assert_array_equal(past.item[at], dataset.event_item[own][known])
        np.testing.assert_array_equal(past.session[at], dataset.event_session[own][known])
    assert not past.held.any()
    later = Sequences.before(dataset, task.cut + 1)
    assert len(later.item) >= len(past.item)


def test_what_it_is_handed_knows_nothing_of_the_answers(dataset: Dataset, task: Task) -> None:
    past = vars(Sequences.before(dataset, task.cut))
    for name, changed in _changed(dataset, task, np.random.default_rng(0)).items():
        for field, value in vars(Sequences.before(changed, task.cut)).items():
            np.testing.assert_array_equal(value, past[field], err_msg=f"{name}: {field}")


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=8))
def test_the_last_event_of_three_or_more_is_held(rows: list[list[int]]) -> None:
    held = sequences(rows).last_held().held
    for row, (low, high) in zip(rows, pairwise(sequences(rows).offsets.tolist()), strict=True):
        last = [len(row) >= 3] if row else []
        assert held[low:high].tolist() == [False] * (len(row) - 1) + last


def test_the_files_carry_the_request_and_the_answer(faked: Path, tmp_path: Path) -> None:
    users = np.array([2, 0])
    asked = replace(ROWS, item=ROWS.item + 10)
    found = peer_lists(
        "sasrec", ROWS.last_held(), users, TINY, asked=asked, k=3, epochs=4, minutes=0.5,
        threads=1, seed=7, work=tmp_path / "work",
    )  # fmt: skip
    assert found.lists.tolist() == [[12, -1, -1], [14, -1, -1]]
    assert found.discovery.tolist() == (found.lists + 1).tolist()
    assert (found.epochs, found.minutes, found.stopped_by) == (4, 0.5, "time")
    assert found.answer_minutes == 0.25
    assert found.events == len(ROWS.item) - 2
    assert found.settings == TINY.model_dump()
    assert json.loads(found.versions["request"]) == {
        "name": "sasrec", "settings": TINY.model_dump(), "k": 3, "epochs": 4, "minutes": 0.5,
        "threads": 1, "seed": 7,
    }  # fmt: skip
    assert not Path(found.versions["folder"]).exists()
    assert Path(found.versions["folder"]).parent == tmp_path / "work"


def test_who_is_asked_is_trained_on_unless_said_otherwise(faked: Path, tmp_path: Path) -> None:
    found = peer_lists(
        "upcf", ROWS, np.array([1]), NearestSettings(), threads=1, work=tmp_path / "work"
    )
    assert found.lists[0, 0] == 3
    assert found.lists.shape == (1, 10)


def test_leave_one_out_trains_and_asks_by_protocol(faked: Path, tmp_path: Path) -> None:
    shop = tiny_shop(with_time=False)
    validation, test = np.quantile(shop.event_time, (0.7, 0.9)).astype(int).tolist()
    users = np.flatnonzero(np.diff(Sequences.before(shop, validation).offsets))

    def asked(**options: Any) -> peers.PeerResult:
        return leave_one_out_lists(
            "sasrec", shop, (validation, test), users, tmp_path, threads=1, **options
        )

    def last(cut: int) -> list[int]:
        before = Sequences.before(shop, cut)
        return before.item[before.offsets[1:][users] - 1].tolist()

    strict = asked()
    assert strict.events == np.count_nonzero(shop.event_time < validation)
    assert strict.lists[:, 0].tolist() == last(test) != last(validation)
    assert asked(split="validation").lists[:, 0].tolist() == last(validation)
    refit = asked(protocol="refit", epochs=3)
    assert refit.events == np.count_nonzero(shop.event_time < test) > strict.events
    with pytest.raises(ValueError, match=r"split: expected test for refit, which trained on"):
        asked(protocol="refit", split="validation", epochs=3)
    with pytest.raises(ValueError, match=r"expected held events to stop by, or epochs"):
        asked(protocol="refit")


def test_the_next_session_is_asked_of_all_before_the_cut(
    faked: Path, tmp_path: Path, dataset: Dataset, task: Task
) -> None:
    past = Sequences.before(dataset, task.cut)
    held = np.count_nonzero(np.diff(past.offsets) >= 3)
    for name, events in (("sasrec", len(past.item) - held), ("upcf", len(past.item))):
        found = next_session_lists(name, dataset, task, tmp_path, threads=1)
        assert found.events == events
        assert found.lists[:, 0].tolist() == past.item[past.offsets[1:][task.users] - 1].tolist()
        assert found.settings == GROCERIES[name].model_dump()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "gru4rec"}, r"name: expected one of \('sasrec', .*, got 'gru4rec'"),
        (
            {"settings": NearestSettings()},
            "expected TransformerSettings for sasrec, got NearestSettings",
        ),
        ({"name": "upcf"}, "expected NearestSettings for upcf, got TransformerSettings"),
        ({"users": np.array([0, 3])}, "users: expected distinct indices below 3"),
        ({"users": np.array([-1])}, "users: expected distinct indices below 3"),
        ({"users": np.array([1, 1])}, "users: expected distinct indices below 3"),
        ({"train": ROWS}, "expected held events to stop by, or epochs, got neither"),
        ({"k": 0}, "k: expected at least 1, got 0"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"threads": 0}, "threads: expected at least 1, got 0"),
        ({"minutes": 0.0}, r"minutes: expected more than 0, got 0\.0"),
        ({"minutes": float("nan")}, "minutes: expected more than 0, got nan"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], text: str, faked: Path, tmp_path: Path) -> None:
    given = {"name": "sasrec", "train": ROWS.last_held(), "users": np.arange(3), "settings": TINY}
    with pytest.raises(ValueError, match=text):
        peer_lists(**(given | {"work": tmp_path} | changes))


def test_settings_refuse_what_they_do_not_know() -> None:
    assert set(GROCERIES) == set(REVIEWS) == set(NAMES)
    with pytest.raises(ValidationError, match="extra_forbidden"):
        TransformerSettings.model_validate({"n_layers": 2})
    with pytest.raises(ValidationError, match="less_than_equal"):
        NearestSettings(asymmetry=1.5)


@pytest.mark.parametrize(
    ("worker", "text"),
    [
        ("raise ValueError('no items')", "got status 1 and ValueError: no items"),
        (
            "class LostError(Exception): pass\nraise LostError('gone\\nin two lines')",
            "got status 1 and .*LostError: gone",
        ),
        ("import os; os.kill(os.getpid(), 9)", "got status -9 and nothing"),
    ],
)
def test_a_failure_is_one_sentence(worker: str, text: str, faked: Path, tmp_path: Path) -> None:
    faked.write_text(worker)
    with pytest.raises(BackendUnavailable, match=f"^sasrec: expected lists of rectools, {text}$"):
        peer_lists("sasrec", ROWS.last_held(), np.arange(3), TINY, threads=1, work=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["fake.py"]


def test_a_missing_environment_says_how_it_is_made(tmp_path: Path) -> None:
    assert missing(["cornac"], tmp_path) == ["cornac"]
    with pytest.raises(
        BackendUnavailable,
        match=r"cornac: expected its environment in /.*/cornac, got none; "
        r"`python -m engine\.evaluation\.peer_environments cornac` makes it",
    ):
        interpreter("cornac", tmp_path)


def test_an_environment_is_made_or_the_reason_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"expected one of \['cornac', .*, got 'surprise'"):
        install(["surprise"], tmp_path)
    (tmp_path / "cornac").write_text("in the way")
    with pytest.raises(BackendUnavailable, match=r"cornac: expected .* got status 1: .*cornac"):
        install(["cornac"], tmp_path)
    ran: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(peer_environments.subprocess, "run", run)
    install(["rectools"], tmp_path)
    place = str(tmp_path / "rectools")
    assert ran[0] == [sys.executable, "-m", "venv", place]
    assert ran[1] == [f"{place}/bin/pip", "install", *peer_environments.PACKAGES["rectools"]]


def test_ranks_become_places_in_the_row() -> None:
    found = pl.DataFrame(
        {"user_id": [7, 7, 2, 2, 2], "item_id": [5, 4, 9, 8, 1], "rank": [2, 1, 1, 3, 2]}
    )
    rows = peer_worker._rows(found, np.array([7, 1, 2]), 3)
    assert rows.tolist() == [[4, 5, -1], [-1, -1, -1], [9, 1, 8]]


def test_ties_and_zeros_of_scores() -> None:
    items = np.array([30, 20, 10, 40])
    assert peer_worker._best(np.array([1.0, 2, 2, 0]), items, 3).tolist() == [10, 20, 30]
    assert peer_worker._best(np.array([1.0, 0, 0, 0]), items, 3).tolist() == [30, -1, -1]


def expected_upcf(train: Sequences, user: int, settings: NearestSettings) -> NDArray[np.float64]:
    """UP-CF's scores by its formula: own share of recent baskets + Σ sim^q share of the others."""
    n_items = int(train.item.max()) + 1
    rows = [slice(*train.offsets[n : n + 2]) for n in range(len(train.offsets) - 1)]
    counts = np.stack([np.bincount(train.item[at], minlength=n_items) for at in rows])
    share = np.zeros(counts.shape)
    for n, at in enumerate(rows):
        sessions = np.unique(train.session[at])[-settings.recency :]
        recent = train.item[at][np.isin(train.session[at], sessions)]
        share[n] = np.bincount(recent, minlength=n_items) / max(len(sessions), 1)
    own = counts[user] > 0
    a = settings.asymmetry
    norms = own.sum() ** a * (counts**2).sum(1) ** (1 - a)
    similar = (counts @ own / norms) ** settings.locality
    similar[user] = 1
    return similar @ share


def test_upcf_is_its_formula_and_honest(dataset: Dataset, task: Task, tmp_path: Path) -> None:
    real("cornac")
    settings = NearestSettings(recency=5, locality=2)
    past = Sequences.before(dataset, task.cut)
    found = next_session_lists(
        "upcf", dataset, task, tmp_path, threads=1, settings=settings, minutes=1
    )
    for row, fresh, user in zip(found.lists, found.discovery, task.users, strict=True):
        scores = expected_upcf(past, int(user), settings)
        np.testing.assert_allclose(scores[row], np.sort(scores)[::-1][:10], rtol=1e-5)
        scores[past.item[slice(*past.offsets[user : user + 2])]] = 0
        best = np.sort(scores)[::-1][:10]
        np.testing.assert_allclose(np.where(fresh < 0, 0, scores[fresh]), best, rtol=1e-5)
    assert (found.epochs, found.events) == (0, len(past.item))
    assert found.answer_minutes > 0
    assert set(found.versions) == {"cornac", "similaripy"}

    def method(dataset: Dataset, task: Task) -> NDArray[np.int64]:
        return next_session_lists("upcf", dataset, task, tmp_path, threads=1).lists

    few = replace(task, users=task.users[:8], times=task.times[:8], targets=task.targets[:8])
    check(method, dataset, few, "upcf")


RING = 12  # everyone walks around it, but for one whose held item nobody else has
STARTS = np.arange(96) % RING
WALKS = [[(int(start) + n) % RING for n in range(6)] for start in STARTS]
USERS = np.array([5, 90, 40, 3])


def around(name: peers.Name, folder: Path, **changes: Any) -> peers.PeerResult:
    """A real transformer after the walks; keys of the settings, and epochs and minutes."""
    real("rectools")
    held = [RING, *((STARTS[1:] + 6) % RING).tolist()]
    train = sequences([[*walk, item] for walk, item in zip(WALKS, held, strict=True)]).last_held()
    run = {key: changes.pop(key) for key in ("epochs", "minutes") if key in changes}
    settings = TINY.model_copy(
        update={"session_max_len": 7, "lr": 0.02, "dropout_rate": 0.0, "patience": 10**6} | changes
    )
    found = peer_lists(
        name, train, USERS, settings, asked=sequences(WALKS), threads=1, work=folder, **run
    )
    for row, fresh, user in zip(found.lists, found.discovery, USERS, strict=True):
        assert len(set(row)) == 10
        assert set(row) <= set(range(RING))
        assert set(fresh[:6]) == set(range(RING)) - set(WALKS[user])
        assert set(fresh[6:]) == {-1}
        ranked = [item for item in row if item in fresh[:6]]
        assert fresh[: len(ranked)].tolist() == ranked
    assert found.events == 96 * 6
    assert 0 < found.kept <= found.epochs
    assert found.answer_minutes > 0
    assert set(found.versions) == {"rectools", "torch"}
    return found


def test_sasrec_learns_what_follows_what(tmp_path: Path) -> None:
    found = around("sasrec", tmp_path, epochs=25)
    assert found.lists[:, 0].tolist() == ((STARTS[USERS] + 6) % RING).tolist()
    assert (found.epochs, found.stopped_by) == (25, "epochs")


def test_bert4rec_stops_by_time(tmp_path: Path) -> None:
    found = around("bert4rec", tmp_path, minutes=0.02, max_epochs=10**6, layers="own")
    assert found.stopped_by == "time"
    assert 0.02 <= found.minutes < 0.5


@pytest.mark.parametrize(
    ("stopped_epoch", "steps", "stopped_by"),
    [(7, 80, "early stopping"), (0, 100, "epochs"), (0, 85, "time")],
)
def test_the_weights_of_the_lowest_validation_loss_are_put_back(
    stopped_epoch: int, steps: int, stopped_by: str
) -> None:
    loaded: list[str] = []
    trainer = SimpleNamespace(
        global_step=steps,
        num_training_batches=10,
        max_epochs=10,
        early_stopping_callback=SimpleNamespace(stopped_epoch=stopped_epoch),
        checkpoint_callback=SimpleNamespace(best_model_path="/folder/step=35.ckpt"),
    )
    model = SimpleNamespace(fit_trainer=trainer, load_weights_from_checkpoint=loaded.append)
    kept = peer_worker._kept(model)
    assert kept == {"epochs": steps / 10, "kept": 3.5, "stopped_by": stopped_by}
    assert loaded == ["/folder/step=35.ckpt"]
    trainer.early_stopping_callback = trainer.checkpoint_callback = None
    assert peer_worker._kept(model)["kept"] == steps / 10
    assert len(loaded) == 1
