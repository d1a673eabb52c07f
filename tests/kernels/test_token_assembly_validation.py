"""What token assembly and unfolded rows say of arguments that do not fit."""

from typing import Any

import pytest
import torch

from kernels.token_assembly import token_assembly, unfolded_rows
from tests.kernels.token_case import rows_case, token_case

SHAPES: list[tuple[str, Any, str]] = [
    ("rows", torch.zeros(7, 19), r"rows: expected shape \(7, 20\), got \(7, 19\)"),
    ("index", torch.zeros(2, 4).int(), r"index: expected shape \(2, 3\), got \(2, 4\)"),
    ("user", torch.zeros(20), r"user: expected 2 dimensions, got shape \(20,\)"),
    ("user", torch.zeros(3, 20), r"ends: expected shape \(3,\), got \(2,\)"),
    ("table", torch.zeros(11), r"table: expected 2 dimensions, got shape \(11,\)"),
    ("table", torch.zeros(11, 1), r"table: expected shape \(11, 20\), got \(11, 1\)"),
    ("codes", torch.zeros(2, 5, 3).int(), r"index: expected shape \(2, 5\), got \(2, 3\)"),
    ("signals", torch.zeros(2, 3, 1), r"signals: expected shape \(2, 3, 2\), got \(2, 3, 1\)"),
    ("signals", torch.zeros(2, 3, 2, requires_grad=True),
     "signals: expected data without a gradient, got requires_grad"),
    ("signal_weight", torch.zeros(2),
     r"signal_weight: expected 2 dimensions, got shape \(2,\)"),
    ("signal_weight", torch.zeros(2, 5),
     r"signal_weight: expected shape \(2, 20\), got \(2, 5\)"),
    ("read_out", torch.zeros(1, 20), r"read_out: expected shape \(20,\), got \(1, 20\)"),
    ("read_sequence", torch.zeros(3).int(),
     r"read_sequence: expected shape \(2,\), got \(3,\)"),
    ("ends", torch.zeros(2, 1).int(), r"ends: expected 1 dimensions, got shape \(2, 1\)"),
    ("ends", torch.zeros(3).int(), r"ends: expected shape \(2,\), got \(3,\)"),
    ("offsets", torch.zeros(3).int(), r"codes: expected 2 dimensions, got shape \(2, 3, 3\)"),
    ("norm", (torch.zeros(20), torch.zeros(1)),
     r"norm bias: expected shape \(20,\), got \(1,\)"),
    ("norm", (torch.zeros(2, 20), torch.zeros(20)),
     r"norm weight: expected shape \(20,\), got \(2, 20\)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "text"), SHAPES)
def test_a_wrong_shape_is_named(name: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^token_assembly: {text}$"):
        token_assembly(**token_case([3, 3]) | {name: value})


@pytest.mark.parametrize("name", ["index", "codes", "ends", "read_sequence", "offsets"])
def test_a_wrong_dtype_is_named(name: str) -> None:
    x = token_case([3, 3], ragged=True, read_outs=2)
    with pytest.raises(
        TypeError, match=rf"^token_assembly: {name}: expected int32 or int64, got torch\.float32$"
    ):
        token_assembly(**x | {name: x[name].float()})


def test_rows_without_an_index_lie_as_the_events_do() -> None:
    x = token_case([3, 3], gather=False)
    text = r"rows: expected shape \(2, 3, 20\), got \(2, 4, 20\)"
    with pytest.raises(ValueError, match=f"^token_assembly: {text}$"):
        token_assembly(**x | {"rows": torch.zeros(2, 4, 20)})


def test_as_many_sequences_as_users() -> None:
    x = token_case([3, 3], read_outs=2)
    with pytest.raises(ValueError, match=r"user: expected shape \(2, 20\), got \(3, 20\)$"):
        token_assembly(**x | {"user": torch.zeros(3, 20)})
    x = token_case([3, 3], ragged=True, read_outs=2)
    with pytest.raises(ValueError, match=r"offsets: expected shape \(3,\), got \(2,\)$"):
        token_assembly(**x | {"offsets": torch.zeros(2).int()})


OF_ROWS: list[tuple[str, Any, str]] = [
    ("index", torch.zeros(2, 1).int(), r"index: expected 1 dimensions, got shape \(2, 1\)"),
    ("text", torch.zeros(5), r"text: expected 2 dimensions, got shape \(5,\)"),
    ("text", torch.zeros(5, 20, requires_grad=True),
     "text: expected frozen embeddings, got requires_grad"),
    ("text_index", torch.zeros(1, 13).int(),
     r"text_index: expected 1 dimensions, got shape \(1, 13\)"),
    ("delta", torch.zeros(2), r"delta: expected 2 dimensions, got shape \(2,\)"),
    ("delta", torch.zeros(13, 19), r"delta: expected shape \(13, 20\), got \(13, 19\)"),
    ("tag_weight", torch.zeros(6), r"tag_weight: expected 2 dimensions, got shape \(6,\)"),
    ("tag_weight", torch.zeros(32, 6), r"tags\.bits: expected shape \(13, 1\), got \(13, 3\)"),
    ("project_weight", torch.zeros(24),
     r"project_weight: expected 2 dimensions, got shape \(24,\)"),
    ("project_weight", torch.zeros(24, 20),
     r"project_weight: expected shape \(24, 26\), got \(24, 20\)"),
    ("project_bias", torch.zeros(1), r"project_bias: expected shape \(24,\), got \(1,\)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "text"), OF_ROWS)
def test_a_wrong_argument_of_rows_is_named(name: str, value: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^unfolded_rows: {text}$"):
        unfolded_rows(**rows_case(4) | {name: value})


@pytest.mark.parametrize("name", ["index", "text_index"])
def test_a_wrong_dtype_of_rows_is_named(name: str) -> None:
    x = rows_case(4)
    text = rf"unfolded_rows: {name}: expected int32 or int64, got torch\.float32"
    with pytest.raises(TypeError, match=f"^{text}$"):
        unfolded_rows(**x | {name: x[name].float()})


def test_tags_of_another_catalogue_are_named() -> None:
    x = rows_case(4)
    tags = x["tags"]._replace(bits=x["tags"].bits.long())
    with pytest.raises(TypeError, match=r"tags\.bits: expected torch\.int32, got torch\.int64$"):
        unfolded_rows(**x | {"tags": tags})
    tags = x["tags"]._replace(offsets=x["tags"].offsets[1:])
    with pytest.raises(ValueError, match=r"tags\.offsets: expected shape \(14,\), got \(13,\)$"):
        unfolded_rows(**x | {"tags": tags})
