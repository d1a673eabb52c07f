import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.backend import Backend
from kernels.score_topk import TopK, launch, score_topk
from kernels.score_topk.launch import Config
from kernels.score_topk.reference import score_topk as reference
from kernels.trace import tracing
from tests.kernels.planted import plant
from tests.kernels.truth import EPS

pytestmark = pytest.mark.usefixtures("on_the_card")
BACKENDS: tuple[Backend, ...] = ("reference", "triton")
NAN, INF = math.nan, math.inf


def oracle(queries: Tensor, items: Tensor, bias: Tensor, mask: Tensor | None, k: int) -> TopK:
    """The definition, item by item, in fp64."""
    values = np.full((len(queries), k), -INF, np.float32)
    indices = np.full((len(queries), k), -1, np.int64)
    q, x, b = (t.double().numpy() for t in (queries, items, bias))
    for row in range(len(q)):
        found = []
        for i in range(len(x)):
            score = float((q[row] * x[i]).sum() + b[i])
            kept = mask is None or int(mask[row, i // 32]) >> (i % 32) & 1
            if kept and score > -INF:
                found.append((-score, i))
        for place, (score, i) in enumerate(sorted(found)[:k]):
            values[row, place], indices[row, place] = -score, i
    return TopK(torch.as_tensor(values), torch.as_tensor(indices))


def inputs(
    b: int, n: int, d: int, *, seed: int = 0, reach: int = 3, kept: float | None = 0.5
) -> dict[str, Any]:
    """Small integers, whose sums are exact in fp16 products too; every tail bit of a mask is 1."""
    make = torch.Generator().manual_seed(seed)
    arguments: dict[str, Any] = {
        "queries": torch.randint(-reach, reach + 1, (b, d), generator=make).half(),
        "items": torch.randint(-reach, reach + 1, (n, d), generator=make).half(),
        "bias": torch.randint(-reach, reach + 1, (n,), generator=make).float(),
        "mask": None,
    }
    if kept is not None:
        bits = torch.rand(b, -(-n // 32) * 32, generator=make) < kept
        bits[:, n:] = True
        arguments["mask"] = words(bits)
    return arguments


def words(bits: Tensor) -> Tensor:
    """[B, 32 W] bool as [B, W] int32 words, bit j first."""
    octets = np.packbits(bits.numpy(), axis=1, bitorder="little")
    return torch.as_tensor(octets.view("<i4").astype(np.int32))


@contextmanager
def configured(block_q: int, chunks: int, keep: int, levels: int) -> Iterator[None]:
    """Every call runs in one shape class."""
    only = Config(block_q, chunks, keep, levels, 4)
    with patch.object(launch, "choose_config", lambda *_: only):
        yield


@contextmanager
def poisoned() -> Iterator[None]:
    """Outputs and lists start as NaN and unbeatable keys, with canaries behind them."""
    empty, canaries = torch.empty, []

    def poison(shape: tuple[int, ...], **options: Any) -> Tensor:
        size = math.prod(shape)
        bad = NAN if options["dtype"].is_floating_point else 2**62
        whole = torch.full((size + 64,), bad, **options)
        canaries.append((whole[size:], bad))
        return whole[:size].view(shape)

    with patch.object(torch, "empty", poison):
        yield
    assert empty is torch.empty
    for tail, bad in canaries:
        wanted = torch.full_like(tail, bad)
        assert torch.equal(tail.nan_to_num(1.5), wanted.nan_to_num(1.5)), "written behind the end"


def check(arguments: dict[str, Any], k: int, backend: Backend = "triton") -> None:
    """The operator gives what the oracle gives, index for index."""
    wanted = oracle(**arguments, k=k)
    with ExitStack() as stack:
        if backend == "triton":
            stack.enter_context(poisoned())
        found = score_topk(**arguments, k=k, backend=backend)
    assert found.values.dtype == torch.float32
    assert found.indices.dtype == torch.int64
    assert torch.equal(found.indices, wanted.indices)
    assert torch.equal(found.values, wanted.values)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 5), st.integers(0, 90), st.integers(1, 9), st.integers(1, 60),
    st.integers(0, 3), st.sampled_from([None, 0.0, 0.1, 0.9]), st.integers(0, 99),
)  # fmt: skip
def test_the_reference_equals_the_oracle(
    b: int, n: int, d: int, k: int, reach: int, kept: float | None, seed: int
) -> None:
    check(inputs(b, n, d, seed=seed, reach=reach, kept=kept), k, "reference")


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 4), st.integers(1, 140), st.sampled_from([1, 7, 8, 16, 33]), st.integers(1, 500),
    st.integers(0, 3), st.sampled_from([None, 0.0, 0.1, 0.9]), st.integers(0, 99),
)  # fmt: skip
def test_the_kernels_equal_the_oracle(
    b: int, n: int, d: int, k: int, reach: int, kept: float | None, seed: int
) -> None:
    check(inputs(b, n, d, seed=seed, reach=reach, kept=kept), k)


SHAPES = [
    (1, 1, 1, 1), (1, 1, 8, 500), (0, 5, 4, 3), (3, 0, 4, 3), (2, 31, 8, 31), (2, 33, 8, 33),
    (16, 65, 16, 10), (17, 63, 8, 64), (32, 64, 8, 65), (33, 127, 8, 5),
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("b", "n", "d", "k"), SHAPES)
def test_odd_shapes(b: int, n: int, d: int, k: int, backend: Backend) -> None:
    check(inputs(b, n, d), k, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_scores_equal(backend: Backend) -> None:
    """Signed zeros: the product's, and the bias's."""
    arguments = inputs(2, 100, 8, reach=0, kept=None)
    arguments["queries"][1] = -0.0
    arguments["bias"][::2] = -0.0
    check(arguments, 40, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity_stay_where_they_are(backend: Backend) -> None:
    arguments = inputs(4, 70, 8, kept=None)
    arguments["queries"][1, 2] = NAN
    arguments["queries"][2, 0] = INF
    arguments["items"][5, 3] = NAN
    arguments["items"][6] = INF
    arguments["items"][69] = -INF
    arguments["bias"][[7, 8, 9]] = torch.tensor([NAN, INF, -INF])
    check(arguments, 70, backend)
    found = score_topk(**arguments, k=70, backend=backend)
    assert not found.values.isnan().any()
    assert bool((found.indices[1] == -1).all()), "a query with NaN is answered by nothing"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_score_beyond_float32_is_infinite(backend: Backend) -> None:
    queries = torch.tensor([[3e38], [-3e38]])
    found = score_topk(queries, torch.tensor([[2.0], [1.0]]), torch.zeros(2), None, 2,
                       backend=backend)  # fmt: skip
    assert found.indices.tolist() == [[0, 1], [1, -1]]
    assert found.values[0, 0] == INF


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_real_scores(dtype: torch.dtype, backend: Backend) -> None:
    """Values within torch's own error; swaps only where scores differ by less than that."""
    make = torch.Generator().manual_seed(3)
    queries = torch.randn(5, 48, generator=make).to(dtype)
    items = torch.randn(300, 48, generator=make).to(dtype)
    bias = torch.randn(300, generator=make)
    found = score_topk(queries, items, bias, None, 60, backend=backend)
    truth = queries.double() @ items.double().T + bias
    own = (queries.float() @ items.float().T + bias).double() - truth
    error = 2 * float(own.abs().max()) + EPS
    best = truth.sort(dim=1, descending=True).values[:, :60]
    assert float((found.values - best).abs().max()) <= error
    assert float((truth.gather(1, found.indices) - best).abs().max()) <= 2 * error
    assert all(len(set(row)) == 60 for row in found.indices.tolist())


def test_the_reference_is_differentiable_and_the_kernels_say_that_they_are_not() -> None:
    make = torch.Generator().manual_seed(1)
    real = [torch.randn(shape, generator=make) for shape in ((2, 8), (40, 8), (40,))]
    doubles = [tensor.double().requires_grad_() for tensor in real]
    assert torch.autograd.gradcheck(lambda *xs: reference(*xs, None, 4).values, doubles)
    real[0].requires_grad_()
    found = score_topk(*real, None, 4, backend="triton")
    with pytest.raises(RuntimeError, match="no autograd formula"):
        found.values.sum().backward()


# A class each for columns that overflow, lists that do, both, and neither.
CLASSES = [(16, 2, 16, 2), (32, 3, 32, 4), (16, 1, 64, 4)]


def hard(name: str) -> tuple[dict[str, Any], int]:
    """Inputs whose best items lie together."""
    arguments = inputs(2, 384, 8)
    if name == "one word":
        arguments["bias"][64:96] += 500
        return arguments, 40
    if name == "one chunk":  # of two: every other word
        arguments["bias"].view(-1, 2, 32)[:, 1] += 500
        return arguments, 120
    if name == "one column":  # of a tile, in every chunk
        arguments["bias"].view(-1, 64)[:, 5] += 500
        arguments["mask"] = None
        return arguments, 9
    if name == "few qualify":
        arguments["mask"] = words(torch.arange(384).expand(2, 384) % 9 == 0)
        return arguments, 100
    assert name == "all alike"
    return inputs(2, 384, 8, reach=0, kept=None), 100


HARD = ["one word", "one chunk", "one column", "few qualify", "all alike"]


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("config", CLASSES)
def test_what_a_list_leaves_out_is_read_again(config: tuple[int, int, int, int], name: str) -> None:
    arguments, k = hard(name)
    with configured(*config):
        check(arguments, k)


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="bytes are counted in the interpreter, which a GPU replaces"
)
def test_chunks_are_read_again_only_where_the_proof_fails() -> None:
    def item_bytes(arguments: dict[str, Any], k: int) -> int:
        with configured(16, 4, 16, 4), tracing() as trace:
            score_topk(**arguments, k=k, backend="triton")
        return sum(o.read_bytes for t in trace for o in t.operands
                   if o.name == "items_ptr")  # fmt: skip

    arguments = inputs(2, 384, 8)
    once = arguments["items"].numel() * 2
    assert item_bytes(arguments, 20) == once
    arguments["bias"][64:96] += 500  # one chunk of four, for each of two queries
    assert item_bytes(arguments, 20) == once + 2 * once // 4


def test_the_same_bits_whatever_the_batch_and_the_class() -> None:
    make = torch.Generator().manual_seed(5)
    queries = torch.randn(40, 64, generator=make).half()
    items = torch.randn(200, 64, generator=make).half()
    bias = torch.randn(200, generator=make)
    mask = words(torch.rand(40, 224, generator=make) < 0.7)
    alone = score_topk(queries[7:8], items, bias, mask[7:8], 20, backend="triton")
    for rows in (slice(0, 40), slice(5, 9), slice(7, 25)):
        k = 20 + rows.start
        batch = score_topk(queries[rows], items, bias, mask[rows], k, backend="triton")
        row = 7 - rows.start
        assert torch.equal(batch.values[row, :20], alone.values[0])
        assert torch.equal(batch.indices[row, :20], alone.indices[0])
    for config in CLASSES:
        with configured(*config):
            other = score_topk(queries[7:8], items, bias, mask[7:8], 20, backend="triton")
        assert torch.equal(other.values, alone.values)
        assert torch.equal(other.indices, alone.indices)


PLANTS = [
    ("tail", "m_q[:, None] & m_n[None, :]", "m_q[:, None] & (o_n >= 0)[None, :]"),
    ("last item", "m_n = o_n < n_items", "m_n = o_n < n_items - 1"),
    ("mask bit", "tl.arange(0, WORD)[None", "(31 - tl.arange(0, WORD))[None"),
    ("tie order", "(o_n ^ LAST_INDEX).to", "(o_n ^ LAST_INDEX ^ 1).to"),
    ("column's bound", "b_left = tl.max(b_left, axis=1)", "b_left = tl.min(b_left, axis=1)"),
    ("list's bound", "tl.maximum(b_left, tl.min(b_list, axis=1))", "b_left"),
    ("proof", "if tl.max(b_bounds) > i_kth:", "if tl.max(b_bounds) < MISSING:"),
    ("listed twice", "tl.where(b_row < i_bound, b_row, MISSING)", "b_row"),
]


def exacting() -> None:
    """Lists that overflow, columns that do, and a tail."""
    for chunks, name in ((2, "one word"), (1, "one column")):
        arguments, k = hard(name)
        with configured(16, chunks, 16, 4):
            check(arguments, k)
    check(inputs(2, 37, 8), 37)


def test_nothing_planted() -> None:
    exacting()


@pytest.mark.parametrize(("old", "new"), [p[1:] for p in PLANTS], ids=[p[0] for p in PLANTS])
def test_a_planted_error_fails(old: str, new: str) -> None:
    with plant(launch, old, new), pytest.raises(AssertionError):
        exacting()
