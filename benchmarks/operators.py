"""Inputs of the operators' cases, and what a user would pick instead, on the CPU or on a GPU."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.case import ENGINE
from engine.ops import attention, candidate_softmax, score_topk, token_assembly, token_gate

Way = Callable[[], Tensor]
BATCH = {"cpu": 4, "cuda": 32}  # the paper's shapes, fewer users on a CPU
REFERENCE = "reference"
TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2}  # fp32, and fp16 with another order of the sums


class Operator(NamedTuple):
    """One operator on one device.

    Attributes:
        ways: ENGINE's is what `backend="auto"` takes: the reference on a CPU, the kernel on a GPU.
        reference: what every way is compared with.
        nbytes, flops: read and written once; multiply-adds count two.
    """

    ways: dict[str, Way]
    reference: Way
    parameters: Mapping[str, int | str]
    nbytes: int
    flops: int

    def check(self, way: str, tolerance: float) -> None:
        """AssertionError where a way's answer is further from the reference's than that."""
        got, expected = (call().float().cpu() for call in (self.ways[way], self.reference))
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def dtype_of(device: str) -> torch.dtype:
    return torch.float32 if device == "cpu" else torch.float16


def real(device: str, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype_of(device))


def backends(device: str, call: Callable[..., Tensor]) -> dict[str, Way]:
    """The operator, its reference compiled, and on a GPU the reference as it is."""
    ways: dict[str, Way] = {
        ENGINE: partial(call, backend="auto"),
        "torch_compile": torch.compile(lambda: call(backend=REFERENCE)),
    }
    return ways if device == "cpu" else ways | {REFERENCE: partial(call, backend=REFERENCE)}


def tokens(device: str) -> Operator:
    """Folded token assembly: 200 events, six small tables, 768 columns."""
    b, length, d, small, tables = BATCH[device], 200, 768, 305, 6
    generator = torch.Generator().manual_seed(1)
    index = torch.randint(0, 50_000, (b, length), generator=generator).to(device)
    codes = torch.randint(0, small, (b, length, tables), generator=generator).to(device)
    user, table, floats = real(device, b, d), real(device, small, d), real(device, b, length, 4)
    weight, bias = real(device, 4, d), real(device, d)
    arguments = (
        real(device, 50_000, d), index, user, table, codes, floats, weight, bias, None,
        torch.full((b,), length, device=device),
    )  # fmt: skip

    def call(backend: str) -> Tensor:
        return token_assembly(*arguments, backend=backend).tokens

    read = b * length * d * user.element_size()  # the gathered rows
    out = call(REFERENCE)
    return Operator(
        backends(device, call),
        partial(call, REFERENCE),
        {"users": b, "events": length, "d": d, "small_rows": small},
        read + _nbytes(index, user, table, codes, floats, weight, bias, out),
        2 * b * length * 4 * d,
    )


def attending(device: str, n_queries: int | None) -> Operator:
    """Causal attention of 201 tokens with 8 heads of 96; with `n_queries`, that many last rows."""
    b, keys, heads, d = BATCH[device], 201, 8, 96
    n = n_queries or keys
    q, k, v = (real(device, b, m, heads, d, seed=i) for i, m in enumerate((n, keys, keys)))
    cut = torch.arange(keys - n + 1, keys + 1, device=device).expand(b, n)
    visible = torch.arange(keys, device=device) < cut[0, :, None]

    def call(backend: str) -> Tensor:
        return attention(q, k, v, cut, backend=backend)

    def sdpa() -> Tensor:
        x, y, z = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(x, y, z, attn_mask=visible).transpose(1, 2)

    def flash() -> Tensor:
        x, y, z = (t.transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(x, y, z, is_causal=True).transpose(1, 2)

    ways = {**backends(device, call), "sdpa": sdpa}
    if device == "cuda" and n == keys:
        ways["sdpa_causal"] = flash  # without a mask PyTorch takes its own flash attention
    return Operator(
        ways,
        partial(call, REFERENCE),
        {"users": b, "queries": n, "keys": keys, "heads": heads, "d": d},
        _nbytes(q, k, v, q),
        4 * heads * d * b * int(visible.sum()),
    )


def losses(device: str) -> Operator:
    """Forward of 768 positions with 128 own candidates and 1,024 shared ones."""
    p, c, s, n, d = 768, 128, 1024, 20_000, 64
    own = ((torch.arange(p)[:, None] * 7919 + torch.arange(c) * (n // c)) % n).to(device)
    weight, zeros = torch.zeros(p, c, device=device), torch.zeros(p, c, device=device)
    weight[:, 0] = 1.0
    hidden = real(device, p, d)
    arguments = (
        hidden, real(device, n, d), torch.zeros(n, device=device),
        torch.arange(s, device=device) * (n // s), torch.zeros(s, device=device), own,
        zeros, zeros, weight, torch.zeros(p, c, dtype=torch.bool, device=device),
    )  # fmt: skip

    def call(backend: str) -> Tensor:
        return candidate_softmax(*arguments, backend=backend).loss

    rows = (p * c + s) * d * hidden.element_size()
    return Operator(
        backends(device, call),
        partial(call, REFERENCE),
        {"positions": p, "own": c, "shared": s, "items": n, "d": d},
        rows + _nbytes(hidden, own, zeros, zeros, weight),
        2 * p * (c + s) * d,
    )


def best(device: str) -> Operator:
    """The 100 best of 100,000 items under a mask of a fifth of them."""
    b, n, d, k = 8 * BATCH[device], 100_000, 128, 100
    queries, items = real(device, b, d), real(device, n, d, seed=1)
    bias = torch.zeros(n, device=device)
    allowed = torch.rand(n, generator=torch.Generator().manual_seed(2)) < 0.2
    octets = np.packbits(allowed.numpy(), bitorder="little")
    words = torch.from_numpy(np.resize(octets, -(-n // 32) * 4).view(np.int32).copy())
    mask = words.to(device).expand(b, -1).contiguous()

    def call(backend: str) -> Tensor:
        return score_topk(queries, items, bias, mask, k, backend=backend).values

    ways = backends(device, call)
    if device == "cpu" or hasattr(faiss, "StandardGpuResources"):
        index, asked = _flat(device, items), queries.float().cpu().numpy()
        ways["faiss_flat"] = partial(_faiss_best, index, device, asked, k, allowed.numpy(), octets)
    return Operator(
        ways,
        partial(call, REFERENCE),
        {"queries": b, "items": n, "d": d, "k": k, "allowed": 0.2},
        _nbytes(queries, items, bias, mask) + b * k * 12,
        2 * b * n * d,
    )


def gated(device: str) -> Operator:
    """The dual-token gate over texts of 48 tokens, nine in ten of them with a domain token."""
    texts, length, small, d = 16 * BATCH[device], 48, 1000, 256
    n = texts * length
    generator = torch.Generator().manual_seed(1)
    # The i-th domain token has a share of about i^(-2/3).
    ids = (torch.rand(n, generator=generator) ** 3 * small).int()
    ids[torch.rand(n, generator=generator) < 0.1] = -1
    hidden, keys, values = (real(device, m, d, seed=i) for i, m in enumerate((n, small, small)))
    arguments = (hidden, keys, values, ids.to(device), torch.ones(d, device=device))

    def call(backend: str) -> Tensor:
        return token_gate(*arguments, backend=backend)

    return Operator(
        backends(device, call),
        partial(call, REFERENCE),
        {"texts": texts, "length": length, "domain_tokens": small, "d": d},
        _nbytes(*arguments, hidden),
        0,
    )


def _flat(device: str, items: Tensor) -> Any:
    flat = faiss.IndexFlatIP(items.shape[1])
    flat.add(items.float().cpu().numpy())
    if device == "cuda":
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, flat)
    return flat


def _faiss_best(index: Any, device: str, queries: Any, k: int, allowed: Any, octets: Any) -> Tensor:
    if device == "cpu":
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(octets))
        return torch.from_numpy(index.search(queries, k, params=parameters)[0])
    # GPU filters need cuVS: without one the mask is applied to more answers than are asked for.
    scores, found = index.search(queries, 2048)
    kept = np.where(allowed[found], scores, -np.inf)
    return torch.from_numpy(-np.sort(-kept, axis=1)[:, :k])


def _nbytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
