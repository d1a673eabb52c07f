"""Inputs of the attention tests, and the formula key by key."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

Arguments = dict[str, Any]


def padded(
    b: int, q: int, k: int, h: int, d: int, n_buckets: int = 0, seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Arguments:  # fmt: skip
    """Arguments with random cuts, 0 and K among them; without a bias where `n_buckets` is 0."""
    make = torch.Generator().manual_seed(seed)
    arguments: Arguments = {
        "query": torch.randn(b, q, h, d, generator=make).to(dtype),
        "key": torch.randn(b, k, h, d, generator=make).to(dtype),
        "value": torch.randn(b, k, h, d, generator=make).to(dtype),
        "cut": torch.randint(0, k + 1, (b, q), generator=make),
    }
    if n_buckets:
        arguments["bias_table"] = torch.randn(h, n_buckets, generator=make)
        arguments["query_day"] = torch.randint(0, 700, (b, q), generator=make)
        arguments["key_day"] = torch.randint(0, 700, (b, k), generator=make)
    return arguments


def packed(
    n_queries: list[int], n_keys: list[int], h: int, d: int, n_buckets: int = 0, seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Arguments:  # fmt: skip
    """The same for packed sequences of given lengths."""
    arguments = padded(1, sum(n_queries), sum(n_keys), h, d, n_buckets, seed, dtype)
    table = arguments.pop("bias_table", None)
    arguments = {name: tensor[0] for name, tensor in arguments.items()}
    keys, queries = (torch.tensor(n, dtype=torch.int64) for n in (n_keys, n_queries))
    most = keys.repeat_interleave(queries)
    arguments["cut"] = arguments["cut"] % (most + 1)
    if table is not None:
        arguments["bias_table"] = table
    arguments["query_offsets"] = offsets(n_queries)
    arguments["key_offsets"] = offsets(n_keys)
    return arguments


def offsets(lengths: list[int]) -> Tensor:
    """[B + 1] int32 from lengths."""
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


def sequences(arguments: Arguments) -> list[Arguments]:
    """Each sequence of packed or padded arguments, as padded arguments of its own."""
    spans = {}
    for name in ("query", "key"):
        rows, edges = arguments[name], arguments.get(f"{name}_offsets")
        if edges is None:
            spans[name] = [(i, slice(None)) for i in range(len(rows))]
        else:
            pairs = zip(edges.tolist(), edges.tolist()[1:], strict=False)
            spans[name] = [(None, slice(start, end)) for start, end in pairs]
    of = {"query": "query", "cut": "query", "query_day": "query"}
    found = []
    for at in range(len(spans["query"])):
        one: Arguments = {}
        for name, tensor in arguments.items():
            if name == "bias_table":
                one[name] = tensor
            elif not name.endswith("_offsets"):
                i, rows = spans[of.get(name, "key")][at]
                one[name] = (tensor if i is None else tensor[i])[rows][None]
        found.append(one)
    return found


def cast(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """Floating arguments in another dtype."""
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in arguments.items()
    }


def naive(arguments: Arguments) -> Tensor:
    """The formula, key by key, in fp64, of padded arguments: [B, Q, H, d]."""
    query, key, value = (
        arguments[name].double().detach().numpy() for name in ("query", "key", "value")
    )
    b, q, h, d = query.shape
    out = np.zeros((b, q, h, d))
    table = arguments.get("bias_table")
    for i_b, i_q, i_h in np.ndindex(b, q, h):
        logits = []
        for i_k in range(int(arguments["cut"][i_b, i_q])):
            logit = float(query[i_b, i_q, i_h] @ key[i_b, i_k, i_h]) / d**0.5
            if table is not None:
                days = int(arguments["query_day"][i_b, i_q] - arguments["key_day"][i_b, i_k])
                bucket = 0 if days < 1 else 1 + int(np.floor(np.log2(days)))
                logit += float(table[i_h, min(bucket, table.shape[1] - 1)])
            logits.append(logit)
        weights = [np.exp(logit - max(logits)) for logit in logits]
        for weight, row in zip(weights, value[i_b, :, i_h], strict=False):
            out[i_b, i_q, i_h] += weight / sum(weights) * row
    return torch.as_tensor(out)
