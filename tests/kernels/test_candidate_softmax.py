from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.backend import Backend
from kernels.candidate_softmax import CandidateLoss, candidate_softmax
from tests.kernels.candidate_case import Case, case, naive

# An empty row's sum is 0, its logarithm -inf: meant, and numpy in the interpreter warns of it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*"),
    pytest.mark.usefixtures("on_the_card"),
]
BOTH = pytest.mark.parametrize("backend", ["reference", "triton"])


@BOTH
@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 9), st.integers(0, 12), st.integers(1, 17), st.integers(0, 99)
)
def test_equals_the_formula(backend: Backend, p: int, c: int, s: int, n: int, seed: int) -> None:
    x = case(p, c, s, n, seed)
    for name, got, truth in zip(CandidateLoss._fields, x.loss(backend), naive(x), strict=True):
        torch.testing.assert_close(got.double(), truth, rtol=2e-6, atol=2e-5, msg=name)
        assert got.dtype == torch.float32


@BOTH
def test_no_positions(backend: Backend) -> None:
    empty = case(1, 3, 4, 9, 0)
    for name in ("hidden", "candidates", "log_pi", "offset", "weight", "negative"):
        empty = replace(empty, **{name: getattr(empty, name)[:0]})
    assert [len(value) for value in empty.loss(backend)] == [0, 0, 0]


@BOTH
def test_a_shared_item_that_is_listed_counts_once_as_the_rows_own(backend: Backend) -> None:
    x = case(4, 5, 6, 12, 1)
    x = replace(
        x,
        candidates=x.shared[:5].repeat(4, 1),
        weight=torch.full((4, 5), 0.2),
        negative=torch.zeros(4, 5, dtype=torch.bool),
    )
    without = replace(x, shared=x.shared[5:], shared_log_pi=x.shared_log_pi[5:])
    torch.testing.assert_close(x.loss(backend), without.loss(backend))
    # Its shared chance is not read, its own chance and offset are.
    other = replace(x, shared_log_pi=x.shared_log_pi - torch.tensor([9.0] * 5 + [0.0]))
    torch.testing.assert_close(x.loss(backend), other.loss(backend))
    for name in ("log_pi", "offset"):
        moved = replace(x, **{name: getattr(x, name) + torch.tensor([1.0, 0, 0, 0, 0])})
        assert not torch.allclose(x.loss(backend).logsumexp, moved.loss(backend).logsumexp), name


@BOTH
def test_rows_are_independent(backend: Backend) -> None:
    x = case(5, 6, 8, 20, 2)
    for row in range(5):
        alone = replace(
            x,
            **{
                name: getattr(x, name)[row : row + 1]
                for name in ("hidden", "candidates", "log_pi", "offset", "weight", "negative")
            },
        )
        expected = CandidateLoss(*(value[row : row + 1] for value in x.loss(backend)))
        torch.testing.assert_close(alone.loss(backend), expected)


@BOTH
def test_a_row_of_pads_is_worth_nothing_and_has_no_gradient(backend: Backend) -> None:
    x = case(3, 4, 0, 9, 3)
    x = replace(
        x,
        candidates=torch.tensor([[0, 1, 2, 3], [-1] * 4, [4, -1, 5, -1]]),
        weight=torch.tensor([[1.0, 0, 0, 0], [0.0] * 4, [0.5, 0, 0.5, 0]]),
        negative=torch.zeros(3, 4, dtype=torch.bool),
    )
    for name in ("hidden", "items", "offset"):
        getattr(x, name).requires_grad_()
    loss, negative_loss, logsumexp = x.loss(backend)
    assert [value[1].item() for value in (loss, negative_loss, logsumexp)] == [0, 0, -np.inf]
    (loss.sum() + negative_loss.sum()).backward()
    for name in ("hidden", "items", "offset"):
        gradient = getattr(x, name).grad
        assert bool(gradient.isfinite().all()), name
    assert not x.hidden.grad[1].any()
    assert x.hidden.grad[0].any()


@BOTH
def test_what_is_written_under_a_pad_is_not_read(backend: Backend) -> None:
    x = case(6, 8, 5, 12, 4)
    pad = x.candidates < 0
    assert pad.any()
    assert (~pad).any()
    changed = replace(
        x,
        log_pi=x.log_pi.masked_fill(pad, 7.0),
        offset=x.offset.masked_fill(pad, 1e3),
        weight=x.weight.masked_fill(pad, 0.5),
        negative=x.negative | pad,
    )
    for before, after in zip(x.loss(backend), changed.loss(backend), strict=True):
        assert torch.equal(before, after)


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


@BOTH
def test_without_prior_it_is_the_plain_softmax(backend: Backend) -> None:
    x = replace(whole_catalogue(7, 31, 6), bias=torch.zeros(31))
    plain = F.cross_entropy(x.hidden @ x.items.T, x.candidates[:, 0], reduction="none")
    torch.testing.assert_close(x.loss(backend).loss, plain)


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
