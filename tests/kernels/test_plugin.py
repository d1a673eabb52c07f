"""The plugin contract: what keeps it, and each rule broken once."""

from typing import Any

import pytest

from kernels.plugin import strip_hidden
from tests.compiled import run_compiled

SCRIPT = """
import json, sys
import torch
from kernels.aot import assemble
from kernels.launch import Launch
from kernels.plugin import ContractError, plugin
from tests.kernels import toy

def half(*shape, dtype=torch.float16):
    return torch.empty(*shape, dtype=dtype, device="meta")

def scale(rows, columns):
    sizes = {"n_rows": rows, "n_columns": columns}
    x = half(rows, columns)
    arguments = {"x_ptr": x, "table_ptr": half(columns), **sizes, "y_ptr": x.clone()}
    return Launch(toy.scale_rows, (rows,), arguments, {"BLOCK": 64}, 4, 1)

def product(n):
    ids = half(n, dtype=torch.int64)
    arguments = {"a_ptr": half(n, n), "b_ptr": half(n, n), "ids_ptr": ids, "c_ptr": half(n, n)}
    return Launch(toy.product, (1,), arguments, {"N": n}, 4, 1)

def vector(kernel, n=64, **scalars):
    arguments = {"x_ptr": half(n), **scalars, "y_ptr": half(n)}
    return Launch(kernel, (1,), arguments, {"N": n}, 4, 1)

kept = {
    sm: plugin([scale(1, 48), scale(32, 64), scale(7, 16)], sm) for sm in (80, 90, 100, 120)
}
result = {
    sm: {
        "name": p.name, "inputs": p.inputs, "scalars": p.scalars, "outputs": p.outputs,
        "block_x": p.block_x, "shared": p.shared_bytes, "rules": p.rules, "ptx": p.ptx,
        "cubin": len(assemble(p.ptx)),
    }
    for sm, p in kept.items()
}
backwards = {"y_ptr": half(64), "x_ptr": half(64), "n": 60}
broken = {
    "one_kernel": [scale(2, 16), product(64)],
    "order": [Launch(toy.output_first, (1,), backwards, {"N": 64}, 4, 1)],
    "no_aliasing": [vector(toy.in_place)],
    "int32_only": [vector(toy.times, factor=1.5)],
    "int64": [scale(2**31, 16)],
    "shape_independent": [product(64), product(32)],
    "shared_memory": [product(256)],
}
result["broken"] = {}
for name, launches in broken.items():
    try:
        plugin(launches, 80)
        result["broken"][name] = None
    except ContractError as error:
        result["broken"][name] = [error.rule, str(error)]
result["ptxas"] = None
try:
    assemble(kept[80].ptx.replace("ld.global", "ld.nowhere", 1))
except RuntimeError as error:
    result["ptxas"] = str(error)
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return run_compiled(SCRIPT)


@pytest.mark.parametrize(
    ("sm", "target", "version"),
    [("80", "sm_80", "8.3"), ("90", "sm_90a", "8.3"), ("100", "sm_100a", "8.7"),
     ("120", "sm_120a", "8.7")],
)  # fmt: skip
def test_a_kernel_that_keeps_the_contract(
    found: dict[str, Any], sm: str, target: str, version: str
) -> None:
    kept = found[sm]
    assert kept["name"] == "scale_rows"
    assert kept["inputs"] == ["x_ptr", "table_ptr"]
    assert kept["scalars"] == ["n_rows", "n_columns"], "a size of 1 in one bucket is no constant"
    assert kept["outputs"] == ["y_ptr"]
    assert kept["block_x"] == 128
    assert kept["shared"] == 0
    assert f".target {target}\n" in kept["ptx"]
    assert f".version {version}\n" in kept["ptx"]
    assert kept["cubin"] > 0, "stripped PTX was assembled"
    entry = kept["ptx"].split(".entry")[1].split(")")[0]
    assert entry.count(".param") == 5, "two pointers in, two integers, one pointer out, no more"


@pytest.mark.parametrize(
    ("case", "rule", "words"),
    [
        ("one_kernel", "one_kernel", "got launches of ['product', 'scale_rows']"),
        ("order", "order", "expected input pointers, integers, output pointers"),
        ("no_aliasing", "no_aliasing", "y_ptr is read and written"),
        ("int32_only", "int32_only", "factor is 1.5, expected a 32-bit integer"),
        ("int64", "int32_only", "n_rows is 2147483648, expected a 32-bit integer"),
        ("shape_independent", "shape_independent", "N: constants differ: [64, 32]"),
        ("shared_memory", "shared_memory", "bytes shared, at most 49152"),
    ],
)
def test_a_kernel_that_breaks_a_rule_is_refused_by_its_name(
    found: dict[str, Any], case: str, rule: str, words: str
) -> None:
    assert found["broken"][case] is not None, "was accepted"
    got, sentence = found["broken"][case]
    assert got == rule
    assert words in sentence


def test_ptxas_speaks(found: dict[str, Any]) -> None:
    assert found["ptxas"].startswith("ptxas: ")
    assert "nowhere" in found["ptxas"]


def test_only_the_last_two_parameters_go() -> None:
    text = ".visible .entry k(\n\t.param .u64 a,\n\t.param .u64 b,\n\t.param .u64 c\n)\n{ ret; }"
    assert strip_hidden(text) == ".visible .entry k(\n\t.param .u64 a\n)\n{ ret; }"
