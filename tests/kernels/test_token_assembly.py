"""Token assembly, forward: both backends against the formula and the fp64 reference."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.backend import Backend, BackendUnavailable
from kernels.token_assembly import api, explain, launch, ops, token_assembly
from tests.kernels.planted import plant
from tests.kernels.token_case import assembled, cast, poisoned, token_case
from tests.kernels.truth import assert_as_good_as_torch

pytestmark = pytest.mark.usefixtures("on_the_card")
BACKENDS: tuple[Backend, ...] = ("reference", "triton")
COUNTS = [[3, 0, 5, 1], [1], [0], [], [7, 7, 7], [0, 0, 9]]
gpu = pytest.mark.gpu
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: not run"
)


def by_formula(x: dict[str, Any]) -> list[Tensor]:
    """Tokens of every sequence [count + 1, D] in fp64, event by event."""
    ragged = x["offsets"] is not None
    result = []
    for b, user in enumerate(x["user"]):
        first = int(x["offsets"][b]) if ragged else 0
        count = int(x["offsets"][b + 1]) - first if ragged else x["codes"].shape[1]
        tokens = [user]
        for t in range(count):
            at = first + t if ragged else (b, t)
            token = x["rows"][at] if x["index"] is None else x["rows"][x["index"][at]]
            for code in x["codes"][at]:
                token = token + x["table"][code]
            for signal, weight in zip(x["signals"][at], x["signal_weight"], strict=True):
                token = token + signal * weight
            tokens.append(token)
        result.append(torch.stack(tokens))
    if x["norm"] is not None:
        weight, bias = x["norm"]
        for i, tokens in enumerate(result):
            centred = tokens - tokens.mean(dim=1, keepdim=True)
            scale = (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()
            result[i] = centred / scale * weight + bias
    return result


def check(x: dict[str, Any], backend: Backend, dtype: torch.dtype = torch.float32) -> None:
    """Raises unless the backend is as good as torch on these inputs."""
    truth = assembled(cast(x, torch.float64), "reference")
    same = assembled(cast(x, dtype), "reference")
    got = assembled(cast(x, dtype), backend)
    assert got.tokens.dtype == dtype
    assert_as_good_as_torch(got.tokens, same.tokens, truth.tokens)
    assert_as_good_as_torch(got.read_outs, same.read_outs, truth.read_outs)
    assert torch.equal(got.cuts, x["ends"] + 1)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=5),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2),
    st.integers(0, 99),
)
def test_tokens_equal_the_formula(
    backend: Backend,
    counts: list[int],
    ragged: bool,
    gather: bool,
    norm: bool,
    signals: int,
    seed: int,
) -> None:
    x = token_case(counts, ragged=ragged, gather=gather, norm=norm, d=5, signals=signals, seed=seed)
    got = assembled(x, backend)
    expected = by_formula(cast(x, torch.float64))
    tokens = got.tokens if ragged else got.tokens.flatten(0, 1)
    torch.testing.assert_close(tokens.double(), torch.cat(expected), rtol=1e-4, atol=1e-4)
    if not norm:
        torch.testing.assert_close(got.read_outs, x["user"] + x["read_out"])
    assert got.cuts.tolist() == (x["ends"] + 1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("d", [1, 7, 8, 127, 256, 257])
def test_odd_widths(d: int, dtype: torch.dtype) -> None:
    check(token_case([3, 0, 2], d=d, norm=d > 1), "triton", dtype)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("counts", COUNTS)
def test_odd_lengths(counts: list[int], ragged: bool) -> None:
    check(token_case(counts, ragged=ragged, read_outs=5, gather=False), "triton", torch.float16)


@pytest.mark.parametrize(("codes", "signals"), [(0, 0), (1, 0), (0, 1), (6, 5)])
def test_few_and_many_parts(codes: int, signals: int) -> None:
    for backend in BACKENDS:
        check(token_case([2, 3], codes=codes, signals=signals), backend)


def test_dtypes_may_differ_and_are_promoted() -> None:
    x = token_case([2, 3])
    x["rows"], x["table"] = x["rows"].half(), x["table"].half()
    for backend in BACKENDS:
        assert assembled(x, backend).tokens.dtype == torch.float32
    torch.testing.assert_close(
        assembled(x, "triton").tokens, assembled(x, "reference").tokens, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("ragged", [False, True])
def test_every_element_is_written_and_no_other(ragged: bool) -> None:
    x = token_case([3, 0, 5, 1], ragged=ragged, read_outs=5)
    with poisoned(launch):
        check(x, "triton")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("norm", [False, True])
def test_a_nan_stays_in_its_own_rows(backend: Backend, norm: bool) -> None:
    x = token_case([4, 3], norm=norm)
    clean = assembled(x, backend)
    x["rows"][2] = float("nan")
    x["user"][1] = float("nan")
    x["signals"][0, 0] = float("nan")
    bad = torch.zeros(2, 5, dtype=torch.bool)
    bad[:, 1:] = x["index"] == 2
    bad[0, 1] = bad[1, 0] = True
    got = assembled(x, backend)
    assert got.tokens[bad].isnan().all()
    assert torch.equal(got.tokens[~bad], clean.tokens[~bad])
    assert got.read_outs.isnan().all(dim=1).tolist() == [False, True]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_weight_of_the_signals_spares_user(backend: Backend) -> None:
    x = token_case([4, 3])
    x["signal_weight"][:] = float("nan")
    got = assembled(x, backend)
    assert got.tokens[:, 0].isfinite().all()
    assert got.tokens[:, 1:].isnan().all()
    assert got.read_outs.isfinite().all()


def test_a_sequence_has_the_same_bits_alone_and_in_any_batch() -> None:
    x = cast(token_case([6, 6, 6, 6, 6], d=40, norm=True), torch.float16)
    together = assembled(x, "triton")
    for b in range(5):
        part = {name: x[name][b : b + 1] for name in ("index", "user", "codes", "signals", "ends")}
        alone = assembled(x | part, "triton")
        assert torch.equal(alone.tokens[0], together.tokens[b])
        assert torch.equal(alone.read_outs[0], together.read_outs[b])


def test_padded_and_ragged_have_the_same_bits() -> None:
    x = cast(token_case([4, 4, 4], d=40), torch.float16)
    packed = x | {name: x[name].flatten(0, 1) for name in ("index", "codes", "signals")}
    packed["offsets"] = torch.tensor([0, 4, 8, 12])
    tokens = assembled(x, "triton").tokens
    assert torch.equal(assembled(packed, "triton").tokens, tokens.flatten(0, 1))


# (what the kernel says, what a bug would say, whether packed); none reads outside its operands.
PLANTS = [
    ("m_row = o_row < n_tokens\n", "m_row = o_row < n_tokens - 1\n", False),
    ("b_first <= o_row, i_mid, i_low", "b_first < o_row, i_mid, i_low", True),
    ("o_event = (o_row - i_sequence - 1)", "o_event = ((o_row - i_sequence - 1) // 2)", False),
    ("m_event = m_row & (m_user == 0)", "m_event = m_row & (m_user == 0) & (o_row > 1)", False),
    ("tl.store(cuts_ptr + o_read, b_end + 1", "tl.store(cuts_ptr + o_read, b_end", False),
    ("m_read = o_read < n_read_outs", "m_read = o_read < n_read_outs - 1", False),
    (
        "tl.where((o_d < D)[None, :], chunks[i] - mean[:, None], 0.0)",
        "chunks[i] - mean[:, None]",
        False,
    ),
]


@pytest.mark.parametrize(("old", "new", "ragged"), PLANTS)
def test_the_check_sees_a_planted_bug(old: str, new: str, ragged: bool) -> None:
    x = token_case([3, 0, 5, 1], ragged=ragged, norm="chunks" in old)
    check(x, "triton")
    with plant(launch, old, new), pytest.raises(AssertionError):
        check(x, "triton")


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_opcheck(ragged: bool, norm: bool) -> None:
    x = token_case([3, 0, 2], ragged=ragged, norm=norm, read_outs=4)
    for name in ("rows", "user", "table", "signal_weight", "read_out"):
        x[name].requires_grad_()
    weight, bias = x.pop("norm") or (None, None)
    torch.library.opcheck(ops.assemble, (*x.values(), weight, bias, 1e-5))


def test_the_choice_is_explained() -> None:
    x = token_case([2])
    floats = (x["rows"], x["user"])
    there = tuple(value.cpu() for value in floats)
    assert explain(there, 3, 2).backend == "reference"
    assert "on cpu" in explain(there, 3, 2).reason
    assert explain(floats, 3, 2, backend="triton").backend == "triton"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"codes": api.MAX_CODES + 1}, "at most 16 codes an event, got 17"),
        ({"signals": api.MAX_SIGNALS + 1}, "at most 32 signals an event, got 33"),
    ],
)
def test_too_many_parts_run_on_the_reference_or_raise(change: dict[str, int], text: str) -> None:
    x = token_case([2, 1], **change)  # type: ignore[arg-type]
    assert assembled(x, "auto").tokens.shape == (2, 3, 20)
    with pytest.raises(BackendUnavailable, match=f"^token_assembly: .*{text}$"):
        assembled(x, "triton")


def test_fp64_runs_on_the_reference_or_raises() -> None:
    x = cast(token_case([2, 1]), torch.float64)
    assert assembled(x, "auto").tokens.dtype == torch.float64
    with pytest.raises(BackendUnavailable, match=r"kernels take .*, got torch\.float64$"):
        assembled(x, "triton")


@gpu
@needs_cuda
def test_bf16_on_a_gpu(device: torch.device) -> None:
    x = cast(token_case([3, 0, 5, 1], d=768, norm=True), device)
    check(x, "triton", torch.bfloat16)


@gpu
@needs_cuda
def test_the_same_bits_every_time_on_a_gpu(device: torch.device) -> None:
    x = cast(cast(token_case([200] * 64, d=768), device), torch.bfloat16)
    first = token_assembly(**x, backend="triton").tokens
    for _ in range(20):
        assert torch.equal(token_assembly(**x, backend="triton").tokens, first)


@gpu
@needs_cuda
def test_rows_behind_two_to_the_31_elements(device: torch.device) -> None:
    x = cast(cast(token_case([5, 5], d=512), device), torch.float16)
    many = 2**22 + 7
    far = torch.empty(many, 512, dtype=torch.float16, device=device)
    far[-7:] = x["rows"]
    near = token_assembly(**x, backend="triton").tokens
    moved = x | {"rows": far, "index": x["index"] + (many - 7)}
    assert torch.equal(token_assembly(**moved, backend="triton").tokens, near)
