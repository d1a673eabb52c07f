"""What short histories without times ask of training: the preset next-item and its options."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.config import load_config
from engine.errors import ConfigError
from engine.model.build import build_model
from engine.training.batches import Batches, _by_length
from engine.training.history import Past, past
from engine.training.loss import Objective
from tests.tiny import cut_of, tiny_config, tiny_shop


def shop_past() -> Past:
    shop = tiny_shop(with_time=False)
    return past(shop, cut_of(shop, 0.8), 1.0, ("purchase",))


def test_windows_of_a_batch_are_of_like_length() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 50, 101)
    order = rng.permutation(101)
    sorted_ = _by_length(order, lengths, 8, 4, rng)
    assert sorted(sorted_.tolist()) == list(range(101))
    # The rest that fills no batch stays what the shuffle made of it.
    assert sorted_[96:].tolist() == order[96:].tolist()
    spread = [np.ptp(lengths[order[i : i + 8]]) for i in range(0, 96, 8)]
    ours = [np.ptp(lengths[sorted_[i : i + 8]]) for i in range(0, 96, 8)]
    assert np.mean(ours) < 0.5 * np.mean(spread)
    # Neither do batches come in the order of their lengths.
    means = [lengths[sorted_[i : i + 8]].mean() for i in range(0, 96, 8)]
    assert np.any(np.diff(means) < 0)
    assert np.any(np.diff(means) > 0)


def test_an_epoch_by_length_has_every_window_that_one_without_has() -> None:
    history = shop_past()
    config = tiny_config(length_batches=3, batch_size=4)
    batches = list(Batches(history, config).epoch(0))
    plain = list(Batches(history, tiny_config(batch_size=4)).epoch(0))
    assert len(batches) == len(plain)
    again = list(Batches(history, config).epoch(0, first_step=2))
    assert torch.equal(again[0].item, batches[2].item)
    width = [np.mean([b.sequence.shape[1] for b in made]) for made in (batches, plain)]
    assert width[0] < width[1]


def test_without_histories_a_position_lists_its_targets() -> None:
    config = tiny_config(
        repeats=False, history_candidates=0, subclass_negatives=0, lambda_gen=0.0, gen_sessions=1
    )
    batch = next(Batches(shop_past(), config).epoch(0))
    own = batch.candidates
    assert torch.equal(own.own >= 0, own.weight_next > 0)
    assert len(own.bought) == len(own.features) == 0


@pytest.mark.parametrize("lambda_aux", [0.0, 0.1])
def test_the_losses_are_those_of_the_operator(lambda_aux: float) -> None:
    """On a CPU the short way, else the operator: the same numbers and gradients."""
    config = tiny_config(
        repeats=False, history_candidates=0, subclass_negatives=0, lambda_gen=0.0, gen_sessions=1,
        lambda_neg=0.0, lambda_aux=lambda_aux, dropout=0.0, lambda_train=0.3,
    )  # fmt: skip
    history = shop_past()
    batch = next(Batches(history, config).epoch(0))
    found = []
    for few in (True, False):
        model = build_model(config.model, history.dataset, seed=0)
        objective = Objective(model, config.train, torch.from_numpy(history.log_p))
        assert objective._few
        objective._few = few
        losses = objective(batch)
        losses.total.backward()
        assert (float(losses.auxiliary.detach()) > 0) is (lambda_aux > 0)
        assert float(losses.general) == 0
        found.append((losses.total.detach(), model.items.project.weight.grad))
    torch.testing.assert_close(found[0], found[1])


def test_the_last_items_state_needs_no_read_outs() -> None:
    history = shop_past()
    config = tiny_config()
    model = build_model(config.model, history.dataset, seed=0).eval()
    batch = next(Batches(history, config).epoch(0))
    rows = model.items.rows(batch.item)
    arguments = rows, batch.events, batch.ends, batch.sequence
    torch.testing.assert_close(model.last(*arguments), model.hidden(*arguments)[0])


def test_tokens_are_dropped_in_training_alone() -> None:
    history = shop_past()
    batch = next(Batches(history, tiny_config()).epoch(0))
    states = []
    for config in (tiny_config(dropout=0.0), tiny_config(dropout=0.0, token_dropout=0.5)):
        model = build_model(config.model, history.dataset, seed=0)
        rows = model.items.rows(batch.item)
        arguments = rows, batch.events, batch.ends, batch.sequence
        states.append((model.train().last(*arguments), model.eval().last(*arguments)))
    assert torch.equal(states[0][1], states[1][1])
    assert not torch.allclose(states[0][0], states[1][0])


def test_the_preset_and_what_it_rules_out(tmp_path: Path) -> None:
    config = load_config("next-item")
    assert not config.model.repeats
    assert config.train.history_candidates == 0
    path = tmp_path / "mine.toml"
    path.write_text("[model]\nrepeats = true\n")
    expected = r"train\.history_candidates: expected at least 1 with model\.repeats, got 0"
    with pytest.raises(ConfigError, match=rf"mine\.toml: {expected}"):
        load_config("next-item", path)


@pytest.mark.parametrize("with_time", [True, False])
@pytest.mark.parametrize("target_candidates", [64, 2])
def test_targets_of_several_sessions_fade(with_time: bool, target_candidates: int) -> None:
    """Each distinct item weighs decay to the sessions before its first, out of those that stand."""
    shop = tiny_shop(with_time=with_time)
    history = past(shop, cut_of(shop, 0.8), 1.0, ("purchase",))
    config = tiny_config(
        target_sessions=3, target_decay=0.5, target_candidates=target_candidates, gen_sessions=1
    )
    source = Batches(history, config)
    user = [u for u, starts in enumerate(history.session_start) for _ in starts[2:]]
    session = [s for starts in history.session_start for s in range(1, len(starts) - 1)]
    following, general = source._targets(user, session, np.random.default_rng(0))
    assert general.weight is None
    assert following.weight is not None
    cut_short = 0
    for place, (u, s) in enumerate(zip(user, session, strict=True)):
        starts, at = history.session_start[u], history.events(u)
        items = history.item[at]
        wanted: dict[int, float] = {}
        for ahead in range(min(3, len(starts) - 1 - s)):
            for item in items[starts[s + ahead] : starts[s + ahead + 1]].tolist():
                wanted.setdefault(item, 0.5**ahead)
        mine = following.position == place
        found = dict(zip(following.item[mine].tolist(), following.weight[mine], strict=True))
        cut_short += len(found) < len(wanted)
        assert len(found) == min(len(wanted), target_candidates)
        total = sum(wanted[item] for item in found)
        assert found == pytest.approx({item: wanted[item] / total for item in found}, rel=1e-5)
    assert (cut_short > 0) is (target_candidates == 2)
