"""Unfolded item rows and their gradients: both backends against the formula and the reference."""

from itertools import chain
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.backend import Backend, BackendUnavailable
from kernels.token_assembly import (
    Tags,
    explain_rows,
    launch_rows,
    ops,
    pack_tags,
    tag_sums,
    unfolded_rows,
)
from tests.kernels.planted import plant
from tests.kernels.token_case import LEARNED_OF_ROWS, cast, gradients, poisoned, rows_case
from tests.kernels.truth import assert_as_good_as_torch

pytestmark = pytest.mark.usefixtures("on_the_card")
BACKENDS: tuple[Backend, ...] = ("reference", "triton")


def by_formula(x: dict[str, Any]) -> Tensor:
    """Rows [n, D] in fp64, item by item, the tags read from the bits."""
    rows = []
    for item in x["index"].tolist():
        semantic = x["text"][x["text_index"][item]].double() + x["delta"][item]
        attribute = torch.zeros(x["tag_weight"].shape[1], dtype=torch.float64)
        for tag in range(len(x["tag_weight"])):
            if int(x["tags"].bits[item, tag // 32]) >> (tag % 32) & 1:
                attribute = attribute + x["tag_weight"][tag]
        v = torch.cat([semantic, attribute])
        rows.append(x["project_weight"].double() @ v + x["project_bias"])
    return torch.stack(rows) if rows else torch.zeros(0, len(x["project_bias"]))


def check(x: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Raises unless rows and gradients of the kernels are as good as torch's."""
    truth = gradients(cast(x, torch.float64), "reference")
    same = gradients(cast(x, dtype), "reference")
    got = gradients(cast(x, dtype), "triton")
    assert got.keys() == truth.keys()
    for name, value in got.items():
        assert value.dtype == dtype
        assert_as_good_as_torch(value, same[name], truth[name])


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 6), st.sampled_from([0, 1, 31, 32, 33, 70]), st.integers(0, 99))
def test_rows_equal_the_formula(backend: Backend, n: int, tags: int, seed: int) -> None:
    x = rows_case(n, tags=tags, seed=seed)
    got = unfolded_rows(**x, backend=backend)
    torch.testing.assert_close(got.double(), by_formula(x).double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("n", "d_e", "d_a", "tags", "d"),
    [(0, 20, 6, 70, 24), (1, 1, 1, 1, 1), (33, 17, 5, 129, 130), (31, 128, 16, 64, 127),
     (65, 130, 64, 0, 40)],
)  # fmt: skip
def test_rows_and_gradients_of_odd_shapes(
    n: int, d_e: int, d_a: int, tags: int, d: int, dtype: torch.dtype
) -> None:
    check(rows_case(n, items=70, d_e=d_e, d_a=d_a, tags=tags, d=d), dtype)


def test_the_reference_by_finite_differences() -> None:
    x = cast(rows_case(3, items=5, d_e=3, d_a=2, tags=6, d=4), torch.float64)

    def of_learned(*values: Tensor) -> Tensor:
        changed = x | dict(zip(LEARNED_OF_ROWS, values, strict=True))
        return unfolded_rows(**changed, backend="reference")

    inputs = [x[name].requires_grad_() for name in LEARNED_OF_ROWS]
    assert torch.autograd.gradcheck(of_learned, inputs)


def test_every_element_is_written_and_no_other() -> None:
    with poisoned(launch_rows):
        check(rows_case(9))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_stays_in_its_own_row(backend: Backend) -> None:
    x = rows_case(9)
    clean = unfolded_rows(**x, backend=backend)
    x["delta"][x["index"][4]] = float("nan")
    got = unfolded_rows(**x, backend=backend)
    assert got[4].isnan().all()
    others = [i for i in range(9) if i != 4]
    assert torch.equal(got[others], clean[others])


def test_a_row_has_the_same_bits_alone_and_in_any_batch() -> None:
    x = cast(rows_case(65, items=70, d_e=40, d=40), torch.float16)
    together = unfolded_rows(**x, backend="triton")
    for i in (0, 31, 32, 64):
        alone = unfolded_rows(**x | {"index": x["index"][i : i + 1]}, backend="triton")
        assert torch.equal(alone[0], together[i])


def test_no_gradient_reaches_items_outside_the_index() -> None:
    x = rows_case(4)
    got = gradients(x, "triton")["d delta"]
    touched = got.any(dim=1).nonzero().flatten().tolist()
    assert touched == sorted(x["index"].tolist())


# (what the kernel says, what a bug would say)
PLANTS = [
    ("range(0, n_tags, BLOCK_V)", "range(0, n_tags - BLOCK_V, BLOCK_V)"),
    (">> tl.arange(0, 32)[None, None, :]) & 1", ">> (31 - tl.arange(0, 32))[None, None, :]) & 1"),
    ("m_e = m_n[:, None] & (o_e < DE)[None, :]", "m_e = m_n[:, None] & (o_e < DE - 1)[None, :]"),
    ("tl.minimum(start + n_split, n_rows)\n    b_sum = tl.zeros([BLOCK_V",
     "tl.minimum(start + n_split, n_rows - 1)\n    b_sum = tl.zeros([BLOCK_V"),
    ("mask=m_n[:, None] & (m_c & (o_c >= DE))", "mask=m_n[:, None] & (m_c & (o_c > DE))"),
    ("m_a = (o_c >= DE) & (o_c < WIDTH)", "m_a = (o_c >= DE) & (o_c < WIDTH - 1)"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new"), PLANTS)
def test_the_check_sees_a_planted_bug(old: str, new: str) -> None:
    x = rows_case(9, tags=33)
    check(x)
    with plant(launch_rows, old, new), pytest.raises(AssertionError):
        check(x)


def test_opcheck() -> None:
    x = rows_case(4)
    tensors = [v.bits if isinstance(v, Tags) else v for v in x.values()]
    for name in LEARNED_OF_ROWS:
        x[name].requires_grad_()
    torch.library.opcheck(ops.unfolded, (*tensors, torch.float32))
    torch.library.opcheck(
        ops.unfolded_backward, (torch.randn(4, 24), *(v.detach() for v in tensors[:7]))
    )


def test_autocast_decides_the_type_of_the_products() -> None:
    """As it does for torch's linear; the interpreter has no bf16, so fp16 stands for it."""
    x = rows_case(4)
    with torch.autocast(x["text"].device.type, torch.float16):
        assert unfolded_rows(**x, backend="reference").dtype == torch.float16
        assert unfolded_rows(**x, backend="triton").dtype == torch.float16
    found = gradients_in_autocast(x)
    expected = gradients(x, "reference")
    for name in LEARNED_OF_ROWS:
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], expected[f"d {name}"], rtol=0.02, atol=0.02)


def gradients_in_autocast(x: dict[str, Any]) -> dict[str, Tensor]:
    """The kernels' gradients with `gradients`' weights."""
    with patch("tests.kernels.token_case.unfolded_rows", _in_autocast):
        return {n.removeprefix("d "): v for n, v in gradients(x, "triton").items()}


def _in_autocast(**x: Any) -> Tensor:
    with torch.autocast(x["text"].device.type, torch.float16):
        return unfolded_rows(**x)


def test_the_choice_is_explained() -> None:
    x = rows_case(2)
    assert explain_rows((x["text"].cpu(),)).backend == "reference"
    assert explain_rows((x["text"],), backend="triton").backend == "triton"
    wide = cast(x, torch.float64)
    assert unfolded_rows(**wide).dtype == torch.float64
    with pytest.raises(BackendUnavailable, match=r"^unfolded_rows: .*got torch\.float64$"):
        unfolded_rows(**wide, backend="triton")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 39), max_size=6), max_size=5))
def test_packed_tags_say_what_the_lists_said(lists: list[list[int]]) -> None:
    offsets = torch.tensor([0, *(len(tags) for tags in lists)]).cumsum(0)
    packed = pack_tags(torch.tensor([*chain(*lists)], dtype=torch.int64), offsets, 40)
    assert packed.bits.shape == (len(lists), 2)
    for i, tags in enumerate(lists):
        ids = packed.ids[packed.offsets[i] : packed.offsets[i + 1]].tolist()
        words = packed.bits[i].tolist()
        assert ids == sorted(set(tags))
        assert ids == [tag for tag in range(40) if words[tag // 32] >> (tag % 32) & 1]
    weight = torch.randn(40, 3)
    sums = tag_sums(torch.arange(len(lists)), packed, weight)
    for i, tags in enumerate(lists):
        torch.testing.assert_close(sums[i], weight[sorted(set(tags))].sum(dim=0))


@pytest.mark.parametrize(
    ("ids", "offsets", "text"),
    [
        ([0, 9], [0, 2], r"ids: expected 0 <= tag < 9, got 0 to 9"),
        ([-1], [0, 1], r"ids: expected 0 <= tag < 9, got -1 to -1"),
        ([1, 2], [0, 1], r"offsets: expected to ascend from 0 to 2, got \[0, 1\]"),
        ([1, 2], [1, 2], r"offsets: expected to ascend from 0 to 2, got \[1, 2\]"),
        ([1, 2], [0, 2, 1, 2], r"offsets: expected to ascend from 0 to 2, got \[0, 2, 1, 2\]"),
    ],
)
def test_wrong_tags_are_named(ids: list[int], offsets: list[int], text: str) -> None:
    with pytest.raises(ValueError, match=f"^pack_tags: {text}$"):
        pack_tags(torch.tensor(ids), torch.tensor(offsets), 9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: not run")
def test_bf16_and_the_same_bits_every_time_on_a_gpu(device: torch.device) -> None:
    x = cast(rows_case(500, items=900, d_e=384, d_a=128, tags=1000, d=768), device)
    check(x, torch.bfloat16)
    x = cast(x, torch.bfloat16)
    first = gradients(x, "triton")
    for _ in range(10):
        again = gradients(x, "triton")
        assert all(torch.equal(again[name], first[name]) for name in first)
