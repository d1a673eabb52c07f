"""What attention refuses, what it chooses, how it registers, and that its checks can fail."""

from typing import Any

import pytest
import torch

from kernels.attention import attention, explain, launch
from kernels.backend import BackendUnavailable
from tests.kernels.attention_inputs import packed, padded
from tests.kernels.planted import plant
from tests.kernels.test_attention import check as check_forward
from tests.kernels.test_attention import poisoned
from tests.kernels.test_attention_backward import check as check_backward

pytestmark = pytest.mark.usefixtures("on_the_card")
WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("query", torch.zeros(2, 5, 4), ValueError,
     r"query: expected \[B, rows, H, d\], got shape \(2, 5, 4\)"),
    ("key", torch.zeros(6, 3, 4), ValueError,
     r"key: expected \[B, rows, H, d\], got shape \(6, 3, 4\)"),
    ("key", torch.zeros(2, 6, 3, 5), ValueError,
     r"key: expected shape \(2, 6, 3, 4\), got \(2, 6, 3, 5\)"),
    ("value", torch.zeros(2, 5, 3, 4), ValueError,
     r"value: expected shape \(2, 6, 3, 4\), got \(2, 5, 3, 4\)"),
    ("key", torch.zeros(2, 6, 3, 4).half(), TypeError,
     r"key: expected torch.float32, got torch.float16"),
    ("value", torch.zeros(2, 6, 3, 4).double(), TypeError,
     r"value: expected torch.float32, got torch.float64"),
    ("query", torch.zeros(2, 5, 4, 3).transpose(2, 3), ValueError,
     r"query: expected a contiguous last dimension, got strides \(60, 12, 1, 3\)"),
    ("query_offsets", torch.zeros(3, dtype=torch.int32), ValueError,
     r"query: expected \[rows, H, d\] with query_offsets, got shape \(2, 5, 3, 4\)"),
    ("cut", torch.zeros(2, 6, dtype=torch.int64), ValueError,
     r"cut: expected shape \(2, 5\), got \(2, 6\)"),
    ("cut", torch.zeros(2, 5), TypeError,
     r"cut: expected torch.int32 or torch.int64, got torch.float32"),
    ("bias_table", None, ValueError,
     r"expected bias_table, query_day and key_day together, got only query_day and key_day"),
    ("query_day", None, ValueError,
     r"expected bias_table, query_day and key_day together, got only bias_table and key_day"),
    ("key_day", None, ValueError,
     r"expected bias_table, query_day and key_day together, got only bias_table and query_day"),
    ("bias_table", torch.zeros(2, 5), ValueError,
     r"bias_table: expected shape \(3, 5\), got \(2, 5\)"),
    ("bias_table", torch.zeros(3, 17), ValueError,
     r"bias_table: expected 1 to 16 buckets, got 17"),
    ("bias_table", torch.zeros(3, 0), ValueError,
     r"bias_table: expected 1 to 16 buckets, got 0"),
    ("query_day", torch.zeros(2, 6, dtype=torch.int64), ValueError,
     r"query_day: expected shape \(2, 5\), got \(2, 6\)"),
    ("query_day", torch.zeros(2, 5), TypeError,
     r"query_day: expected torch.int32 or torch.int64, got torch.float32"),
    ("key_day", torch.zeros(2, 5, dtype=torch.int64), ValueError,
     r"key_day: expected shape \(2, 6\), got \(2, 5\)"),
    ("key_day", torch.zeros(2, 6).half(), TypeError,
     r"key_day: expected torch.int32 or torch.int64, got torch.float16"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "error", "text"), WRONG)
def test_a_wrong_argument_is_named(
    name: str, value: Any, error: type[Exception], text: str
) -> None:
    arguments = padded(2, 5, 6, 3, 4, 5)
    with pytest.raises(error, match=f"^attention: {text}$"):
        attention(**arguments | {name: value})


WRONG_PACKED: list[tuple[str, Any, type[Exception], str]] = [
    ("query_offsets", None, ValueError,
     r"query: expected \[B, rows, H, d\], got shape \(5, 1, 4\)"),
    ("query_offsets", torch.zeros(3), TypeError,
     r"query_offsets: expected torch.int32, got torch.float32"),
    ("key_offsets", torch.zeros(3, dtype=torch.int64), TypeError,
     r"key_offsets: expected torch.int32, got torch.int64"),
    ("key_offsets", torch.zeros(0, dtype=torch.int32), ValueError,
     r"key_offsets: expected \[B \+ 1\], got shape \(0,\)"),
    ("key_offsets", torch.zeros(4, dtype=torch.int32), ValueError,
     r"key: expected 2 sequences like query, got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "error", "text"), WRONG_PACKED)
def test_a_wrong_packed_argument_is_named(
    name: str, value: Any, error: type[Exception], text: str
) -> None:
    arguments = packed([2, 3], [4, 2], 1, 4)
    with pytest.raises(error, match=f"^attention: {text}$"):
        attention(**arguments | {name: value})


@pytest.mark.parametrize(
    ("d", "dtype", "reason"),
    [
        (16, torch.float64, "the kernel takes torch.float16, torch.bfloat16, torch.float32, "
         "got torch.float64"),
        (8, torch.float16, "a head of 16 to 128 dimensions .* got 8"),
        (112, torch.float16, "a head of 16 to 128 dimensions .* got 112"),
        (192, torch.float16, "a head of 16 to 128 dimensions .* got 192"),
    ],
)  # fmt: skip
def test_what_the_kernel_cannot_take_raises_or_is_explained(
    d: int, dtype: torch.dtype, reason: str
) -> None:
    arguments = padded(1, 2, 3, 1, d, dtype=dtype)
    choice = explain(arguments["query"])
    assert choice.backend == "reference"
    with pytest.raises(BackendUnavailable, match=f"^attention: backend 'triton' .*{reason}"):
        attention(**arguments, backend="triton")
    assert attention(**arguments).shape == arguments["query"].shape


@pytest.mark.parametrize("d", [16, 32, 48, 64, 80, 96, 128])
def test_heads_that_the_kernel_takes(d: int) -> None:
    assert explain(torch.zeros(1, 1, 1, d), backend="triton").backend == "triton"
    assert sum(launch.split_head(d)) == d


def test_auto_explains_the_reference_on_a_cpu() -> None:
    choice = explain(torch.zeros(1, 1, 1, 16, device="cpu"))
    assert choice.backend == "reference"
    assert "cpu" in choice.reason


@pytest.mark.parametrize("n_buckets", [0, 11])
def test_opcheck(n_buckets: int) -> None:
    arguments = padded(2, 3, 5, 1, 16, n_buckets)
    for name in ("query", "key", "value"):
        arguments[name].requires_grad_()
    names = ("query", "key", "value", "cut", "bias_table", "query_day", "key_day")
    tensors = [arguments.get(name) for name in names]
    op = torch.ops.stars
    torch.library.opcheck(op.attention.default, (*tensors, None, None, None, True))
    values = [None if x is None else x.detach() for x in tensors]
    torch.library.opcheck(op.attention.default, (*values, None, None, None, False))
    out, logsumexp = op.attention(*values, None, None, None, True)
    torch.library.opcheck(
        op.attention_backward.default, (*values, None, None, out, torch.ones_like(out), logsumexp)
    )


def test_a_gradient_without_what_it_needs_is_refused() -> None:
    arguments = padded(1, 2, 3, 1, 16)
    query = arguments["query"].requires_grad_()
    out, _ = torch.ops.stars.attention(
        query, arguments["key"], arguments["value"], arguments["cut"], *[None] * 6, False
    )
    with pytest.raises(ValueError, match=r"^attention: save: expected True where a gradient"):
        out.sum().backward()


FORWARD_BUGS = {
    "cut off by one": ("b_cut = tl.minimum(b_cut, k_length)\n    n_seen = tl.max(b_cut, 0)\n"
                       "    b_query_a = _load(p_query, o_m, m_m, stride_qt, 0, D_A)\n    b_out_a",
                       "b_cut = tl.minimum(b_cut, k_length - 1)\n    n_seen = tl.max(b_cut, 0)\n"
                       "    b_query_a = _load(p_query, o_m, m_m, stride_qt, 0, D_A)\n    b_out_a"),
    "no mask of the cut": ("b_logit = tl.where(o_n[None, :] < b_cut[:, None], b_logit,",
                           "b_logit = tl.where(o_n[None, :] < n_seen, b_logit,"),
    "second part of the head": ("b_query_b, tl.trans(b_key), b_logit,",
                                "b_query_b, tl.trans(b_key) * 0, b_logit,"),
    "bucket edge": ("(b_days.to(tl.int32, bitcast=True) >> 23) - 126",
                    "((b_days + 1.0).to(tl.int32, bitcast=True) >> 23) - 126"),
}  # fmt: skip


@pytest.mark.parametrize("bug", FORWARD_BUGS)
def test_a_planted_bug_fails_the_forward_check(bug: str) -> None:
    arguments = padded(2, 7, 67, 1, 48, 11, dtype=torch.float16)
    arguments["cut"][:, -1] = 67
    check_forward(arguments)
    with plant(launch, *FORWARD_BUGS[bug]), pytest.raises(AssertionError):
        check_forward(arguments)


def test_a_missing_tail_fails_the_poison_check(monkeypatch: pytest.MonkeyPatch) -> None:
    bug = ("tl.where(i_block < n_blocks, n_blocks - 1 - i_block, n_blocks)",
           "tl.where(i_block < n_blocks - 1, n_blocks - 2 - i_block, n_blocks)")  # fmt: skip
    with plant(launch, *bug):
        out, _ = poisoned(padded(1, 130, 66, 1, 16), monkeypatch)
    assert bool(out.isnan().any())


def test_a_missing_tail_mask_fails_the_canary_check(monkeypatch: pytest.MonkeyPatch) -> None:
    bug = ("tl.store(p_rows, b_rows.to(p_base.dtype.element_ty), mask=m_row[:, None])",
           "tl.store(p_rows, b_rows.to(p_base.dtype.element_ty))")  # fmt: skip
    with plant(launch, *bug):
        _, behind = poisoned(padded(1, 5, 7, 1, 16), monkeypatch)
    assert not bool(behind.isnan().all())


BACKWARD_BUGS = {
    "cut in the keys' half": ("m_sees = o_n[:, None] < b_cut[None, :]",
                              "m_sees = o_n[:, None] < b_cut[None, :] + 1"),
    "cut in the queries' half": ("m_sees = o_n[None, :] < b_cut[:, None]  # [M, N]",
                                 "m_sees = o_n[None, :] < b_cut[:, None] + 1  # [M, N]"),
    "first query that sees a key": ("tl.where(m_sees, o_m, q_length), 0))",
                                    "tl.where(m_sees, o_m + 1, q_length), 0))"),
    "last query that sees a key": ("tl.where(m_sees, o_m + 1, 0), 0))",
                                   "tl.where(m_sees, o_m, 0), 0))"),
    "one bucket short": ("for i in tl.static_range(N_BUCKETS):",
                         "for i in tl.static_range(N_BUCKETS - 1):"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BACKWARD_BUGS)
def test_a_planted_bug_fails_the_backward_check(bug: str) -> None:
    arguments = padded(1, 21, 67, 1, 16, 4, dtype=torch.float16)
    check_backward(arguments)
    with plant(launch, *BACKWARD_BUGS[bug]), pytest.raises(AssertionError):
        check_backward(arguments)


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: not run")


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("d", [64, 96])
@pytest.mark.parametrize("q", [2, 48, 225])
def test_bf16_on_a_gpu(q: int, d: int) -> None:
    arguments = padded(4, q, 201, 8, d, 11, dtype=torch.bfloat16)
    arguments = {name: tensor.cuda() for name, tensor in arguments.items()}
    check_forward(arguments)
    check_backward(arguments)


@pytest.mark.gpu
@gpu
def test_bits_on_a_gpu_over_repeats_and_batches() -> None:
    arguments = padded(32, 225, 201, 8, 96, 11, dtype=torch.float16)
    arguments = {name: tensor.cuda() for name, tensor in arguments.items()}
    first = attention(**arguments)
    for _ in range(20):
        assert torch.equal(attention(**arguments), first)
    for n in (1, 7):
        part = {x: t if x == "bias_table" else t[:n] for x, t in arguments.items()}
        assert torch.equal(attention(**part), first[:n])


@pytest.mark.gpu
@gpu
def test_offsets_beyond_int32_on_a_gpu() -> None:
    """Rows beyond 2^31 elements; needs 13 GB."""
    n = 2**31 // 768 + 300
    offsets = torch.tensor([0, n - 201, n], dtype=torch.int32, device="cuda")
    query, key, value = (
        torch.zeros(n, 8, 96, dtype=torch.float16, device="cuda") for _ in range(3)
    )
    for tensor in (query, key, value):
        tensor[-201:].normal_()
    cut = torch.zeros(n, dtype=torch.int32, device="cuda")
    cut[-201:] = torch.arange(1, 202)
    out = attention(query, key, value, cut, query_offsets=offsets, key_offsets=offsets)
    tail = (tensor[None, -201:].clone() for tensor in (query, key, value))
    torch.testing.assert_close(out[-201:], attention(*tail, cut[None, -201:])[0])
