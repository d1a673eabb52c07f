import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import engine.training.loop as loop
from engine.config import Config
from engine.data.dataset import Dataset
from engine.errors import ConfigError
from engine.model.build import build_model
from engine.model.stars import Stars
from engine.training.batches import Batches
from engine.training.checkpoint import CHECKPOINT_FILE
from engine.training.history import past
from tests.tiny import cut_of, shop_of, tiny_config, tiny_shop, without_later

ROOT = Path(__file__).resolve().parents[2]
CUT = 0.8


def trained(folder: Path, dataset: Dataset | None = None, **changes: Any) -> Stars:
    shop = dataset or tiny_shop()
    return loop.train(shop, cut_of(tiny_shop(), CUT), tiny_config(**changes), folder, quiet=True)


def steps_an_epoch(config: Config) -> int:
    shop = tiny_shop()
    return Batches(past(shop, cut_of(shop, CUT), 1.0, ("purchase",)), config).steps()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / loop.METRICS_FILE).read_text().splitlines()]


class PowerError(Exception):
    """It went out."""


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = loop._Run.step

    def step_or_fail(self: loop._Run, at: int) -> Any:
        if at == step:
            raise PowerError
        return go_on(self, at)

    monkeypatch.setattr(loop._Run, "step", step_or_fail)


def test_training_reduces_every_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_LOG_STEPS", 1)
    trained(tmp_path, epochs=8.0)
    made = records(tmp_path)
    assert [r["step"] for r in made] == list(range(8 * steps_an_epoch(tiny_config())))
    for name in ("total", "next", "general", "negative"):
        first, last = (np.mean([r[name] for r in part]) for part in (made[:6], made[-6:]))
        assert last < 0.92 * first, name


def test_what_a_run_leaves_behind(tmp_path: Path) -> None:
    model = trained(tmp_path / "run", epochs=1.0, checkpoint_steps=1)
    assert {path.name for path in (tmp_path / "run").rglob("*")} == {
        loop.WEIGHTS_FILE, loop.CONFIG_FILE, loop.METRICS_FILE,
    }  # fmt: skip
    assert same(load_file(tmp_path / "run" / loop.WEIGHTS_FILE), model.state_dict())
    stored = (tmp_path / "run" / loop.CONFIG_FILE).read_text()
    assert Config.model_validate_json(stored) == tiny_config(epochs=1.0, checkpoint_steps=1)
    assert not model.training
    assert {
        "step",
        "epoch",
        "lr_share",
        "total",
        "next",
        "general",
        "negative",
        "auxiliary",
        "repeat",
    } == set(records(tmp_path / "run")[0])


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    one = trained(tmp_path / "one", epochs=1.0).state_dict()
    again = trained(tmp_path / "again", epochs=1.0).state_dict()
    other = trained(tmp_path / "other", epochs=1.0, seed=1).state_dict()
    assert same(one, again)
    assert not same(one, other)


@pytest.mark.parametrize("stop", [3, 8, 11])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    changes = {"epochs": 3.0, "checkpoint_steps": 2, "delta_freeze": 0.5, "positions": 2}
    n_steps = steps_an_epoch(tiny_config(**changes))
    assert n_steps < 8 < 11 < 3 * n_steps, "in the first epoch, the second, and between"
    monkeypatch.setattr(loop, "_LOG_STEPS", 1)
    whole = trained(tmp_path / "whole", **changes).state_dict()
    with monkeypatch.context() as patched:
        interrupt_at(stop, patched)
        with pytest.raises(PowerError):
            trained(tmp_path / "run", **changes)
    assert (tmp_path / "run" / CHECKPOINT_FILE).exists()
    assert not (tmp_path / "run" / loop.WEIGHTS_FILE).exists()

    seen: list[int] = []
    go_on = loop._Run.step
    monkeypatch.setattr(loop._Run, "step", lambda self, at: seen.append(at) or go_on(self, at))
    resumed = trained(tmp_path / "run", **changes).state_dict()
    assert seen[0] == stop // 2 * 2
    assert same(resumed, whole)
    assert records(tmp_path / "run") == records(tmp_path / "whole")
    assert not (tmp_path / "run" / CHECKPOINT_FILE).exists()


def test_a_foreign_checkpoint_is_refused_and_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(2, patched)
        with pytest.raises(PowerError):
            trained(tmp_path, checkpoint_steps=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r"expected a checkpoint of training .*, got one of"):
        trained(tmp_path, checkpoint_steps=1, lr=0.5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match="expected a whole checkpoint"):
        trained(tmp_path, checkpoint_steps=1)


def test_a_second_training_starts_a_new_log(tmp_path: Path) -> None:
    trained(tmp_path, epochs=1.0)
    first = records(tmp_path)
    trained(tmp_path, epochs=1.0, seed=1)
    assert [r["step"] for r in records(tmp_path)] == [r["step"] for r in first]
    assert records(tmp_path) != first


def test_a_log_cut_off_in_a_line_is_mended(tmp_path: Path) -> None:
    (tmp_path / loop.METRICS_FILE).write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"st')
    loop._keep_log(tmp_path, 2)
    assert records(tmp_path) == [{"step": 0}, {"step": 1}]


def test_the_fingerprint_covers_all_that_decides_the_outcome() -> None:
    shop, other = tiny_shop(), tiny_shop(items=61)
    made = [
        loop.run_fingerprint(*arguments)
        for arguments in [
            (shop, 5, tiny_config()), (other, 5, tiny_config()), (shop, 6, tiny_config()),
            (shop, 5, tiny_config(lr=0.5)), (shop, 5, tiny_config(layers=1)),
            (shop, 5, tiny_config(), 2),
        ]
    ]  # fmt: skip
    assert len(set(made)) == len(made)
    assert loop.run_fingerprint(shop, 5, tiny_config()) == made[0]


def test_training_begins_with_given_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = trained(tmp_path / "first", epochs=0.5).state_dict()
    start, found = tmp_path / "first" / loop.WEIGHTS_FILE, {}

    def note(self: loop._Run, at: int) -> Any:
        found.update({name: value.clone() for name, value in self._model.state_dict().items()})
        raise PowerError

    shop, config = tiny_shop(), tiny_config(seed=1)
    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "step", note)
        with pytest.raises(PowerError):
            loop.train(shop, cut_of(shop, CUT), config, tmp_path / "run", quiet=True, start=start)
    assert same(found, before), "the scale of the repeat features included"
    other = tmp_path / "other.safetensors"
    other.write_bytes(start.read_bytes() + b" ")
    made = {loop.run_fingerprint(shop, 5, config, 1, path) for path in (None, start, other)}
    assert len(made) == 3


@pytest.mark.parametrize("wrong", ["missing", "damaged", "of another model"])
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, wrong: str) -> None:
    model, path = build_model(tiny_config().model, tiny_shop(), seed=0), tmp_path / "w.safetensors"
    if wrong == "damaged":
        path.write_bytes(b"no weights")
    elif wrong == "of another model":
        loop.save_weights(build_model(tiny_config(layers=1).model, tiny_shop(), seed=0), tmp_path)
        (tmp_path / loop.WEIGHTS_FILE).rename(path)
    with pytest.raises(
        ConfigError, match=r"w\.safetensors: expected weights that fit this model: (?s:.+)$"
    ):
        loop.load_weights(model, path)


def test_later_events_do_not_reach_the_weights(tmp_path: Path) -> None:
    cut = cut_of(tiny_shop(), CUT)
    full = trained(tmp_path / "full", epochs=0.5).state_dict()
    blind = trained(tmp_path / "blind", without_later(tiny_shop(), cut), epochs=0.5).state_dict()
    assert same(full, blind)


def test_delta_moves_when_its_freeze_ends_and_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[float, float]] = []
    go_on = loop._Run.step

    def note(self: loop._Run, at: int) -> Any:
        losses = go_on(self, at)
        model = self._model
        with torch.no_grad():
            sizes.append((model.items.delta.abs().max().item(), model.hour.abs().max().item()))
        return losses

    monkeypatch.setattr(loop._Run, "step", note)
    trained(tmp_path, epochs=2.0, delta_freeze=1.0, lr=1e-3)
    freeze = steps_an_epoch(tiny_config())
    assert [size for size, _ in sizes[:freeze]] == [0.0] * freeze
    assert all(size > 0 for size, _ in sizes[freeze:])
    assert all(size > 0 for _, size in sizes)
    # AdamW moves a weight by at most about its rate a step: a tenth of 1e-3 for Δ.
    assert sizes[freeze][0] < 3e-4


def test_the_rate_warms_up_and_falls_to_0() -> None:
    run = loop._Run.__new__(loop._Run)
    run._config, run._total = tiny_config(warmup=0.1).train, 50
    rates = [run.lr(step) for step in range(51)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert all(np.diff(rates[5:]) < 0)
    assert rates[27] == pytest.approx(0.5 * (1 + np.cos(np.pi * 22 / 45)))
    assert rates[50] == pytest.approx(0, abs=1e-9)
    run._config = tiny_config(warmup=0.0).train
    assert run.lr(0) == 1.0


def test_weight_decay_leaves_vectors_alone() -> None:
    model = build_model(tiny_config().model, tiny_shop(), seed=0)
    optimizer = loop._optimizer(model, tiny_config(weight_decay=0.3))
    matrices, vectors, delta = optimizer.param_groups
    assert delta["params"] == [model.items.delta]
    assert all(p.ndim > 1 for p in matrices["params"])
    assert all(p.ndim < 2 for p in vectors["params"])
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays == [0.3, 0.0, 0.3]
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.01, 0.001])
    n = sum(len(group["params"]) for group in optimizer.param_groups)
    assert n == len(list(model.parameters()))


def test_mixed_precision_trains(tmp_path: Path) -> None:
    model = trained(tmp_path, epochs=0.5, precision="bf16")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert np.isfinite(records(tmp_path)[-1]["total"])


def test_a_shop_without_time_trains(tmp_path: Path) -> None:
    shop = tiny_shop(with_time=False)
    config = tiny_config(epochs=0.5)
    model = loop.train(shop, cut_of(shop, CUT), config, tmp_path, quiet=True)
    assert np.isfinite(records(tmp_path)[-1]["total"])
    # One hour, one weekday, one week: the rest was never read.
    assert not model.hour[1:].any()
    assert not model.week[1:].any()


def test_a_shop_in_which_nobody_buys_twice_trains(tmp_path: Path) -> None:
    day = 86_400
    events = [(f"u{n}", item, 1_500_048_000 + item * day) for n in range(4) for item in (n, n + 1)]
    shop = shop_of(tmp_path, events, items=6)
    config = tiny_config(epochs=1.0, batch_size=2, history_candidates=1)
    loop.train(shop, 1_600_000_000, config, tmp_path / "run", quiet=True)
    assert np.isfinite(records(tmp_path / "run")[-1]["total"])


SCRIPT = """
import hashlib, sys
from pathlib import Path
import torch.distributed as dist
import engine.training.loop as loop
from tests.tiny import cut_of, tiny_config, tiny_shop

folder = Path(sys.argv[1])
written = []
save = loop.save_weights
loop.save_weights = lambda model, folder: (written.append("weights"), save(model, folder))
shop = tiny_shop()
changes = [{}, {"pooling": "cls", "repeats": False}]
for run, change in enumerate(changes):
    config = tiny_config(epochs=0.75, batch_size=4, **change)
    model = loop.train(shop, cut_of(shop, 0.8), config, folder / f"run{run}", quiet=True)
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    (folder / f"weights-{run}-{dist.get_rank()}").write_text(digest.hexdigest())
(folder / f"written-{dist.get_rank()}").write_text(" ".join(written))
dist.destroy_process_group()
"""


def test_torchrun_trains_with_two_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    result = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            str(tmp_path / "script.py"), str(tmp_path),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for run in (0, 1):
        mine, other = ((tmp_path / f"weights-{run}-{rank}").read_text() for rank in (0, 1))
        assert mine == other, "the processes' weights went apart"
        assert len(records(tmp_path / f"run{run}")) == 2
        assert {path.name for path in (tmp_path / f"run{run}").iterdir()} == {
            loop.WEIGHTS_FILE, loop.CONFIG_FILE, loop.METRICS_FILE,
        }  # fmt: skip
    assert (tmp_path / "written-0").read_text() == "weights weights"
    assert (tmp_path / "written-1").read_text() == ""
