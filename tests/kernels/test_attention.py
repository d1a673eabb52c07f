from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.attention import attention


def naive(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Tensor,
    bias_table: Tensor | None = None,
    buckets: Tensor | None = None,
) -> Tensor:
    """The formula, key by key, in fp64."""
    b, h, q, d = query.shape
    out = np.zeros((b, h, q, d))
    qs, ks, vs = (x.double().detach().numpy() for x in (query, key, value))
    for i_b, i_h, i_q in np.ndindex(b, h, q):
        n = int(cut[i_b, i_q])
        logits = []
        for i_k in range(n):
            logit = float(qs[i_b, i_h, i_q] @ ks[i_b, i_h, i_k]) / d**0.5
            if bias_table is not None and buckets is not None:
                logit += float(bias_table[i_h, int(buckets[i_b, i_q, i_k])])
            logits.append(logit)
        weights = [np.exp(logit - max(logits)) for logit in logits]
        for weight, row in zip(weights, vs[i_b, i_h], strict=False):
            out[i_b, i_h, i_q] += weight / sum(weights) * row
    return torch.from_numpy(out)


def inputs(
    b: int, h: int, q: int, k: int, d: int, biased: bool, seed: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    make = torch.Generator().manual_seed(seed)
    arguments = {
        "query": torch.randn(b, h, q, d, generator=make).to(dtype),
        "key": torch.randn(b, h, k, d, generator=make).to(dtype),
        "value": torch.randn(b, h, k, d, generator=make).to(dtype),
        "cut": torch.randint(0, k + 1, (b, q), generator=make),
    }
    if biased:
        arguments["bias_table"] = torch.randn(h, 5, generator=make)
        arguments["buckets"] = torch.randint(0, 5, (b, q, k), generator=make)
    return arguments


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3), st.integers(1, 3), st.integers(0, 9), st.integers(0, 9),
    st.sampled_from([1, 3, 8]), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_equals_the_formula(
    b: int, h: int, q: int, k: int, d: int, biased: bool, seed: int
) -> None:
    arguments = inputs(b, h, q, k, d, biased, seed, torch.float32)
    torch.testing.assert_close(
        attention(**arguments).double(), naive(**arguments), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dtype", "eps"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_a_half_type_keeps_its_dtype(dtype: torch.dtype, eps: float, biased: bool) -> None:
    arguments = inputs(2, 2, 5, 7, 4, biased, 0, dtype)
    out = attention(**arguments)
    assert out.dtype == dtype
    truth = naive(**arguments)
    torch.testing.assert_close(out.double(), truth, rtol=0, atol=4 * eps * float(truth.abs().max()))


def test_the_softmax_of_a_half_type_is_fp32() -> None:
    """A bias of 0.03 beside a logit of 8, where bf16 counts in steps of 0.06."""
    ones = torch.ones(1, 1, 2, 4, dtype=torch.bfloat16)
    value = torch.tensor([[[[0.0], [1.0]]]], dtype=torch.bfloat16)
    bias = torch.tensor([[0.0, 0.03]], dtype=torch.bfloat16)
    buckets = torch.tensor([[[0, 1]]])
    out = attention(
        ones[:, :, :1], 4 * ones, value.expand(1, 1, 2, 4), torch.tensor([[2]]), bias, buckets
    )
    assert out[0, 0, 0, 0].item() == pytest.approx(1 / (1 + np.exp(-0.03)), abs=2e-3)


def test_a_query_without_keys_gets_zeros_and_finite_gradients() -> None:
    arguments = inputs(2, 2, 3, 4, 4, True, 1, torch.float32)
    arguments["cut"] = torch.tensor([[0, 0, 2], [0, 4, 0]])
    arguments["query"].requires_grad_()
    arguments["key"].requires_grad_()
    out = attention(**arguments)
    assert torch.equal(out[0, :, :2], torch.zeros(2, 2, 4))
    assert bool(out[1, :, 1].abs().sum() > 0)
    out.sum().backward()
    for name in ("query", "key"):
        gradient = arguments[name].grad
        assert gradient is not None
        assert bool(gradient.isfinite().all()), name


def test_keys_from_the_cut_on_are_not_read() -> None:
    arguments = inputs(2, 2, 4, 6, 4, False, 2, torch.float32)
    arguments["cut"] = torch.full((2, 4), 3)
    before = attention(**arguments)
    arguments["key"][:, :, 3:] = 1e4
    arguments["value"][:, :, 3:] = -1e4
    assert torch.equal(attention(**arguments), before)
    arguments["value"][:, :, 2] += 1
    assert not torch.equal(attention(**arguments), before)


@pytest.mark.parametrize("biased", [False, True])
def test_gradients(biased: bool) -> None:
    arguments: dict[str, Any] = inputs(2, 2, 3, 4, 3, biased, 3, torch.float64)
    arguments["cut"] = torch.tensor([[0, 1, 4], [2, 3, 1]])
    if biased:
        arguments["bias_table"] = arguments["bias_table"].double()
    learned = ["query", "key", "value"] + ["bias_table"] * biased
    for name in learned:
        arguments[name].requires_grad_()

    def of_learned(*values: Tensor) -> Tensor:
        return attention(**arguments | dict(zip(learned, values, strict=True)))

    assert torch.autograd.gradcheck(of_learned, [arguments[name] for name in learned])


WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("key", torch.zeros(2, 3, 6, 5), ValueError,
     r"attention: key: expected shape \(2, 3, 6, 4\), got \(2, 3, 6, 5\)"),
    ("value", torch.zeros(2, 3, 5, 4), ValueError,
     r"attention: value: expected shape \(2, 3, 6, 4\), got \(2, 3, 5, 4\)"),
    ("cut", torch.zeros(2, 6, dtype=torch.int64), ValueError,
     r"attention: cut: expected shape \(2, 5\), got \(2, 6\)"),
    ("cut", torch.zeros(2, 5, dtype=torch.int32), TypeError,
     r"attention: cut: expected torch.int64, got torch.int32"),
    ("key", torch.zeros(2, 3, 6, 4).half(), TypeError,
     r"attention: key: expected torch.float32, got torch.float16"),
    ("value", torch.zeros(2, 3, 6, 4).double(), TypeError,
     r"attention: value: expected torch.float32, got torch.float64"),
    ("bias_table", None, ValueError,
     r"attention: expected bias_table and buckets together, got only buckets"),
    ("buckets", None, ValueError,
     r"attention: expected bias_table and buckets together, got only bias_table"),
    ("bias_table", torch.zeros(2, 5), ValueError,
     r"attention: bias_table: expected shape \(3, 5\), got \(2, 5\)"),
    ("buckets", torch.zeros(2, 5, 7, dtype=torch.int64), ValueError,
     r"attention: buckets: expected shape \(2, 5, 6\), got \(2, 5, 7\)"),
    ("buckets", torch.zeros(2, 5, 6, dtype=torch.int32), TypeError,
     r"attention: buckets: expected torch.int64, got torch.int32"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "error", "text"), WRONG)
def test_a_wrong_argument_is_named(
    name: str, value: Any, error: type[Exception], text: str
) -> None:
    arguments: dict[str, Any] = inputs(2, 3, 5, 6, 4, True, 0, torch.float32)
    with pytest.raises(error, match=f"^{text}$"):
        attention(**arguments | {name: value})
