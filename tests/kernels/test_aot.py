"""The compiler's side, in a process that does not interpret: the two exclude each other."""

from typing import Any

import pytest
import torch

from kernels.aot import compile_launch
from kernels.backend import BackendUnavailable
from kernels.cards import CARDS
from kernels.launch import Launch
from kernels.ptx import Access, accesses, tensor_core_instructions
from tests.compiled import run_compiled

SCRIPT = """
import json, sys
import torch
from kernels.aot import compile_launch
from kernels.launch import Launch
from tests.kernels import toy

def half(*shape, dtype=torch.float16):
    return torch.empty(*shape, dtype=dtype, device="meta")

ids = half(64, dtype=torch.int64)
product = {"a_ptr": half(100, 64), "b_ptr": half(64, 64), "ids_ptr": ids, "c_ptr": half(64, 64)}
shifted = {**product, "b_ptr": half(65 * 64)[1:]}
x = half(128, 128, dtype=torch.float32)
scale = {"x_ptr": x, "table_ptr": half(5), "n_rows": 1, "n_columns": 32, "y_ptr": half(3, 5)}
spill = {"x_ptr": x, "y_ptr": half(128, 128, dtype=torch.float32)}
cases = {
    "product": Launch(toy.product, (1,), product, {"N": 64}, 4, 2),
    "shifted": Launch(toy.product, (1,), shifted, {"N": 64}, 4, 2),
    "scale": Launch(toy.scale_rows, (3,), scale, {"BLOCK": 8}, 1, 1),
    "spill": Launch(toy.spilling, (1,), spill, {"N": 128}, 1, 1),
}
result = {}
for name, launch in cases.items():
    for sm in (80, 120) if name == "product" else (80,):
        c = compile_launch(launch, sm)
        result[f"{name} {sm}"] = {
            "parameters": c.parameters, "dots": c.dots, "mma": c.mma_count,
            "registers": c.resources.registers, "local": c.resources.local_bytes,
            "shared": c.resources.shared_bytes, "share": c.vector_load_share(),
            "exempt": c.vector_load_share(frozenset({"ids_ptr"})),
            "widths": sorted({(n, a.store, a.width_bytes) for n, a in c.accesses}),
            "target": [line for line in c.ptx.splitlines() if line.startswith(".target")],
        }
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return run_compiled(SCRIPT)


def test_loads_are_told_by_operand(built: dict[str, Any]) -> None:
    for sm in (80, 120):
        product = built[f"product {sm}"]
        assert product["parameters"] == ["a_ptr", "b_ptr", "ids_ptr", "c_ptr"]
        widths = {(name, store): width for name, store, width in product["widths"]}
        assert widths == {
            ("a_ptr", False): 16, ("b_ptr", False): 16, ("ids_ptr", False): 8, ("c_ptr", True): 16,
        }  # fmt: skip
        assert product["share"] < 1
        assert product["exempt"] == 1
        assert product["dots"] == 1
        assert product["mma"] > 0
        assert product["shared"] > 0
        assert product["local"] == 0
    assert built["product 80"]["target"] == [".target sm_80"]
    assert built["product 120"]["target"] == [".target sm_120a"]


def test_an_operand_off_its_alignment_is_seen(built: dict[str, Any]) -> None:
    widths = {(name, store): width for name, store, width in built["shifted 80"]["widths"]}
    assert widths["a_ptr", False] == 16
    assert widths["b_ptr", False] == 2
    assert built["shifted 80"]["exempt"] < 1


def test_sizes_of_one_are_constants_as_in_a_launch(built: dict[str, Any]) -> None:
    assert built["scale 80"]["parameters"] == ["x_ptr", "table_ptr", "n_columns", "y_ptr"]
    assert built["scale 80"]["dots"] == 0
    assert built["scale 80"]["mma"] == 0


def test_local_memory_is_seen(built: dict[str, Any]) -> None:
    assert built["spill 80"]["local"] > 0


def test_ptx_addresses_are_followed_through_loops_and_predicates() -> None:
    text = """
        ld.param.b64 %rd1, [k_param_0];
        ld.param.b64 %rd2, [k_param_1];
        ld.param.b32 %r1, [k_param_2];
        cvt.s64.s32 %rd3, %r1;
        mov.b64 %rd4, %rd1;  // comment with ld.global
    $L__BB0_1:
        .loc 1 2 3
        @%p1 ld.global.v4.b32 { %r2, %r3, %r4, %r5 }, [ %rd4 + 0 ];
        @%p1 ld.global.L1::evict_last.b16 { %rs1 }, [ %rd5 + 0 ];
        cvt.s64.s32 %rd7, %r2;
        add.s64 %rd5, %rd2, %rd7;
        add.s64 %rd4, %rd4, %rd3;
        cp.async.cg.shared.global [ %r9 + 0 ], [ %rd5 + 0 ], 0x10, %r7;
        st.global.v2.b64 [ %rd4 + 0 ], { %rd8, %rd9 };
        ld.shared.b32 %r10, [%r9];
        wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%f1}, %rd1, %rd2;
    """
    assert accesses(text) == [
        Access(0, False, 16), Access(1, False, 2), Access(1, False, 16), Access(0, True, 16),
    ]  # fmt: skip
    assert tensor_core_instructions(text) == 1


@pytest.mark.parametrize(
    ("sm", "registers", "shared_bytes", "num_warps", "expected"),
    [
        (80, 32, 0, 4, (16, 1.0)),
        (80, 255, 0, 8, (1, 0.125)),  # 256 a thread, 8 warps: 65,536 registers, the whole file
        (80, 128, 0, 4, (4, 0.25)),
        (80, 64, 50 * 1024, 4, (3, 12 / 64)),
        (90, 64, 50 * 1024, 4, (4, 16 / 64)),
        (120, 32, 0, 1, (24, 0.5)),
    ],
)
def test_occupancy(
    sm: int, registers: int, shared_bytes: int, num_warps: int, expected: tuple[int, float]
) -> None:
    assert CARDS[sm].occupancy(registers, shared_bytes, num_warps) == expected


def test_what_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = Launch(None, (1,), {}, {}, 4, 2)
    with pytest.raises(
        ValueError, match=r"compile: sm: expected one of \[80, 90, 100, 120\], got 7"
    ):
        compile_launch(launch, 7)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(BackendUnavailable, match="TRITON_INTERPRET=1 is set"):
        compile_launch(launch, 80)


def test_an_unknown_dtype_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    kernel = SimpleNamespace(__name__="k", arg_names=["x_ptr"])
    x = torch.empty(3, dtype=torch.complex64, device="meta")
    with pytest.raises(ValueError, match=r"compile: k: x_ptr: unknown dtype torch.complex64"):
        compile_launch(Launch(kernel, (1,), {"x_ptr": x}, {}, 4, 2), 80)
