import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from typer.testing import CliRunner

from benchmarks.hashed_words import HashedWords
from engine import cli
from engine.config import Config, load_config
from engine.data.amazon import Amazon, write_shop
from engine.data.dataset import Dataset
from engine.data.prepare import prepare
from engine.errors import DataError, StarsError
from engine.evaluation import amazon
from engine.evaluation.leave_one_out import accuracy, next_items, top_items
from engine.evaluation.neighbours import Neighbours
from engine.features import UserFeatures, encode_inputs
from engine.model.build import build_model
from engine.model.stars import Events
from engine.training.history import past
from engine.training.loop import WEIGHTS_FILE
from tests.tiny import tiny_shop, trained_like

USERS, ITEMS = 40, 30
TOML = """
[model]
d_model = 16
d_ff = 16
d_serve = 8
window = 6
hop = 2
text_dim = 8
attribute_dim = 4
[train]
epochs = 2.0
batch_size = 16
lr = 0.01
average = 0.9
refit_epochs = 1.0
length_batches = 2
shared_uniform = 20
"""


def tiny(folder: Path) -> Config:
    path = folder / "tiny.toml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(TOML)
    return load_config("next-item", path)


def sequences() -> list[list[int]]:
    rng = random.Random(0)
    return [rng.sample(range(1, ITEMS + 1), rng.randint(4, 14)) for _ in range(USERS)]


def source(
    folder: Path, rows: list[list[int]] | None = None, number: Callable[[int], int] = int
) -> Path:
    """A folder of USERS users and ITEMS items; `number` renames the items."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [[n, *map(number, row)] for n, row in enumerate(rows or sequences(), start=1)]
    (folder / "Toys.txt").write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    items = [
        {
            "id": number(n),
            "asin": f"B{n}",
            "text_id": f"word{n % 7} word{n}",
            "attrs": [f"c{n % 3}"],
        }
        for n in range(1, ITEMS + 1)
    ]
    (folder / "Toys.items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


@cache
def prepared(folder: Path) -> tuple[Dataset, tuple[int, int]]:
    data = Amazon.read(folder)
    shop = write_shop(data, folder / "shop")
    return prepare(shop, folder / "data", embedder=HashedWords(16)), data.cuts


def result(folder: Path, work: Path, protocol: amazon.Protocol, **options: Any) -> amazon.Result:
    return amazon.run(folder, work, protocol, tiny(work), HashedWords(16), **options)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 14), min_size=1, max_size=30), st.integers(0, 99))
def test_measures_are_those_of_the_rank(ranks: list[int], seed: int) -> None:
    """The target's place decides: 10 and later counts nothing."""
    rng = np.random.default_rng(seed)
    lists = np.stack([rng.permutation(40)[:15] for _ in ranks])
    target = lists[np.arange(len(ranks)), ranks].astype(np.int32)
    means, errors = accuracy(lists[:, :10], target)
    for k in (5, 10):
        hit = np.array([rank < k for rank in ranks], float)
        gain = np.array([1 / np.log2(rank + 2) if rank < k else 0.0 for rank in ranks])
        for name, values in ((f"recall@{k}", hit), (f"ndcg@{k}", gain)):
            assert means[name] == pytest.approx(values.mean())
            assert errors[name] == pytest.approx(values.std() / len(ranks) ** 0.5)


@pytest.mark.parametrize("split", [0, 1])
def test_lists_are_the_best_of_all_items_but_the_users_own(tmp_path: Path, split: int) -> None:
    dataset, cuts = prepared(source(tmp_path))
    config = tiny(tmp_path)
    model = trained_like(build_model(config.model, dataset, seed=0)).eval()
    history = past(dataset, cuts[split], 1.0, ("purchase",))
    asked = next_items(dataset, cuts[split])
    assert asked.users.tolist() == list(range(USERS))
    near = Neighbours.of(history)
    (lists,) = top_items(model, history, asked.users, near)
    rows = model.items.rows(torch.arange(ITEMS))
    candidates = model.items.candidates(rows).detach().numpy()
    for user, list_ in zip(asked.users.tolist(), lists, strict=True):
        events = dataset.event_item[slice(*dataset.event_offsets[user : user + 2])]
        kept = events[: len(events) - (2 - split)]
        assert asked.target[user] == events[len(kept)]
        one = UserFeatures(dataset.user_categorical[[user]], dataset.user_numeric[[user]])
        arrays = encode_inputs(
            [history.history(user)], one, rows.detach().numpy(), history.calendar, 6, 2
        )
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        window, length = inputs.pop("rows"), inputs.pop("length")
        hidden, _ = model.encode(window, Events(**inputs), length[:, None])
        zero = torch.zeros(1, dtype=torch.int64)
        delta = model.context(zero, zero, zero, torch.zeros(1), torch.zeros(1, 0))
        scores = ((hidden[0, 0] + delta[0]).detach().numpy() * candidates).sum(axis=1)
        scores[kept] = -np.inf
        # Equal but for the order of scores that rounding may swap.
        np.testing.assert_allclose(scores[list_], np.sort(scores)[::-1][:10], rtol=1e-4, atol=1e-5)
        assert not set(list_.tolist()) & set(kept.tolist())


def changed(back: int) -> list[list[int]]:
    """Every user's item `back` places before the end is another one."""
    rows = sequences()
    for row in rows:
        row[-back] = next(n for n in range(1, ITEMS + 1) if n not in row)
    return rows


@pytest.mark.parametrize(
    ("protocol", "back", "trained_on"),
    [("strict", 1, False), ("strict", 2, False), ("strict", 3, True),
     ("refit", 1, False), ("refit", 2, True)],
)  # fmt: skip
def test_training_reads_nothing_of_what_is_asked(
    tmp_path: Path, protocol: amazon.Protocol, back: int, trained_on: bool
) -> None:
    weights = []
    for name, rows in (("one", sequences()), ("other", changed(back))):
        result(source(tmp_path / name / "in", rows), tmp_path / name, protocol)
        weights.append(load_file(tmp_path / name / "Toys" / f"run-{protocol}-0" / WEIGHTS_FILE))
    one, other = weights
    equal = all(torch.equal(one[name], other[name]) for name in one)
    assert equal is not trained_on


def test_what_a_run_says(tmp_path: Path) -> None:
    strict = result(source(tmp_path / "in"), tmp_path / "work", "strict")
    assert strict.validation is not None
    assert set(strict.test) == {"recall@5", "ndcg@5", "recall@10", "ndcg@10"}
    assert set(strict.standard_error) == {"test", "validation"}
    assert strict.counts["users"] == USERS
    assert strict.counts["tags"] == 3
    refit = result(source(tmp_path / "in"), tmp_path / "work", "refit", seed=3)
    assert (refit.validation, refit.seed) == (None, 3)
    assert set(refit.standard_error) == {"test"}
    assert refit.test != strict.test
    json.dumps(refit.as_json())


def test_the_numbers_of_items_change_no_figure(tmp_path: Path) -> None:
    one = result(source(tmp_path / "in"), tmp_path / "one", "strict")
    renamed = source(tmp_path / "renamed", number=lambda n: 1 + (n * 11) % 31)
    other = result(renamed, tmp_path / "other", "strict")
    assert (one.test, one.validation) == (other.test, other.validation)


def test_content_that_is_left_out_changes_nothing_any_more(tmp_path: Path) -> None:
    """Without text and tags, items are known by their own residual alone."""
    folder = source(tmp_path / "in")
    one = result(folder, tmp_path / "one", "strict", without=("text", "tags"))
    path = folder / "Toys.items.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(
            json.dumps({**r, "text_id": f"t{n}", "attrs": []}) + "\n" for n, r in enumerate(rows)
        )
    )
    other = result(folder, tmp_path / "other", "strict", without=("text", "tags"))
    assert one.test == other.test
    assert one.counts["texts"] == 1
    assert one.counts["tags"] == 0


def test_a_cut_without_events_and_data_with_times(tmp_path: Path) -> None:
    dataset, _ = prepared(source(tmp_path))
    with pytest.raises(StarsError, match="expected events at order 99, got none"):
        next_items(dataset, 99)
    with pytest.raises(StarsError, match="expected events with an order, got events with a time"):
        next_items(tiny_shop(), 3)


def test_the_command(tmp_path: Path) -> None:
    tiny(tmp_path)
    arguments = [
        "evaluate", "--dataset", "amazon", "--path", str(source(tmp_path / "in")),
        "--protocol", "refit", "--without", "text", "--seed", "2", "--threads", "1",
        "--config", str(tmp_path / "tiny.toml"), "--work", str(tmp_path / "work"),
        "--json", str(tmp_path / "out.json"),
    ]  # fmt: skip
    answer = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    assert "Toys, refit, without text" in answer.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["protocol"], written["seed"], written["without"]) == ("refit", 2, ["text"])
    assert written["config"]["model"]["d_model"] == 16
    assert written["validation"] is None
    assert 0 <= written["test"]["ndcg@10"] <= written["test"]["recall@10"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "amazon"], "expected --path"),
        (["--dataset", "amazon", "--path", "x", "--data", "y"], "no --data or --bundle"),
        (["--data", "x"], "expected --data and --bundle"),
        (["--data", "x", "--bundle", "y", "--path", "z"], "expected --data and --bundle"),
        (["--dataset", "amazon", "--path", "x", "--without", "ids"], "expected text, tags"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], message: str) -> None:
    answer = CliRunner().invoke(cli.app, ["evaluate", *arguments])
    assert answer.exit_code == 2
    assert message in " ".join(answer.output.replace("│", " ").split())


def test_a_folder_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected one file <Name>\.items\.jsonl, got none"):
        result(tmp_path / "empty", tmp_path / "work", "strict")
