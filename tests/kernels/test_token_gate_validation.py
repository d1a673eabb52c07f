"""What the token gate says of arguments that do not fit, and which backend it takes."""

from typing import Any

import pytest
import torch

from kernels.backend import BackendUnavailable
from kernels.token_gate import explain, token_gate
from tests.kernels.gate_case import gate_case
from tests.kernels.token_case import cast

WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("hidden", torch.zeros(2, 3, 8), ValueError,
     r"hidden: expected shape \(T, D\) with D at least 1, got \(2, 3, 8\)"),
    ("hidden", torch.zeros(6, 0), ValueError,
     r"hidden: expected shape \(T, D\) with D at least 1, got \(6, 0\)"),
    ("keys", torch.zeros(8), ValueError,
     r"keys: expected shape \(V, 8\) with V at least 1, got \(8,\)"),
    ("keys", torch.zeros(0, 8), ValueError,
     r"keys: expected shape \(V, 8\) with V at least 1, got \(0, 8\)"),
    ("keys", torch.zeros(4, 7), ValueError, r"keys: expected shape \(4, 8\), got \(4, 7\)"),
    ("values", torch.zeros(3, 8), ValueError, r"values: expected shape \(4, 8\), got \(3, 8\)"),
    ("ids", torch.zeros(5).int(), ValueError, r"ids: expected shape \(6,\), got \(5,\)"),
    ("ids", torch.zeros(6).long(), TypeError, r"ids: expected torch\.int32, got torch\.int64"),
    ("scale", torch.zeros(1, 8), ValueError, r"scale: expected shape \(8,\), got \(1, 8\)"),
    ("eps", 0.0, ValueError, r"eps: expected above 0, got 0\.0"),
    ("eps", float("nan"), ValueError, "eps: expected above 0, got nan"),
    ("backend", "cuda", ValueError,
     r"backend: expected one of \('auto', 'triton', 'reference'\), got 'cuda'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "error", "text"), WRONG)
def test_a_wrong_argument_is_named(
    name: str, value: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=f"^token_gate: {text}$"):
        token_gate(**gate_case(6, 4, 8) | {name: value})


UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    (cast(gate_case(6, 4, 8), torch.float64), "take fp16, bf16 and fp32, got torch.float64"),
    (gate_case(6, 4, 8) | {"values": torch.zeros(4, 8).double()},
     "take fp16, bf16 and fp32, got torch.float64"),
    (gate_case(6, 4, 8) | {"scale": torch.zeros(8).half()},
     "take the scale in fp32, not torch.float16"),
    (gate_case(6, 4, 1025), "take up to 1024 columns, got 1025"),
]  # fmt: skip


@pytest.mark.parametrize(("x", "text"), UNSUPPORTED)
def test_what_the_kernels_do_not_take_runs_on_the_reference_or_raises(
    x: dict[str, Any], text: str
) -> None:
    assert token_gate(**x).dtype == x["hidden"].dtype
    with pytest.raises(BackendUnavailable, match=f"^token_gate: .*: the kernels {text}$"):
        token_gate(**x, backend="triton")


@pytest.mark.skipif(torch.cuda.is_available(), reason="bf16 is refused in the interpreter alone")
def test_bf16_is_refused_in_the_interpreter() -> None:
    x = gate_case(6, 4, 8) | {"keys": torch.zeros(4, 8).bfloat16()}
    with pytest.raises(BackendUnavailable, match=r"Triton's interpreter computes bf16 wrongly$"):
        token_gate(**x, backend="triton")


def test_the_choice_is_explained(device: torch.device) -> None:
    x = gate_case(6, 4, 8)
    floats = [x[name] for name in ("hidden", "keys", "values", "scale")]
    assert explain(*floats).reason.startswith("the tensors are on cpu")
    on_device = (value.to(device) for value in floats)
    assert explain(*on_device, backend="triton").backend == "triton"
    assert explain(*(value.to("meta") for value in floats)).backend == "triton"
