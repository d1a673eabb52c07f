"""Gradients of token assembly: the kernels against the reference's, the reference numerically."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.token_assembly import launch, ops, token_assembly
from tests.kernels.planted import plant
from tests.kernels.token_case import LEARNED, cast, gradients, poisoned, token_case
from tests.kernels.truth import assert_as_good_as_torch

pytestmark = pytest.mark.usefixtures("on_the_card")


def check(x: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Raises unless every gradient of the kernels is as good as torch's."""
    truth = gradients(cast(x, torch.float64), "reference")
    same = gradients(cast(x, dtype), "reference")
    got = gradients(cast(x, dtype), "triton")
    assert got.keys() == truth.keys()
    for name in got:
        if name.startswith("d "):
            assert got[name].dtype == dtype
            assert_as_good_as_torch(got[name], same[name], truth[name])


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, 0, 1, 7]),
    st.integers(0, 99),
)
def test_gradients_of_any_lengths(
    counts: list[int], ragged: bool, gather: bool, norm: bool, read_outs: int | None, seed: int
) -> None:
    check(
        token_case(
            counts, ragged=ragged, gather=gather, norm=norm, d=9, read_outs=read_outs, seed=seed
        )
    )


@pytest.mark.parametrize("counts", [[], [0], [1], [17, 17, 17], [65, 63]])
@pytest.mark.parametrize(("d", "signals"), [(1, 0), (129, 2)])
def test_gradients_of_odd_shapes(counts: list[int], d: int, signals: int) -> None:
    check(token_case(counts, ragged=len(counts) == 2, d=d, signals=signals, read_outs=3))


@pytest.mark.parametrize("gather", [False, True])
def test_gradients_in_fp16(gather: bool) -> None:
    check(token_case([30, 7, 0], ragged=True, gather=gather, d=64, read_outs=6), torch.float16)


def test_more_table_rows_and_events_than_a_tile() -> None:
    x = token_case([90, 80], ragged=True, d=33)
    make = torch.Generator().manual_seed(1)
    x["table"] = torch.randn(131, 33, generator=make)
    x["codes"] = torch.randint(0, 131, x["codes"].shape, generator=make)
    check(x)


def test_a_row_that_every_event_gathers_and_one_that_none_does() -> None:
    x = token_case([40, 23], ragged=True)
    x["index"][:] = 3
    got = gradients(x, "triton")["d rows"]
    assert not got[[0, 1, 2, 4, 5, 6]].any()
    check(x)


def test_the_reference_by_finite_differences() -> None:
    x = cast(token_case([2, 0, 3], ragged=True, norm=True, d=4, read_outs=4), torch.float64)
    weight, bias = x.pop("norm")

    def of_learned(weight: Tensor, bias: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        changed = x | dict(zip(LEARNED, values, strict=True))
        result = token_assembly(**changed, norm=(weight, bias), backend="reference")
        return result.tokens, result.read_outs

    inputs = [weight, bias, *(x[name] for name in LEARNED)]
    assert torch.autograd.gradcheck(of_learned, [value.requires_grad_() for value in inputs])


def test_every_gradient_is_written_and_no_other_element() -> None:
    with poisoned(launch):
        check(token_case([3, 0, 5, 1], read_outs=5))


def test_a_nan_gradient_spares_the_rows_and_users_of_other_tokens() -> None:
    x = token_case([4, 3])
    x["index"] = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]], dtype=torch.int32)
    d_tokens = torch.zeros(2, 5, 20)
    d_tokens[1, 2] = float("nan")
    d_rows, d_user, _, _ = ops.assemble_backward(
        d_tokens, torch.zeros(2, 20), x["index"], x["codes"], x["signals"], None, None, 7, 11
    )
    assert d_rows.isnan().all(dim=1).tolist() == [i == 2 for i in range(7)]
    assert d_user.isfinite().all()


def test_a_rows_gradient_has_the_same_bits_whatever_else_is_in_the_batch() -> None:
    x = cast(token_case([9, 9], d=40), torch.float16)
    x["index"] = torch.tensor([[0, 1, 0, 2, 0, 1, 0, 0, 0], [3] * 9], dtype=torch.int32)
    d_tokens = torch.randn(2, 10, 40, generator=torch.Generator().manual_seed(2)).half()
    none = torch.zeros(2, 40).half()

    def d_rows(n: int) -> Tensor:
        parts = (x["index"][:n], x["codes"][:n], x["signals"][:n])
        result: Tensor = ops.assemble_backward(d_tokens[:n], none[:n], *parts, None, None, 7, 11)[0]
        return result

    assert torch.equal(d_rows(1)[:3], d_rows(2)[:3])


# (what the kernel says, what a bug would say)
PLANTS = [
    ("        m_t = o_t < end\n        i_row = tl.load(order_ptr",
     "        m_t = o_t < end - 1\n        i_row = tl.load(order_ptr"),
    ("tl.minimum(start + n_split, n_events)", "tl.minimum(start + n_split, n_events - 1)"),
    ("== 0)[:, None] & m_d[None, :]", "== 0)[:, None] & (m_d & (o_d > 0))[None, :]"),
    ("== b_code[None, :])", "== b_code[None, :] + 1)"),
    ("m_s = (o_s >= 0) & (o_s < S)", "m_s = (o_s > 0) & (o_s < S)"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), PLANTS)
def test_the_check_sees_a_planted_bug(old: str, new: str) -> None:
    x = token_case([13, 6], ragged=True, read_outs=3)
    check(x)
    with plant(launch, old, new), pytest.raises(AssertionError):
        check(x)


@pytest.mark.parametrize("ragged", [False, True])
def test_opcheck(ragged: bool) -> None:
    x = token_case([3, 0, 2], ragged=ragged, read_outs=4)
    shape = (8, 20) if ragged else (3, 4, 20)
    torch.library.opcheck(
        ops.assemble_backward,
        (torch.randn(shape), torch.randn(4, 20), x["index"], x["codes"], x["signals"],
         x["read_sequence"], x["offsets"], 7, 11),
    )  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: not run")
def test_bf16_and_the_same_bits_every_time_on_a_gpu(device: torch.device) -> None:
    x = cast(token_case([50] * 40, d=768, read_outs=80), device)
    check(x, torch.bfloat16)
    x = cast(x, torch.bfloat16)
    first = gradients(x, "triton")
    for _ in range(10):
        again = gradients(x, "triton")
        assert all(torch.equal(again[name], first[name]) for name in first)
