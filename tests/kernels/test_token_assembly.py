from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.token_assembly import token_assembly, unfolded_rows


def row_inputs(counts: list[int], seed: int = 0) -> dict[str, Tensor]:
    """Items with `counts` tags each, over a vocabulary of 6."""
    make = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *counts]).cumsum(0)
    return {
        "text": torch.randn(len(counts), 3, generator=make),
        "delta": torch.randn(len(counts), 3, generator=make),
        "tag_ids": torch.randint(0, 6, (int(offsets[-1]),), generator=make),
        "tag_offsets": offsets[:-1],
        "tag_weight": torch.randn(6, 2, generator=make),
    }


def token_inputs(b: int, length: int, n_signals: int, n_read_outs: int, seed: int = 0) -> Any:
    make = torch.Generator().manual_seed(seed)
    return {
        "rows": torch.randn(b, length, 4, generator=make),
        "user": torch.randn(b, 4, generator=make),
        "tables": [torch.randn(n, 4, generator=make) for n in (3, 5, 9)],
        "indices": [
            torch.randint(0, 3, (b, length), generator=make),
            torch.randint(0, 5, (b, length), generator=make),
            torch.randint(0, 9, (1, length), generator=make),
        ],
        "signals": torch.randn(b, length, n_signals, generator=make),
        "signal_weight": torch.randn(n_signals, 4, generator=make),
        "read_out": torch.randn(4, generator=make),
        "n_read_outs": n_read_outs,
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=0, max_size=6), st.integers(0, 99))
def test_rows_equal_the_formula(counts: list[int], seed: int) -> None:
    x = row_inputs(counts, seed)
    got = unfolded_rows(**x)
    assert got.shape == (len(counts), 5)
    start = 0
    for i, count in enumerate(counts):
        semantic = [float(e) + float(d) for e, d in zip(x["text"][i], x["delta"][i], strict=True)]
        attribute = [0.0, 0.0]
        for tag in x["tag_ids"][start : start + count].tolist():
            attribute = [a + float(w) for a, w in zip(attribute, x["tag_weight"][tag], strict=True)]
        start += count
        torch.testing.assert_close(got[i], torch.tensor(semantic + attribute))


def test_rows_gradients() -> None:
    x = {k: v.double() if v.is_floating_point() else v for k, v in row_inputs([2, 0, 3]).items()}
    learned = ("delta", "tag_weight")

    def of_learned(*values: Tensor) -> Tensor:
        return unfolded_rows(**x | dict(zip(learned, values, strict=True)))

    assert torch.autograd.gradcheck(of_learned, [x[name].requires_grad_() for name in learned])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 4), st.integers(0, 7), st.integers(0, 3), st.integers(0, 3), st.integers(0, 99)
)
def test_tokens_equal_the_formula(b: int, length: int, s: int, r: int, seed: int) -> None:
    x = token_inputs(b, length, s, r, seed)
    tokens, read_outs = token_assembly(**x)
    assert tokens.shape == (b, length + 1, 4)
    assert read_outs.shape == (b, r, 4)
    for i in range(b):
        torch.testing.assert_close(tokens[i, 0], x["user"][i])
        for t in range(length):
            token = x["rows"][i, t].double()
            for table, index in zip(x["tables"], x["indices"], strict=True):
                token = token + table[index[i % len(index), t]]
            for k in range(s):
                token = token + x["signals"][i, t, k] * x["signal_weight"][k]
            torch.testing.assert_close(tokens[i, t + 1], token.float())
        for k in range(r):
            torch.testing.assert_close(read_outs[i, k], x["user"][i] + x["read_out"])


def test_tokens_gradients() -> None:
    x = token_inputs(2, 3, 2, 2)
    x["indices"][0][:] = 1  # a row that several tokens share
    names = ("rows", "user", "signal_weight", "read_out")
    for name in (*names, "signals"):
        x[name] = x[name].double()
    tables = [table.double().requires_grad_() for table in x["tables"]]

    def of_learned(*values: Tensor) -> tuple[Tensor, Tensor]:
        changed = dict(zip(names, values, strict=False)) | {"tables": values[len(names) :]}
        return token_assembly(**x | changed)

    assert torch.autograd.gradcheck(
        of_learned, [*(x[name].requires_grad_() for name in names), *tables]
    )


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("delta", torch.zeros(2, 4), r"delta: expected shape \(2, 3\), got \(2, 4\)"),
        ("tag_offsets", torch.zeros(3, dtype=torch.int64),
         r"tag_offsets: expected shape \(2,\), got \(3,\)"),
    ],
)  # fmt: skip
def test_a_wrong_row_argument_is_named(name: str, value: Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=f"^unfolded_rows: {text}$"):
        unfolded_rows(**row_inputs([1, 2]) | {name: value})


INDEX = torch.zeros(2, 3, dtype=torch.int64)
WRONG: list[tuple[str, Any, str]] = [
    ("user", torch.zeros(1, 4), r"user: expected shape \(2, 4\), got \(1, 4\)"),
    ("signals", torch.zeros(2, 3, 1), r"signals: expected shape \(2, 3, 2\), got \(2, 3, 1\)"),
    ("signal_weight", torch.zeros(2, 5),
     r"signal_weight: expected shape \(2, 4\), got \(2, 5\)"),
    ("read_out", torch.zeros(1, 4), r"read_out: expected shape \(4,\), got \(1, 4\)"),
    ("indices", [INDEX], "expected 3 indices, one a table, got 1"),
    ("tables", [torch.zeros(3, 4), torch.zeros(5, 3), torch.zeros(9, 4)],
     r"tables\[1\]: expected shape \(5, 4\), got \(5, 3\)"),
    ("indices", [INDEX, INDEX, INDEX[:, :1]],
     r"indices\[2\]: expected shape \(2, 3\) or \(1, 3\), got \(2, 1\)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "text"), WRONG)
def test_a_wrong_token_argument_is_named(name: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^token_assembly: {text}$"):
        token_assembly(**token_inputs(2, 3, 2, 1) | {name: value})
