"""Gradients of the token gate: the kernels against the reference's, the reference numerically."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.backend import Backend
from kernels.token_gate import launch, ops, token_gate
from tests.kernels.gate_case import LEARNED, gate_case, gradients, of_dtype
from tests.kernels.planted import plant
from tests.kernels.token_case import cast, poisoned
from tests.kernels.truth import assert_as_good_as_torch

pytestmark = pytest.mark.usefixtures("on_the_card")
BOTH = pytest.mark.parametrize("backend", ["reference", "triton"])
NEEDS_CUDA = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: not run"
)


def check(x: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Raises unless every gradient of the kernels is as good as torch's."""
    truth = gradients(of_dtype(x, torch.float64), "reference")
    same = gradients(of_dtype(x, dtype), "reference")
    got = gradients(of_dtype(x, dtype), "triton")
    for name in LEARNED:
        assert got[name].dtype == same[name].dtype, name
        try:
            assert_as_good_as_torch(got[name], same[name], truth[name])
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def nan_rows(x: Tensor) -> list[int]:
    return x.isnan().any(dim=1).nonzero().flatten().tolist()


def test_the_reference_by_finite_differences() -> None:
    x = gate_case(9, 4, 5)

    def of_learned(*learned: Tensor) -> Tensor:
        return token_gate(**x | dict(zip(LEARNED, learned, strict=True)), backend="reference")

    inputs = [x[name].double().requires_grad_() for name in LEARNED]
    assert torch.autograd.gradcheck(of_learned, inputs)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 90), st.integers(1, 9), st.integers(1, 40), st.integers(0, 99))
def test_gradients_of_any_counts(t: int, v: int, d: int, seed: int) -> None:
    check(gate_case(t, v, d, seed=seed))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("t", "v", "d"), [(1, 1, 1), (31, 2, 127), (40, 60, 129), (9, 3, launch.MAX_DIMENSION)]
)
def test_odd_shapes(t: int, v: int, d: int, dtype: torch.dtype) -> None:
    check(gate_case(t, v, d), dtype)


@pytest.mark.parametrize("count", [63, 64, 65, 128, 129, 400])
def test_a_popular_domain_token_takes_many_pieces(count: int) -> None:
    assert launch.PIECE == 64
    x = gate_case(count + 30, 5, 17)
    x["ids"] = x["ids"].where(x["ids"] != 3, 2)
    x["ids"][:count] = 3
    x["ids"] = x["ids"][torch.randperm(count + 30, generator=torch.Generator().manual_seed(1))]
    check(x)


def test_more_parts_than_a_tile_and_more_pieces_than_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "PIECE", 3)
    monkeypatch.setattr(launch, "PROGRAMS", 4)
    x = gate_case(150, 4, 200)
    x["ids"][::2] = 1
    assert launch.tile(200, launch.ROW_WARPS).block_t < 75 // 3
    check(x)


def test_ids_beyond_int16_are_sorted_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gate_case(50, 9, 20)
    narrow = gradients(x, "triton")
    monkeypatch.setattr(launch, "NARROW", 9)
    assert launch.pieces(x["ids"], 9).order.tolist() == launch.pieces(x["ids"], 8).order.tolist()
    for name, gradient in gradients(x, "triton").items():
        assert torch.equal(gradient, narrow[name])
    high = torch.tensor([-1, 32767, 32766, 0, 32767], dtype=torch.int32)
    monkeypatch.undo()
    for n_rows in (32768, 40000):
        cut = launch.pieces(high, n_rows)
        assert cut.order.tolist() == [0, 3, 2, 1, 4]
        assert cut.starts[[0, 1, 32767, 32768, 32769]].tolist() == [0, 1, 2, 3, 5]


@BOTH
def test_tokens_without_a_domain_token_and_rows_without_a_token(backend: Backend) -> None:
    x = gate_case(30, 6, 20)
    x["ids"] = x["ids"].where(x["ids"] != 4, -1)
    gradient = torch.randn(30, 20, generator=torch.Generator().manual_seed(2))
    learned = [x[name].requires_grad_() for name in LEARNED]
    out = token_gate(**x, backend=backend)
    d_hidden, d_keys, d_values, _ = torch.autograd.grad(out, learned, gradient)
    assert torch.equal(d_hidden[x["ids"] < 0], gradient[x["ids"] < 0])
    for table in (d_keys, d_values):
        assert table.any(dim=1).tolist() == [j != 4 for j in range(6)]


@BOTH
def test_a_nan_gradient_reaches_its_token_and_its_domain_token(backend: Backend) -> None:
    x = gate_case(12, 4, 20)
    x["ids"] = torch.tensor([0, 1, 2, 3, -1, -1, 0, 1, 2, 3, 0, -1], dtype=torch.int32)
    learned = [x[name].requires_grad_() for name in LEARNED]
    out = token_gate(**x, backend=backend)
    for token, row, scale in ((4, [], False), (8, [2], True)):
        gradient = torch.ones(12, 20)
        gradient[token] = float("nan")
        found = torch.autograd.grad(out, learned, gradient, retain_graph=True)
        assert [nan_rows(each) for each in found[:3]] == [[token], row, row]
        assert found[3].isnan().any() == scale


def test_a_nan_gradient_of_one_column_stays_in_it_without_a_domain_token() -> None:
    x = gate_case(5, 3, 20)
    x["ids"][:] = -1
    gradient = torch.ones(5, 20)
    gradient[2, 7] = float("nan")
    arguments = (x["hidden"], x["keys"], x["values"], x["ids"], x["scale"], 1e-6)
    d_hidden, *others = ops.gate_backward(gradient, *arguments)
    assert d_hidden.isnan().nonzero().tolist() == [[2, 7]]
    assert not any(each.any() for each in others)


def test_a_rows_gradient_has_the_same_bits_whatever_else_is_in_the_batch() -> None:
    x = of_dtype(gate_case(200, 4, 40), torch.float16)
    x["ids"][x["ids"] == 1] = 3
    x["ids"][:100:2] = 1
    first = torch.randn(200, 40, generator=torch.Generator().manual_seed(2)).half()

    def tables(n: int) -> tuple[Tensor, Tensor]:
        parts = (x["hidden"][:n], x["keys"], x["values"], x["ids"][:n], x["scale"], 1e-6)
        _, d_keys, d_values, _ = ops.gate_backward(first[:n], *parts)
        return d_keys[1], d_values[1]

    for alone, together in zip(tables(100), tables(200), strict=True):
        assert alone.any()
        assert torch.equal(alone, together)


def test_every_gradient_is_written_and_no_other_element() -> None:
    x = gate_case(150, 5, 20)
    x["ids"][:140:2] = 2
    x["ids"] = x["ids"].where(x["ids"] != 1, 0)
    with poisoned(launch):
        check(x)


# (what the kernel says, what a bug would say); none reads outside its operands.
PLANTS = [
    ("tl.minimum(start + PIECE,", "tl.minimum(start + PIECE - 1,"),
    ("m_t = o_t < end\n", "m_t = o_t < end - 1\n"),
    ("if i_segment <= n_rows:", "if i_segment < n_rows:"),
    ("- b_along[:, None] * b_h", ""),
    ("b_d_k -= b_along[:, None] * b_k", "b_d_k -= 0"),
    ("b_d_scale += b_d_scaled * b_k", "b_d_scale = b_d_scaled * b_k"),
    ("* (1.0 - b_gate)", ""),
    ("if end - start != 1:", "if end - start > 1:"),
    ("_rows(key_parts_ptr, o_p, o_p < end", "_rows(key_parts_ptr, o_p, o_p < end - 1"),
    ("_rows(value_parts_ptr, o_p, o_p < end", "_rows(value_parts_ptr, o_p, o_p < start + 1"),
    ("b_inverse_h * b_inverse_k", "b_inverse_k"),
]


@pytest.mark.parametrize(("old", "new"), PLANTS)
def test_the_check_sees_a_planted_bug(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PROGRAMS", 3)
    x = gate_case(100, 5, 17)
    x["ids"] = x["ids"].where(x["ids"] != 1, 0)
    x["ids"][:75] = 2
    x["hidden"] *= torch.linspace(0.5, 2, 100)[:, None]

    def checked() -> None:
        with poisoned(launch):
            check(x)

    checked()
    with plant(launch, old, new), pytest.raises(AssertionError):
        checked()


def test_opcheck() -> None:
    x = gate_case(9, 3, 20)
    torch.library.opcheck(ops.gate_backward, (torch.randn(9, 20), *x.values(), 1e-6))


@pytest.mark.gpu
@NEEDS_CUDA
def test_bf16_and_the_same_bits_every_time_on_a_gpu(device: torch.device) -> None:
    x = cast(gate_case(5000, 300, 256), device)
    check(x, torch.bfloat16)
    x = of_dtype(x, torch.bfloat16)
    first = gradients(x, "triton")
    for _ in range(10):
        again = gradients(x, "triton")
        assert all(torch.equal(again[name], first[name]) for name in first)
