from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.candidate_softmax import CandidateLoss, candidate_softmax


@dataclass(frozen=True)
class Case:
    hidden: Tensor
    items: Tensor
    bias: Tensor
    shared: Tensor
    shared_log_pi: Tensor
    candidates: Tensor
    log_pi: Tensor
    offset: Tensor
    weight: Tensor
    negative: Tensor

    def arguments(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def loss(self) -> CandidateLoss:
        return candidate_softmax(**self.arguments())


def case(p: int, c: int, s: int, n: int, seed: int, wide: bool = False) -> Case:
    """Random positions; pads stand anywhere, targets and negatives only on real candidates."""
    rng = np.random.default_rng(seed)
    real = torch.float64 if wide else torch.float32

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape)).to(real)

    candidates = np.full((p, c), -1)
    for row in candidates:
        filled = rng.integers(0, min(c, n) + 1)
        row[rng.choice(c, filled, replace=False)] = rng.choice(n, filled, replace=False)
    own = torch.from_numpy(candidates >= 0)
    weight = torch.from_numpy(rng.random((p, c)) * (rng.random((p, c)) < 0.4)).to(real) * own
    return Case(
        hidden=normal(p, 4),
        items=normal(n, 4),
        bias=normal(n),
        shared=torch.from_numpy(rng.choice(n, min(s, n), replace=False)),
        shared_log_pi=-normal(min(s, n)).abs(),
        candidates=torch.from_numpy(candidates),
        log_pi=-normal(p, c).abs(),
        offset=normal(p, c),
        weight=weight,
        negative=torch.from_numpy(rng.random((p, c)) < 0.5) & own & (weight == 0),
    )


def naive(x: Case) -> CandidateLoss:
    """The formulas of the objective, candidate by candidate, in fp64."""
    hidden, items, bias, offset, log_pi, weight = (
        getattr(x, name).double().numpy()
        for name in ("hidden", "items", "bias", "offset", "log_pi", "weight")
    )
    rows: list[list[float]] = [[], [], []]
    for p, own in enumerate(x.candidates.tolist()):
        corrected, negatives = {}, []
        for slot, item in enumerate(own):
            if item >= 0:
                z = hidden[p] @ items[item] + bias[item] + offset[p, slot]
                corrected[item] = z - log_pi[p, slot]
                if x.negative[p, slot]:
                    negatives.append(np.log1p(np.exp(z)))  # -log σ(-z)
        for item, chance in zip(x.shared.tolist(), x.shared_log_pi.tolist(), strict=True):
            if item not in own:
                corrected[item] = hidden[p] @ items[item] + bias[item] - chance
        total = np.log(np.exp(list(corrected.values())).sum()) if corrected else -np.inf
        rows[0].append(
            sum(weight[p, s] * (total - corrected[i]) for s, i in enumerate(own) if i >= 0)
        )
        rows[1].append(float(np.mean(negatives)) if negatives else 0.0)
        rows[2].append(total)
    return CandidateLoss(*(torch.tensor(row, dtype=torch.float64) for row in rows))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 9), st.integers(0, 12), st.integers(1, 17), st.integers(0, 99)
)
def test_equals_the_formula(p: int, c: int, s: int, n: int, seed: int) -> None:
    x = case(p, c, s, n, seed)
    for name, got, truth in zip(CandidateLoss._fields, x.loss(), naive(x), strict=True):
        torch.testing.assert_close(got.double(), truth, rtol=2e-6, atol=2e-5, msg=name)
        assert got.dtype == torch.float32


def test_no_positions() -> None:
    empty = case(1, 3, 4, 9, 0)
    for name in ("hidden", "candidates", "log_pi", "offset", "weight", "negative"):
        empty = replace(empty, **{name: getattr(empty, name)[:0]})
    assert [len(value) for value in empty.loss()] == [0, 0, 0]


def test_a_shared_item_that_is_listed_counts_once_as_the_rows_own() -> None:
    x = case(4, 5, 6, 12, 1)
    x = replace(
        x,
        candidates=x.shared[:5].repeat(4, 1),
        weight=torch.full((4, 5), 0.2),
        negative=torch.zeros(4, 5, dtype=torch.bool),
    )
    without = replace(x, shared=x.shared[5:], shared_log_pi=x.shared_log_pi[5:])
    torch.testing.assert_close(x.loss(), without.loss())
    # Its shared chance is not read, its own chance and offset are.
    other = replace(x, shared_log_pi=x.shared_log_pi - torch.tensor([9.0] * 5 + [0.0]))
    torch.testing.assert_close(x.loss(), other.loss())
    for name in ("log_pi", "offset"):
        moved = replace(x, **{name: getattr(x, name) + torch.tensor([1.0, 0, 0, 0, 0])})
        assert not torch.allclose(x.loss().logsumexp, moved.loss().logsumexp), name


def test_rows_are_independent() -> None:
    x = case(5, 6, 8, 20, 2)
    for row in range(5):
        alone = replace(
            x,
            **{
                name: getattr(x, name)[row : row + 1]
                for name in ("hidden", "candidates", "log_pi", "offset", "weight", "negative")
            },
        )
        expected = CandidateLoss(*(value[row : row + 1] for value in x.loss()))
        torch.testing.assert_close(alone.loss(), expected)


def test_a_row_of_pads_is_worth_nothing_and_has_no_gradient() -> None:
    x = case(3, 4, 0, 9, 3)
    x = replace(
        x,
        candidates=torch.tensor([[0, 1, 2, 3], [-1] * 4, [4, -1, 5, -1]]),
        weight=torch.tensor([[1.0, 0, 0, 0], [0.0] * 4, [0.5, 0, 0.5, 0]]),
        negative=torch.zeros(3, 4, dtype=torch.bool),
    )
    for name in ("hidden", "items", "offset"):
        getattr(x, name).requires_grad_()
    loss, negative_loss, logsumexp = x.loss()
    assert [value[1].item() for value in (loss, negative_loss, logsumexp)] == [0, 0, -np.inf]
    (loss.sum() + negative_loss.sum()).backward()
    for name in ("hidden", "items", "offset"):
        gradient = getattr(x, name).grad
        assert bool(gradient.isfinite().all()), name
    assert not x.hidden.grad[1].any()
    assert x.hidden.grad[0].any()


def test_what_is_written_under_a_pad_is_not_read() -> None:
    x = case(6, 8, 5, 12, 4)
    pad = x.candidates < 0
    assert pad.any()
    assert (~pad).any()
    changed = replace(
        x,
        log_pi=x.log_pi.masked_fill(pad, 7.0),
        offset=x.offset.masked_fill(pad, 1e3),
    )
    assert all(torch.equal(a, b) for a, b in zip(x.loss(), changed.loss(), strict=True))


def test_gradients() -> None:
    x = case(3, 5, 4, 9, 5, wide=True)
    x = replace(
        x,
        candidates=torch.tensor([[0, 1, 2, 3, 4], [5, -1, 6, 0, -1], [8, 7, 1, -1, 2]]),
        weight=torch.tensor([[0.5, 0.5, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0.3, 0, 0, 0]]).double(),
        negative=torch.tensor([[0, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0] * 5]).bool(),
    )
    learned = ("hidden", "items", "offset")

    def of_learned(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(replace(x, **dict(zip(learned, values, strict=True))).loss())

    assert torch.autograd.gradcheck(
        of_learned, [getattr(x, name).requires_grad_() for name in learned]
    )


def whole_catalogue(p: int, n: int, seed: int) -> Case:
    """Every item is shared and certain; one target a row."""
    x = case(p, 1, n, n, seed)
    target = torch.randint(0, n, (p, 1), generator=torch.Generator().manual_seed(seed))
    return replace(
        x,
        shared_log_pi=torch.zeros(n),
        candidates=target,
        log_pi=torch.zeros(p, 1),
        offset=torch.zeros(p, 1),
        weight=torch.ones(p, 1),
        negative=torch.zeros(p, 1, dtype=torch.bool),
    )


def test_without_prior_it_is_the_plain_softmax() -> None:
    x = replace(whole_catalogue(7, 31, 6), bias=torch.zeros(31))
    plain = F.cross_entropy(x.hidden @ x.items.T, x.candidates[:, 0], reduction="none")
    torch.testing.assert_close(x.loss().loss, plain)


def test_raw_counts_instead_of_shares_change_neither_the_loss_nor_a_ranking() -> None:
    counts = torch.randint(0, 50, (31,), generator=torch.Generator().manual_seed(7)).float()
    p = (counts + 1) / (counts + 1).sum()
    x = replace(whole_catalogue(7, 31, 7), bias=-0.3 * p.log())
    raw = replace(x, bias=-0.3 * (counts + 1).log())
    torch.testing.assert_close(x.loss().loss, raw.loss().loss)
    order = (x.hidden @ x.items.T + x.bias).argsort(dim=1)
    assert torch.equal(order, (x.hidden @ x.items.T + raw.bias).argsort(dim=1))
    unequal = replace(x, bias=-0.3 * p.log() * torch.linspace(1, 2, 31))
    assert not torch.allclose(x.loss().loss, unequal.loss().loss)


def test_a_half_type_is_summed_in_fp32() -> None:
    x = case(4, 6, 20, 40, 8)
    half = replace(x, hidden=x.hidden.bfloat16(), items=x.items.bfloat16())
    got = half.loss()
    assert {value.dtype for value in got} == {torch.float32}
    torch.testing.assert_close(got.logsumexp.double(), naive(half).logsumexp, rtol=0, atol=0.06)


WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("items", torch.zeros(9, 5), ValueError, r"items: expected shape \(9, 4\), got \(9, 5\)"),
    ("bias", torch.zeros(8), ValueError, r"bias: expected shape \(9,\), got \(8,\)"),
    ("shared_log_pi", torch.zeros(5), ValueError,
     r"shared_log_pi: expected shape \(4,\), got \(5,\)"),
    ("candidates", torch.zeros(2, 5, dtype=torch.int64), ValueError,
     r"candidates: expected shape \(3, 5\), got \(2, 5\)"),
    *((name, torch.zeros(3, 6), ValueError, rf"{name}: expected shape \(3, 5\), got \(3, 6\)")
      for name in ("log_pi", "offset", "weight", "negative")),
    ("items", torch.zeros(9, 4).half(), TypeError,
     r"items: expected torch.float32, got torch.float16"),
    ("shared", torch.zeros(4, dtype=torch.int32), TypeError,
     r"shared: expected torch.int64, got torch.int32"),
    ("candidates", torch.zeros(3, 5, dtype=torch.int32), TypeError,
     r"candidates: expected torch.int64, got torch.int32"),
    ("negative", torch.zeros(3, 5), TypeError,
     r"negative: expected torch.bool, got torch.float32"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "error", "text"), WRONG)
def test_a_wrong_argument_is_named(
    name: str, value: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=f"^candidate_softmax: {text}$"):
        candidate_softmax(**case(3, 5, 4, 9, 9).arguments() | {name: value})
