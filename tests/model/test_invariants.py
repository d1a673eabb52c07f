"""What must hold of the model whatever its weights: the weights here are noise."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.model.build import build_model, model_data
from engine.model.stars import Events, Stars
from engine.repeats import FEATURES
from engine.sales import N_WINDOWS
from tests.tiny import events_of, random_inputs, tiny_config, tiny_shop, trained_like

LENGTH = 11
PER_EVENT = ("event_type", "hour", "weekday", "week", "day", "recency", "signals")


def stars(**changes: object) -> Stars:
    torch.manual_seed(0)
    data = replace(model_data(tiny_shop()), n_event_types=3)
    return trained_like(Stars(tiny_config(**changes).model, data))


def encoded(model: Stars, inputs: dict[str, NDArray], ends: list[int]) -> tuple[Tensor, Tensor]:
    """h_next and h_gen [B, R, d_serve] at the same ends of every sequence."""
    rows, events = events_of(inputs)
    with torch.no_grad():
        every = torch.tensor(ends).expand(len(rows), -1)
        h_next, h_gen = model.encode(rows, events, every)
    return h_next, h_gen


def changed_at(inputs: dict[str, NDArray], at: int) -> dict[str, NDArray]:
    """Another item, of another type, at another time, as event `at`."""
    other = random_inputs(stars(), len(inputs["rows"]), LENGTH, seed=77)
    out = {name: value.copy() for name, value in inputs.items()}
    for name in ("rows", *PER_EVENT):
        out[name][:, at] = other[name][:, at]
    out["day"][:, at] = inputs["day"][:, at] + 3
    return out


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_later_item_changes_no_earlier_state(layers: int) -> None:
    model = stars(layers=layers)
    inputs = random_inputs(model, 2, LENGTH, seed=0)
    ends = list(range(LENGTH + 1))
    before = encoded(model, inputs, ends)
    for at in range(LENGTH):
        after = encoded(model, changed_at(inputs, at), ends)
        for ours, theirs in zip(before, after, strict=True):
            assert close(ours[:, : at + 1], theirs[:, : at + 1])
            assert not any(close(ours[:, e], theirs[:, e]) for e in range(at + 1, LENGTH + 1))


def test_appended_events_change_no_earlier_state() -> None:
    model = stars()
    inputs = random_inputs(model, 2, LENGTH, seed=1)
    shorter = {n: v[:, :6] if n in ("rows", *PER_EVENT) else v for n, v in inputs.items()}
    ends = [0, 3, 6]
    for ours, theirs in zip(
        encoded(model, shorter, ends), encoded(model, inputs, ends), strict=True
    ):
        assert close(ours, theirs)


def test_nobody_attends_to_a_read_out() -> None:
    model = stars()
    inputs = random_inputs(model, 2, LENGTH, seed=2)
    alone = [encoded(model, inputs, [end]) for end in (0, 4, LENGTH)]
    together = encoded(model, inputs, [0, 4, 4, 7, LENGTH])
    for (next_, general), column in zip(alone, (0, 1, 4), strict=True):
        assert close(next_[:, 0], together[0][:, column])
        assert close(general[:, 0], together[1][:, column])
    with torch.no_grad():
        model.read_out *= -2
    moved = encoded(model, inputs, [0, 4, 4, 7, LENGTH])
    assert torch.equal(moved[0], together[0])
    assert not close(moved[1], together[1])


def test_without_events_both_vectors_come_from_the_user_alone() -> None:
    model = stars()
    inputs = random_inputs(model, 3, LENGTH, seed=3)
    none = {n: v[:, :1] if n in ("rows", *PER_EVENT) else v for n, v in inputs.items()}
    full, empty = encoded(model, inputs, [0, 1]), encoded(model, none, [0])
    assert close(full[0][:, :1], empty[0])
    assert close(full[1][:, :1], empty[1])
    assert not close(full[0][:, 0], full[0][:, 1])
    # Read at [USER]: its state runs through the layers, the [USER] vector alone as its key.
    _, events = events_of(none)
    with torch.no_grad():
        user = model.user(events.user_categorical, events.user_numeric, events.user_known)
        state = user[:, None]
        for layer in model.encoder.layers:
            value = layer.to_key_value(layer.norm_attention(state)).chunk(2, dim=-1)[1]
            state = state + layer.to_out(value)
            state = state + layer.feed_out(layer.feed_in(layer.norm_feed(state)).relu())
        expected = model.head_next(model.encoder.norm(state))
    assert close(empty[0], expected)


def test_every_item_and_the_user_reach_both_vectors() -> None:
    model = stars()
    inputs = random_inputs(model, 1, LENGTH, seed=4)
    inputs["user_known"][:] = 1
    before = encoded(model, inputs, [LENGTH])
    variants = [changed_at(inputs, at) for at in range(LENGTH)]
    variants.append(inputs | {"user_numeric": inputs["user_numeric"] + 1})
    for variant in variants:
        for ours, theirs in zip(before, encoded(model, variant, [LENGTH]), strict=True):
            assert not close(ours, theirs)


def test_only_differences_of_days_count() -> None:
    model = stars()
    inputs = random_inputs(model, 2, LENGTH, seed=5)
    before = encoded(model, inputs, [4, LENGTH])
    shifted = encoded(model, inputs | {"day": inputs["day"] + 1000}, [4, LENGTH])
    spread = encoded(model, inputs | {"day": 17_000 + 2 * (inputs["day"] - 17_000)}, [4, LENGTH])
    for ours, moved, other in zip(before, shifted, spread, strict=True):
        assert torch.equal(ours, moved)
        assert not close(ours, other)


def test_pooling_cls_sees_the_window_and_nothing_behind_its_end() -> None:
    model = stars(pooling="cls", layers=2)
    inputs = random_inputs(model, 2, LENGTH, seed=6)
    before = encoded(model, inputs, [7])
    for at in range(LENGTH):
        after = encoded(model, changed_at(inputs, at), [7])
        for ours, theirs in zip(before, after, strict=True):
            assert close(ours, theirs) == (at >= 7)
    # h_gen stands at [USER], which under the causal mask would see no item.
    assert before[1].shape == (2, 1, model.config.d_serve)
    rows, events = events_of(inputs)
    at_last, at_user = model.hidden(rows, events, torch.full((2, 1), 7))
    assert not close(at_last, at_user)
    causal = stars(layers=2)
    causal.load_state_dict(model.state_dict())
    assert not close(encoded(causal, inputs, [7])[0], before[0])


def test_unknown_features_use_row_0_and_no_value() -> None:
    model = stars()
    inputs = random_inputs(model, 2, LENGTH, seed=7)
    inputs["user_categorical"][:] = [[0], [1]]
    inputs["user_known"][:] = [[0], [1]]
    inputs["user_numeric"][:] = 0.0
    before = encoded(model, inputs, [LENGTH])[0]

    def moved(after: Tensor) -> list[bool]:
        return [not close(a, b) for a, b in zip(after, before, strict=True)]

    value = encoded(model, inputs | {"user_numeric": inputs["user_numeric"] + 3}, [LENGTH])[0]
    assert moved(value) == [False, True]
    flag = encoded(model, inputs | {"user_known": 1 - inputs["user_known"]}, [LENGTH])[0]
    assert moved(flag) == [True, True], "an unknown number is not the mean"
    table = model.user.tables[0].weight
    for row, expected in [(0, [True, False]), (1, [False, True]), (2, [False, False])]:
        with torch.no_grad():
            table[row] += 1
            after = encoded(model, inputs, [LENGTH])[0]
            table[row] -= 1
        assert moved(after) == expected


def context_arguments(model: Stars, n: int = 5) -> dict[str, Tensor]:
    make = torch.Generator().manual_seed(8)
    sizes = {"hour": 24, "weekday": 7, "week": 53}
    return {
        **{name: torch.randint(0, size, (n,), generator=make) for name, size in sizes.items()},
        "gap_days": 30 * torch.rand(n, generator=make),
        "signals": torch.randn(n, len(model.signal), generator=make),
    }


def test_the_context_offset_starts_at_0() -> None:
    model = build_model(tiny_config().model, tiny_shop(), seed=0)
    assert not model.context(**context_arguments(model)).any()


def test_the_context_offset_reads_every_argument() -> None:
    model = stars()
    arguments = context_arguments(model)
    with torch.no_grad():
        before = model.context(**arguments)
        assert before.shape == (5, model.config.d_serve)
        for name, value in arguments.items():
            after = model.context(**arguments | {name: value.flip(0)})
            assert not torch.allclose(before, after), name


def test_the_repeat_term_starts_at_0() -> None:
    model = build_model(tiny_config().model, tiny_shop(), seed=0)
    width = len(FEATURES) + N_WINDOWS
    features = torch.randn(7, width, generator=torch.Generator().manual_seed(9))
    model.repeats.standardise(5 + 3 * features)
    assert not model.repeats(features).any()
    assert model.repeats(features).shape == (7, 2)
    torch.testing.assert_close(model.repeats.mean, 5 + 3 * features.mean(dim=0))
    torch.testing.assert_close(model.repeats.std, 3 * features.std(dim=0))


def test_a_constant_repeat_feature_does_not_divide_by_0() -> None:
    model = stars()
    features = torch.zeros(7, len(FEATURES) + N_WINDOWS)
    model.repeats.standardise(features)
    assert bool(model.repeats(features).isfinite().all())


def test_the_same_seed_builds_the_same_weights() -> None:
    one, same, other = (
        build_model(tiny_config().model, tiny_shop(), seed).state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head_next.weight"], other["head_next.weight"])


def test_what_the_model_takes_from_the_dataset() -> None:
    shop = tiny_shop()
    data = model_data(shop)
    assert data.category_sizes == [1 + 3]  # segment: unknown, family, senior, single
    assert (data.n_user_numeric, data.n_event_types, data.n_signals) == (1, 1, 2)
    assert data.content.n_tags == len(shop.meta.tags) > 0
    # An event carries every field of the exported graph but length, and none beside.
    assert {f.name for f in fields(Events)} == set(random_inputs(stars(), 1, 1, 0)) - {
        "rows",
        "length",
    }


def test_the_sequence_may_fill_the_window_but_not_pass_it() -> None:
    model = stars()
    window = model.config.window
    encoded(model, random_inputs(model, 1, window, seed=10), [window])
    with pytest.raises(IndexError):
        encoded(model, random_inputs(model, 1, window + 1, seed=10), [window + 1])


def test_padding_is_not_read() -> None:
    model = stars()
    inputs = random_inputs(model, 2, LENGTH, seed=11)
    other = random_inputs(model, 2, LENGTH, seed=12)
    for name in ("rows", *PER_EVENT):
        other[name][:, :6] = inputs[name][:, :6]
    same = {n: inputs[n] for n in inputs if n.startswith("user_")}
    for ours, theirs in zip(
        encoded(model, inputs, [6]), encoded(model, other | same, [6]), strict=True
    ):
        assert close(ours, theirs)
    assert not np.array_equal(inputs["rows"], other["rows"])
