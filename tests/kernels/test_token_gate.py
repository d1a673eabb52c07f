"""The token gate, forward: both backends against the formula and the fp64 reference."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.backend import Backend
from kernels.token_gate import launch, ops, token_gate
from tests.compiled import run_compiled
from tests.kernels.gate_case import LEARNED, gate_case, of_dtype
from tests.kernels.planted import plant
from tests.kernels.token_case import cast, poisoned
from tests.kernels.truth import assert_as_good_as_torch

pytestmark = pytest.mark.usefixtures("on_the_card")
BOTH = pytest.mark.parametrize("backend", ["reference", "triton"])
HALF_AND_FULL = pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
NEEDS_CUDA = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: not run"
)


def by_formula(x: dict[str, Any], eps: float) -> Tensor:
    """Token by token in fp64."""
    rows = [torch.empty(0, x["hidden"].shape[1], dtype=torch.float64)]
    scale = x["scale"].double()
    for h, j in zip(x["hidden"].double(), x["ids"].tolist(), strict=True):
        if j >= 0:
            k, v = x["keys"][j].double(), x["values"][j].double()
            n_h = h / math.sqrt(sum(float(a) ** 2 for a in h) / len(h) + eps)
            n_k = k / math.sqrt(sum(float(a) ** 2 for a in k) / len(k) + eps)
            z = sum(float(a * s * b) for a, s, b in zip(n_h, scale, n_k, strict=True))
            h = h + v / (1 + math.exp(-z / math.sqrt(len(h))))
        rows.append(h[None])
    return torch.cat(rows)


def check(x: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Raises unless the kernel is as good as torch on these inputs."""
    truth = token_gate(**of_dtype(x, torch.float64), backend="reference")
    same = token_gate(**of_dtype(x, dtype), backend="reference")
    got = token_gate(**of_dtype(x, dtype), backend="triton")
    assert got.dtype == same.dtype == dtype
    assert_as_good_as_torch(got, same, truth)


@BOTH
@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 9),
    st.integers(1, 5),
    st.integers(1, 9),
    st.sampled_from([1e-6, 0.5]),
    st.integers(0, 99),
)
def test_equals_the_formula(
    backend: Backend, t: int, v: int, d: int, eps: float, seed: int
) -> None:
    x = gate_case(t, v, d, seed=seed)
    got = token_gate(**x, eps=eps, backend=backend)
    torch.testing.assert_close(got.double(), by_formula(x, eps), rtol=1e-5, atol=1e-5)


@HALF_AND_FULL
@pytest.mark.parametrize("d", [1, 15, 16, 17, 127, 256, 257, launch.MAX_DIMENSION])
def test_odd_widths(d: int, dtype: torch.dtype) -> None:
    check(gate_case(11, 5, d), dtype)


@HALF_AND_FULL
@pytest.mark.parametrize("t", [0, 1, 31, 32, 33, 67])
def test_odd_counts_of_tokens(t: int, dtype: torch.dtype) -> None:
    assert launch.tile(64, launch.TOKEN_WARPS).block_t == 32
    check(gate_case(t, 5, 64), dtype)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:triton.*")  # inf times 0
@BOTH
def test_a_token_without_a_domain_token_is_its_own_bits(backend: Backend) -> None:
    x = of_dtype(gate_case(9, 3, 20), torch.float16)
    x["hidden"][4, :3] = torch.tensor([-0.0, float("inf"), float("-inf")])
    x["ids"][4] = -1
    kept = x["ids"] < 0
    got = token_gate(**x, backend=backend)
    assert torch.equal(got[kept].view(torch.int16), x["hidden"][kept].view(torch.int16))
    assert not torch.equal(got[~kept], x["hidden"][~kept])
    nothing = token_gate(**x | {"ids": torch.full_like(x["ids"], -1)}, backend=backend)
    assert torch.equal(nothing, x["hidden"])


@BOTH
def test_values_of_zero_leave_every_token(backend: Backend) -> None:
    x = gate_case(9, 3, 20)
    x["values"].zero_()
    assert torch.equal(token_gate(**x, backend=backend), x["hidden"])


@BOTH
def test_a_row_of_zeros_has_half_the_value(backend: Backend) -> None:
    x = gate_case(9, 3, 20) | {"hidden": torch.zeros(9, 20)}
    x["ids"][:] = 2
    expected = (x["values"][2] / 2).expand(9, 20)
    assert torch.equal(token_gate(**x, backend=backend), expected)


@BOTH
def test_a_gate_that_is_full_or_shut(backend: Backend) -> None:
    x = gate_case(2, 2, 20)
    x["hidden"] = torch.stack([x["keys"][0], -x["keys"][1]])
    x |= {"ids": torch.tensor([0, 1], dtype=torch.int32), "scale": torch.full((20,), 1e4)}
    got = token_gate(**x, backend=backend)
    assert torch.equal(got, torch.stack([x["hidden"][0] + x["values"][0], x["hidden"][1]]))


@BOTH
@pytest.mark.parametrize("table", ["keys", "values"])
def test_a_nan_stays_with_its_token_and_its_domain_token(backend: Backend, table: str) -> None:
    x = gate_case(12, 4, 20)
    x["ids"] = torch.tensor([0, 1, 2, 3, -1, -1, 0, 1, 2, 3, 0, -1], dtype=torch.int32)
    clean = token_gate(**x, backend=backend)
    x["hidden"][1] = float("nan")
    # Row 0, which a clamped -1 would read.
    x[table][0] = float("nan")
    bad = x["ids"] == 0
    bad[1] = True
    got = token_gate(**x, backend=backend)
    assert got[bad].isnan().all()
    assert torch.equal(got[~bad], clean[~bad])


def test_a_token_has_the_same_bits_alone_and_in_any_batch() -> None:
    x = of_dtype(gate_case(40, 5, 24), torch.float16)
    together = token_gate(**x, backend="triton")
    for part in (slice(0, 1), slice(39, 40), slice(7, 30)):
        alone = x | {"hidden": x["hidden"][part], "ids": x["ids"][part]}
        assert torch.equal(token_gate(**alone, backend="triton"), together[part])


@BOTH
def test_dtypes_may_differ_and_the_tokens_rules(backend: Backend) -> None:
    x = of_dtype(gate_case(9, 3, 20), torch.float16)
    wide = cast(x, torch.float32)
    for name, dtype in (("hidden", torch.float16), ("keys", torch.float32)):
        got = token_gate(**wide | {name: x[name]}, backend=backend)
        assert got.dtype == dtype
        torch.testing.assert_close(got.float(), by_formula(wide, 1e-6).float(), rtol=2e-3, atol=0)


def test_strides_are_followed() -> None:
    x = gate_case(9, 3, 20)
    strided = {name: torch.stack([value, value], dim=-1)[..., 1] for name, value in x.items()}
    assert not any(value.is_contiguous() for value in strided.values())
    assert torch.equal(token_gate(**strided, backend="triton"), token_gate(**x, backend="triton"))


def test_every_element_is_written_and_no_other() -> None:
    with poisoned(launch):
        check(gate_case(37, 5, 20))


# (what the kernel says, what a bug would say); none reads outside its operands.
PLANTS = [
    ("m_t = o_t < n_tokens\n", "m_t = o_t < n_tokens - 1\n"),
    ("m_gated = i_row >= 0\n    b_h", "m_gated = i_row > 0\n    b_h"),
    ("b_x, axis=1) * (1.0 / D)", "b_x, axis=1) * (1.0 / BLOCK)"),
    ("tl.sum(b_h * b_scale * b_k, axis=1) * b_inverse", "tl.sum(b_h * b_k, axis=1) * b_inverse"),
    ("tl.exp(-b_agreement * D**-0.5)", "tl.exp(-b_agreement)"),
    ("tl.where(m_gated[:, None], b_h + b", "tl.where(m_gated[:, None], b"),
    ("+ EPS)", ")"),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*")
@pytest.mark.parametrize(("old", "new"), PLANTS)
def test_the_check_sees_a_planted_bug(old: str, new: str) -> None:
    x = gate_case(33, 3, 20)
    x["hidden"][x["ids"] >= 0] *= 1e-3  # where eps is felt
    check(x)
    with plant(launch, old, new.replace("BLOCK", "32")), pytest.raises(AssertionError):
        check(x)


def test_opcheck() -> None:
    x = gate_case(9, 3, 20)
    learned = {name: x[name].requires_grad_() for name in LEARNED}
    torch.library.opcheck(ops.gate, (*(x | learned).values(), 1e-6))


def test_the_kernel_keeps_the_contract_of_an_ahead_of_time_plugin() -> None:
    script = """
import json, torch
from kernels.launch import recording
from kernels.plugin import plugin
from kernels.token_gate import launch

def half(*shape, dtype=torch.float16):
    return torch.empty(shape, dtype=dtype, device="meta")

launches = []
for t, v in ((1, 300), (48, 300), (4096, 17)):
    with recording() as made:
        ids, scale = half(t, dtype=torch.int32), half(64, dtype=torch.float32)
        launch.gate(half(t, 64), half(v, 64), half(v, 64), ids, scale, 1e-6)
    launches += made
kept = plugin(launches, 90)
print(json.dumps([kept.name, kept.inputs, kept.scalars, kept.outputs, kept.shared_bytes]))
"""
    inputs = ["hidden_ptr", "keys_ptr", "values_ptr", "ids_ptr", "scale_ptr"]
    assert run_compiled(script) == ["gate_kernel", inputs, ["n_tokens"], ["out_ptr"], 0]


@pytest.mark.gpu
@NEEDS_CUDA
def test_bf16_on_a_gpu(device: torch.device) -> None:
    for d in (64, 257, launch.MAX_DIMENSION):
        check(cast(gate_case(99, 5, d), device), torch.bfloat16)


@pytest.mark.gpu
@NEEDS_CUDA
def test_tokens_behind_two_to_the_31_elements(device: torch.device) -> None:
    x = cast(of_dtype(gate_case(7, 3, 512), torch.float16), device)
    many = 2**22 + 7
    far = torch.zeros(many, 512, dtype=torch.float16, device=device)
    ids = torch.full((many,), -1, dtype=torch.int32, device=device)
    far[-7:], ids[-7:] = x["hidden"], x["ids"]
    got = token_gate(**x | {"hidden": far, "ids": ids}, backend="triton")[-7:]
    assert torch.equal(got, token_gate(**x, backend="triton"))
