"""The kernels' operators beside what a user would pick instead, on a CPU and on a GPU.

pytest benchmarks/bench_kernels.py --benchmark-only --benchmark-group-by=func,param:device

Every way is checked against the reference before it is timed. On a GPU `device_us` in the extra
columns is the time of the device alone, with a cold cache; on a CPU the operators run their
references, and the kernels are not timed: Triton's interpreter is for results, not for speed.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from engine.ops import attention, candidate_softmax, score_topk, token_assembly

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason="needs a CUDA device: not run"
        ),
    ),
]
Way = Callable[[], Any]
BATCH = {"cpu": 4, "cuda": 32}  # the paper's shapes, fewer users on a CPU


def dtype_of(device: str) -> torch.dtype:
    return torch.float32 if device == "cpu" else torch.float16


def real(device: str, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype_of(device))


def backends(device: str, call: Callable[..., Any], plain: Callable[..., Any]) -> dict[str, Way]:
    """The reference, the same by torch.compile, and on a GPU the kernel."""
    ways: dict[str, Way] = {
        "reference": partial(call, backend="reference"),
        "torch_compile": torch.compile(plain),
    }
    if device == "cuda":
        ways["triton"] = partial(call, backend="triton")
    return ways


@cache
def token_ways(device: str) -> dict[str, Way]:
    """Folded token assembly: 200 events, six small tables, 768 columns."""
    b, length, d = BATCH[device], 200, 768
    index = torch.randint(0, 50_000, (b, length), device=device)
    codes = torch.randint(0, 305, (b, length, 6), device=device)
    arguments = (
        real(device, 50_000, d), index, real(device, b, d), real(device, 305, d), codes,
        real(device, b, length, 4), real(device, 4, d), real(device, d), None,
        torch.full((b,), length, device=device),
    )  # fmt: skip
    return backends(
        device,
        lambda backend: token_assembly(*arguments, backend=backend).tokens,
        lambda: token_assembly(*arguments, backend="reference").tokens,
    )


@cache
def attention_ways(device: str, n_queries: int | None) -> dict[str, Way]:
    """Causal attention of 201 tokens with 8 heads of 96; with `n_queries`, that many last rows."""
    b, keys, heads, d = BATCH[device], 201, 8, 96
    n = n_queries or keys
    q, k, v = (real(device, b, m, heads, d, seed=i) for i, m in enumerate((n, keys, keys)))
    cut = torch.arange(keys - n + 1, keys + 1, device=device).expand(b, n)
    visible = torch.arange(keys, device=device) < cut[0, :, None]

    def sdpa() -> Tensor:
        x, y, z = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(x, y, z, attn_mask=visible).transpose(1, 2)

    ways = backends(
        device,
        lambda backend: attention(q, k, v, cut, backend=backend),
        lambda: attention(q, k, v, cut, backend="reference"),
    )
    return {**ways, "sdpa": sdpa}


@cache
def softmax_ways(device: str) -> dict[str, Way]:
    """Forward of 768 positions with 128 own candidates and 1,024 shared ones."""
    p, c, s, n, d = 768, 128, 1024, 20_000, 64
    own = (torch.arange(p)[:, None] * 7919 + torch.arange(c) * (n // c)) % n
    weight = torch.zeros(p, c, device=device)
    weight[:, 0] = 1.0
    zeros = torch.zeros(p, c, device=device)
    arguments = (
        real(device, p, d), real(device, n, d), torch.zeros(n, device=device),
        torch.arange(s, device=device) * (n // s), torch.zeros(s, device=device), own.to(device),
        zeros, zeros, weight, torch.zeros(p, c, dtype=torch.bool, device=device),
    )  # fmt: skip
    return backends(
        device,
        lambda backend: candidate_softmax(*arguments, backend=backend).loss,
        lambda: candidate_softmax(*arguments, backend="reference").loss,
    )


@cache
def topk_ways(device: str) -> dict[str, Way]:
    """The 100 best of 100,000 items under a mask of a fifth of them."""
    b, n, d, k = 8 * BATCH[device], 100_000, 128, 100
    queries, items = real(device, b, d), real(device, n, d, seed=1)
    bias = torch.zeros(n, device=device)
    allowed = torch.rand(n, generator=torch.Generator().manual_seed(2)) < 0.2
    octets = np.packbits(allowed.numpy(), bitorder="little")
    words = torch.from_numpy(np.resize(octets, -(-n // 32) * 4).view(np.int32).copy())
    mask = words.to(device).expand(b, -1).contiguous()

    def faiss_flat() -> Tensor:
        import faiss

        index = _faiss_index(device)
        if device == "cpu":
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(octets))
            return torch.from_numpy(index.search(queries.numpy(), k, params=parameters)[0])
        # GPU filters need cuVS: without one the mask is applied to more answers than are asked for.
        scores, found = index.search(queries.float().cpu().numpy(), 2048)
        kept = np.where(allowed.numpy()[found], scores, -np.inf)
        return torch.from_numpy(-np.sort(-kept, axis=1)[:, :k])

    @cache
    def _faiss_index(device: str) -> Any:
        import faiss

        flat = faiss.IndexFlatIP(d)
        flat.add(items.float().cpu().numpy())
        if device == "cuda":
            return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, flat)
        return flat

    ways = backends(
        device,
        lambda backend: score_topk(queries, items, bias, mask, k, backend=backend).values,
        lambda: score_topk(queries, items, bias, mask, k, backend="reference").values,
    )
    return {**ways, "faiss_flat": faiss_flat}


def time_way(benchmark: BenchmarkFixture, ways: dict[str, Way], way: str, device: str) -> None:
    """Checks a way against the reference, then times it."""
    if way not in ways:
        pytest.skip(f"{way} runs on CUDA only: not run")
    if way == "faiss_flat" and device == "cuda":
        faiss = pytest.importorskip("faiss")
        if not hasattr(faiss, "StandardGpuResources"):
            pytest.skip("the installed FAISS has no GPU index: not run")
    expected, got = ways["reference"]().float().cpu(), ways[way]().float().cpu()
    tolerance = 1e-4 if device == "cpu" else 2e-2
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
    if device == "cpu":
        benchmark.pedantic(ways[way], rounds=10, warmup_rounds=2)
        return
    from triton.testing import do_bench

    def run() -> None:
        ways[way]()
        torch.cuda.synchronize()

    p50, p95 = do_bench(ways[way], quantiles=[0.5, 0.95])
    benchmark.extra_info |= {"device_us": p50 * 1e3, "device_p95_us": p95 * 1e3}
    benchmark.pedantic(run, rounds=50, warmup_rounds=5)


WAYS = ("reference", "torch_compile", "triton")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_token_assembly(benchmark: BenchmarkFixture, way: str, device: str) -> None:
    time_way(benchmark, token_ways(device), way, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_queries", [None, 2], ids=["causal", "pooled"])
@pytest.mark.parametrize("way", [*WAYS, "sdpa"])
def test_attention(
    benchmark: BenchmarkFixture, way: str, n_queries: int | None, device: str
) -> None:
    time_way(benchmark, attention_ways(device, n_queries), way, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_candidate_softmax(benchmark: BenchmarkFixture, way: str, device: str) -> None:
    time_way(benchmark, softmax_ways(device), way, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", [*WAYS, "faiss_flat"])
def test_score_topk(benchmark: BenchmarkFixture, way: str, device: str) -> None:
    time_way(benchmark, topk_ways(device), way, device)
