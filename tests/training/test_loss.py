from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import engine.training.loss as loss_module
from engine.model.build import build_model
from engine.training.batches import Batch, Batches
from engine.training.history import Past, past
from engine.training.loss import Losses, Objective
from kernels.candidate_softmax import CandidateLoss, candidate_softmax
from tests.tiny import cut_of, tiny_config, tiny_shop, trained_like


@cache
def shop_past() -> Past:
    shop = tiny_shop()
    return past(shop, cut_of(shop, 0.8), 1.0, ("purchase",))


def objective(**changes: Any) -> Objective:
    config = tiny_config(**{"dropout": 0.0} | changes)
    model = trained_like(build_model(config.model, shop_past().dataset, seed=0))
    return Objective(model, config.train, torch.from_numpy(shop_past().log_p))


@cache
def a_batch() -> Batch:
    return next(Batches(shop_past(), tiny_config()).epoch(0))


def softmax_calls(objective: Objective, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The losses, and what each of the two heads gave the candidate softmax."""
    calls: list[dict[str, Tensor]] = []
    names = (
        "hidden", "items", "bias", "shared", "shared_log_pi",
        "candidates", "log_pi", "offset", "weight", "negative",
    )  # fmt: skip

    def note(*arguments: Tensor) -> CandidateLoss:
        calls.append(dict(zip(names, arguments, strict=True)))
        return candidate_softmax(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loss_module, "candidate_softmax", note)
        losses = objective(batch)
    return losses, calls


def test_a_bought_item_scores_by_scale_and_repeat_term(monkeypatch: pytest.MonkeyPatch) -> None:
    """z = h·c + b for a fresh item, a h·c + b + r for a bought one, with its head's a and r."""
    made, batch = objective(lambda_train=0.4), a_batch()
    _, calls = softmax_calls(made, batch, monkeypatch)
    model, own = made.model, batch.candidates.own
    terms = model.repeats(batch.candidates.features)
    slots = dict(zip(batch.candidates.bought.tolist(), terms, strict=True))
    assert len(slots) > 20
    for head, call in enumerate(calls):
        dot = call["hidden"] @ call["items"].T
        for p, row in enumerate(own.tolist()):
            for c, place in enumerate(row):
                if place < 0:
                    continue
                prior = -0.4 * shop_past().log_p[batch.item[place]]
                z = dot[p, place] + call["bias"][place] + call["offset"][p, c]
                expected = dot[p, place] + prior
                if p * own.shape[1] + c in slots:
                    r = slots[p * own.shape[1] + c][head]
                    expected = model.repeats.scale[head] * dot[p, place] + prior + r
                assert z.item() == pytest.approx(expected.item(), abs=2e-4)


def test_the_repeat_loss_is_of_the_order_among_bought_items(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each head, by gen's weight: log-softmax over a position's bought items, its targets."""
    made, batch = objective(lambda_train=0.4, lambda_rep=2.0, lambda_gen=0.3), a_batch()
    losses, calls = softmax_calls(made, batch, monkeypatch)
    width, expected = batch.candidates.own.shape[1], 0.0
    bought: dict[int, list[int]] = {}
    for place in batch.candidates.bought.tolist():
        bought.setdefault(place // width, []).append(place % width)
    for call, share in zip(calls, (1.0, 0.3), strict=True):
        dot = (call["hidden"] @ call["items"].T).detach()
        found = []
        for p, columns in bought.items():
            own = batch.candidates.own[p, columns]
            z = dot[p, own] + call["bias"][own] + call["offset"][p, columns].detach()
            wanted = call["weight"][p, columns] > 0
            if wanted.any():
                found += (torch.logsumexp(z, 0) - z[wanted]).tolist()
        assert len(found) > 10
        expected += share * float(np.mean(found))
    assert losses.repeat.item() == pytest.approx(expected, rel=1e-4)
    plain = objective(lambda_train=0.4, lambda_gen=0.3)(batch)
    assert losses.total.item() == pytest.approx(plain.total.item() + 2 * expected, rel=1e-4)
    losses.repeat.backward()
    touched = {name for name, value in made.model.named_parameters() if value.grad is not None}
    moved = {n for n, v in made.model.named_parameters() if n in touched and v.grad.abs().sum() > 0}
    assert moved
    assert all(name.startswith("repeats.") for name in moved), moved


def test_each_head_has_its_own_targets_and_the_same_context(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, batch = objective(), a_batch()
    _, (following, general) = softmax_calls(made, batch, monkeypatch)
    assert torch.equal(following["weight"], batch.candidates.weight_next)
    assert torch.equal(general["weight"], batch.candidates.weight_general)
    later = replace(batch, gap_days=batch.gap_days + 30)
    _, shifted = softmax_calls(made, later, monkeypatch)
    delta = [s["hidden"] - c["hidden"] for s, c in zip(shifted, (following, general), strict=True)]
    torch.testing.assert_close(delta[0], delta[1], rtol=1e-4, atol=1e-4)
    assert delta[0].abs().max() > 0.1
    # Both are head(state) + δ, read at the ends of the batch.
    model = made.model
    with torch.no_grad():
        rows = model.items.rows(batch.item)
        both = model.encode(rows[batch.sequence], batch.events, batch.ends)
        context = model.context(
            batch.hour, batch.weekday, batch.week, batch.gap_days, batch.signals
        )
    for vectors, call in zip(both, (following, general), strict=True):
        expected = vectors.flatten(0, 1)[batch.position] + context
        torch.testing.assert_close(call["hidden"], expected, rtol=1e-4, atol=1e-4)


def test_the_parts_add_up() -> None:
    weights = {"lambda_neg": 0.3, "lambda_aux": 0.7, "lambda_gen": 0.2}
    losses: Losses = objective(**weights)(a_batch())
    total = losses.next + 0.3 * losses.negative + 0.7 * losses.auxiliary + 0.2 * losses.general
    torch.testing.assert_close(losses.total, total)
    parts = torch.stack([losses.next, losses.general, losses.negative, losses.auxiliary])
    assert bool((parts > 0).all())
    plain: Losses = objective(lambda_neg=0, lambda_aux=0, lambda_gen=0)(a_batch())
    assert torch.equal(plain.total, plain.next)


def test_lambda_0_has_no_prior_and_the_prior_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, calls = softmax_calls(objective(), a_batch(), monkeypatch)
    assert not any(call["bias"].any() for call in calls)
    made = objective(lambda_train=0.5)
    _, calls = softmax_calls(made, a_batch(), monkeypatch)
    expected = -0.5 * torch.from_numpy(shop_past().log_p)[a_batch().item]
    assert all(torch.equal(call["bias"], expected) for call in calls)
    assert "prior" not in dict(made.named_parameters())


def test_without_repeats_nothing_is_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    made = objective(repeats=False)
    losses, calls = softmax_calls(made, a_batch(), monkeypatch)
    assert not any(call["offset"].any() for call in calls)
    losses.total.backward()
    assert all(weight.grad is None for weight in made.model.repeats.parameters())


def test_every_weight_gets_a_gradient() -> None:
    made = objective()
    made(a_batch()).total.backward()
    for name, weight in made.model.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.isfinite().all()), name
        assert bool(weight.grad.any()), name


def test_the_repeat_term_may_come_in_a_half_type(monkeypatch: pytest.MonkeyPatch) -> None:
    made = objective()
    expected = made(a_batch()).total.item()
    forward = made.model.repeats.forward
    monkeypatch.setattr(made.model.repeats, "forward", lambda x: forward(x).bfloat16())
    assert made(a_batch()).total.item() == pytest.approx(expected, rel=0.02)


def test_the_auxiliary_loss_is_contrastive_and_spares_equal_items() -> None:
    make = torch.Generator().manual_seed(0)
    projected = torch.randn(4, 3, generator=make)
    target = torch.randn(4, 3, generator=make)
    target[3] = target[1]
    item = torch.tensor([8, 5, 7, 5])
    logits = (projected @ target.T).numpy()
    expected = []
    for p in range(4):
        others = [j for j in range(4) if j == p or item[j] != item[p]]
        expected.append(np.log(np.exp(logits[p, others]).sum()) - logits[p, p])
    got = loss_module._auxiliary(projected, target, item)
    assert got.item() == pytest.approx(np.mean(expected), rel=1e-5)
