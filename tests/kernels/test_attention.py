"""Attention by its specification: the formula, both backends, forms, and what NaN may reach."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.attention import attention
from kernels.attention.reference import day_buckets
from tests.kernels.attention_inputs import Arguments, cast, naive, packed, padded, sequences
from tests.kernels.truth import assert_as_good_as_torch

pytestmark = pytest.mark.usefixtures("on_the_card")
BACKENDS = ["reference", "triton"]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3), st.integers(0, 9), st.integers(0, 9), st.integers(1, 3),
    st.sampled_from([1, 3, 8]), st.sampled_from([0, 1, 2, 11]), st.integers(0, 99),
)  # fmt: skip
def test_the_reference_equals_the_formula(
    b: int, q: int, k: int, h: int, d: int, n_buckets: int, seed: int
) -> None:
    arguments = padded(b, q, k, h, d, n_buckets, seed)
    torch.testing.assert_close(attention(**arguments).double(), naive(arguments), rtol=0, atol=2e-6)


@pytest.mark.parametrize("n_buckets", [1, 2, 11, 16])
def test_buckets_are_exact_on_both_sides_of_every_power_of_two(n_buckets: int) -> None:
    days = [-5, 0, 1] + [n for e in range(1, 22) for n in (2**e - 1, 2**e, 2**e + 1)]
    expected = [min(max(n, 0).bit_length(), n_buckets - 1) for n in days]
    key_day = 20_000 - torch.tensor([days])
    query_day = torch.full((1, 1), 20_000)
    assert day_buckets(query_day, key_day, n_buckets).flatten().tolist() == expected
    # The kernel's are seen through a table: an equal weight each but for the bias.
    n = len(days)
    arguments = {
        "query": torch.zeros(1, 1, 1, 16), "key": torch.zeros(1, n, 1, 16),
        "value": torch.zeros(1, n, 1, 16), "cut": torch.tensor([[n]]),
        "bias_table": torch.arange(n_buckets).float()[None] * 0.5,
        "query_day": query_day, "key_day": key_day,
    }  # fmt: skip
    for i in range(0, n, 16):
        arguments["value"].zero_()
        arguments["value"][0, i : i + 16, 0] = torch.eye(16)[: n - i]
        one, other = (attention(**arguments, backend=name) for name in BACKENDS)  # type: ignore[arg-type]
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


SHAPES = [
    # b, q, k, h, d, buckets: one of all, tails of 16, 64 and 128, powers of two ± 1, no rows
    (1, 1, 1, 1, 16, 1),
    (2, 2, 67, 2, 96, 11),
    (3, 7, 31, 1, 48, 0),
    (1, 17, 64, 2, 64, 11),
    (1, 129, 65, 1, 96, 16),
    (1, 130, 127, 1, 32, 0),
    (2, 3, 0, 1, 16, 2),
    (2, 0, 3, 1, 16, 0),
    (0, 3, 4, 1, 16, 2),
]


def check(arguments: Arguments) -> None:
    """The kernel against the reference in the same dtype, by the reference in fp64."""
    truth = attention(**cast(arguments, torch.float64), backend="reference")
    same = attention(**arguments, backend="reference")
    assert_as_good_as_torch(attention(**arguments, backend="triton"), same, truth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_equals_the_reference(shape: Any, dtype: torch.dtype) -> None:
    check(padded(*shape, dtype=dtype))


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 70)), max_size=4),
    st.sampled_from([0, 11]), st.sampled_from([None, 20]), st.integers(0, 99),
)  # fmt: skip
def test_packed_sequences_of_any_lengths(
    lengths: list[tuple[int, int]], n_buckets: int, max_queries: int | None, seed: int
) -> None:
    queries, keys = ([pair[i] for pair in lengths] for i in (0, 1))
    arguments = packed(queries, keys, 1, 16, n_buckets, seed)
    alone = [attention(**one, backend="reference")[0] for one in sequences(arguments)]
    expected = torch.cat([arguments["query"][:0], *alone])
    for backend in BACKENDS:
        out = attention(**arguments, max_queries=max_queries, backend=backend)
        torch.testing.assert_close(out, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_more_than_a_block_of_sequences(backend: Any) -> None:
    """The kernel looks sequences up 128 at a time."""
    arguments = packed([i % 3 for i in range(150)], [i % 5 for i in range(150)], 1, 16)
    alone = [attention(**one, backend="reference")[0] for one in sequences(arguments)]
    out = attention(**arguments, backend=backend)
    torch.testing.assert_close(out, torch.cat(alone), rtol=0, atol=5e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_queries_over_a_padded_cache(backend: Any) -> None:
    """Append: n new tokens a user, whose keys stand behind the cached ones in a longer buffer."""
    cached, new, room = [5, 0, 9], [2, 3, 0], 12
    whole = padded(3, room, room, 2, 16, 11)
    whole["cut"] = torch.arange(1, room + 1).expand(3, -1)
    expected = attention(**whole, backend="reference")
    rows = [(b, cached[b] + i) for b in range(3) for i in range(new[b])]
    at = torch.tensor(rows).T.unbind()
    arguments = whole | {
        "query": whole["query"][at], "query_day": whole["query_day"][at],
        "cut": at[1].int() + 1, "query_offsets": torch.tensor([0, 2, 5, 5], dtype=torch.int32),
    }  # fmt: skip
    for b in range(3):  # what stands behind was never written
        for name in ("key", "value"):
            arguments[name][b, cached[b] + new[b] :] = float("nan")
    out = attention(**arguments, backend=backend)
    torch.testing.assert_close(out, expected[at], rtol=0, atol=5e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_of_one_projection_are_taken_as_they_are(backend: Any) -> None:
    b, n, h, d = 2, 5, 3, 16
    joint = torch.randn(b, n, 3 * h * d)
    query, key, value = (x.view(b, n, h, d) for x in joint.chunk(3, dim=2))
    cut = torch.arange(1, n + 1).expand(b, -1)
    out = attention(query, key, value, cut, backend=backend)
    whole = attention(query.clone(), key.clone(), value.clone(), cut.contiguous())
    torch.testing.assert_close(out, whole, rtol=0, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "eps"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_a_half_type_keeps_its_dtype(dtype: torch.dtype, eps: float, backend: Any) -> None:
    if backend == "triton" and dtype == torch.bfloat16 and not torch.cuda.is_available():
        pytest.skip("bf16 arithmetic in Triton's interpreter is wrong: not run")
    arguments = padded(2, 5, 7, 2, 16, 11, dtype=dtype)
    out = attention(**arguments, backend=backend)
    assert out.dtype == dtype
    truth = naive(arguments)
    torch.testing.assert_close(out.double(), truth, rtol=0, atol=4 * eps * float(truth.abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_softmax_of_a_half_type_is_fp32(backend: Any) -> None:
    """A bias of 0.003 beside a logit of 64, where fp16 counts in steps of 0.06."""
    ones = torch.ones(1, 2, 1, 16, dtype=torch.float16)
    value = torch.tensor([0.0, 1.0], dtype=torch.float16)[None, :, None, None].expand_as(ones)
    out = attention(
        ones[:, :1], 16 * ones, value.contiguous(), torch.tensor([[2]]),
        bias_table=torch.tensor([[0.0, 0.003]]),
        query_day=torch.tensor([[1]]), key_day=torch.tensor([[1, 0]]), backend=backend,
    )  # fmt: skip
    # fp16 has 0.5 and 0.5005 here: the output's own step hides less than the bias moves.
    assert out[0, 0, 0, 0].item() == pytest.approx(1 / (1 + np.exp(-0.003)), abs=3e-4)
    assert out[0, 0, 0, 0].item() > 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_from_the_cut_on_are_not_read(backend: Any) -> None:
    arguments = padded(2, 4, 6, 2, 16)
    arguments["cut"] = torch.full((2, 4), 3)
    before = attention(**arguments, backend=backend)
    arguments["key"][:, 3:] = float("nan")
    arguments["value"][:, 3:] = float("nan")
    assert torch.equal(attention(**arguments, backend=backend), before)
    arguments["value"][:, 2] += 1
    assert not torch.equal(attention(**arguments, backend=backend), before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_with_its_row_its_sequence_and_its_head(backend: Any) -> None:
    arguments = padded(3, 4, 6, 2, 16, 11, seed=4)
    arguments["cut"] = torch.tensor([[6, 0, 5, 4]]).expand(3, -1)
    clean = attention(**arguments, backend=backend)
    arguments["query"][0, 2, 0] = float("nan")
    arguments["key"][1, 1, 1] = float("nan")
    arguments["value"][2, 1, 0] = float("nan")
    out = attention(**arguments, backend=backend)
    assert bool(out[0, 2, 0].isnan().all())
    assert bool(out[1, [0, 2, 3], 1].isnan().all())
    assert bool(out[2, [0, 2, 3], 0].isnan().all())
    expected = clean.clone()
    expected[0, 2, 0] = expected[1, :, 1] = expected[2, :, 0] = float("nan")
    kept = ~expected.isnan()
    assert torch.equal(out[kept], clean[kept])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_bits_whatever_else_is_in_the_batch(backend: Any) -> None:
    if backend == "reference":
        pytest.skip("torch's products differ in bits with the batch: not promised, not run")
    arguments = padded(3, 20, 40, 2, 48, 11)
    whole = attention(**arguments, backend=backend)
    assert torch.equal(whole, attention(**arguments, backend=backend))
    for i, one in enumerate(sequences(arguments)):
        assert torch.equal(attention(**one, backend=backend)[0], whole[i])


def poisoned(arguments: Arguments, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """The kernel's output where its memory was NaN before, and what lay behind it."""
    size, canary, memory = arguments["query"].numel(), 512, []

    def empty(*shape: Any, **options: Any) -> Tensor:
        whole = torch.full((int(np.prod(shape)) + canary,), float("nan"), **options)
        memory.append(whole)
        return whole[:-canary].view(*shape)

    monkeypatch.setattr("kernels.attention.launch.torch.empty", empty)
    out = attention(**arguments, backend="triton")
    monkeypatch.undo()
    return out, memory[0][size:]


@pytest.mark.parametrize("shape", [(2, 5, 7, 2, 48), (1, 130, 66, 1, 16)])
def test_every_element_is_written_and_nothing_behind(
    shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, behind = poisoned(padded(*shape), monkeypatch)
    assert not bool(out.isnan().any())
    assert bool(behind.isnan().all())
