"""The bridge, against TensorRT's own Python plugin layer over a recording core."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from engine.compile.bridge import register
from kernels.launch import Launch
from kernels.layers import CeilDiv, Layer, Output, Shapes, Start
from kernels.plugin import ContractError, Plugin
from tests.compile import tensorrt_stand_in as stand_in
from tests.compile.tensorrt_stand_in import ITensor

PLUGIN = Plugin(
    name="scale_rows",
    sm=80,
    ptx_version=83,
    ptx=".visible .entry scale_rows()",
    inputs=("x_ptr", "table_ptr"),
    scalars=("n_rows", "n_columns"),
    outputs=("y_ptr",),
    block_x=128,
    shared_bytes=512,
    rules=(),
)


def outputs(shapes: Shapes) -> dict[str, Output]:
    return {"y_ptr": Output((shapes["x_ptr"][0] + 1, shapes["x_ptr"][1]), "float16")}


def start(shapes: Shapes, cdiv: CeilDiv) -> Start:
    rows, columns = shapes["x_ptr"][0], shapes["x_ptr"][1]
    return Start((cdiv(rows, 4), 2), {"n_rows": rows, "n_columns": columns})


LAYER = Layer("scale", PLUGIN, outputs, start)


def recorded(rows: int, columns: int, **changed: Any) -> Launch:
    def half(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=torch.float16, device="meta")

    arguments: dict[str, Any] = {
        "x_ptr": half(rows, columns), "table_ptr": half(columns), "n_rows": rows,
        "n_columns": columns, "y_ptr": half(rows + 1, columns), **changed,
    }  # fmt: skip
    return Launch(None, (-(-rows // 4), 2), arguments, {}, 4, 2)


@pytest.fixture
def trtp() -> Iterator[Any]:
    if not stand_in.available():
        pytest.skip("the bindings wheel of TensorRT is not installed: its plugin layer was not run")
    with stand_in.tensorrt_plugin() as module:
        yield module


def test_tensorrt_receives_the_kernel_with_its_grid_and_integers(trtp: Any) -> None:
    plugin_id = register(trtp, {"float16": "HALF"}, LAYER)
    declared = [ITensor((-1, 64), "HALF"), ITensor((64,), "HALF")]
    for rows in (33, 8):
        started = stand_in.add_plugin(trtp, plugin_id, declared, [(rows, 64), (64,)])
        assert started == stand_in.Started(
            kernel="scale_rows",
            ptx=PLUGIN.ptx.encode(),
            grid=(-(-rows // 4), 2, 1),
            block=(128, 1, 1),
            shared_bytes=512,
            extra=(rows, 64),
            outputs=((rows + 1, 64),),
            output_types=("HALF",),
        )


def test_tensorrt_knows_the_layer_by_its_inputs(trtp: Any) -> None:
    register(trtp, {"float16": "HALF"}, LAYER)
    with pytest.raises(ValueError, match="Unexpected schema"):
        trtp.op.stars.scale(ITensor((4, 4), "HALF"))


def test_expressions_are_held_to_recorded_launches() -> None:
    LAYER.check([recorded(33, 64), recorded(1, 16)])


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (replace(LAYER, start=lambda s, cdiv: Start((1, 2), start(s, cdiv).scalars)), "grid: "),
        (
            replace(LAYER, start=lambda s, cdiv: Start((9, 2), {"n_rows": 33, "n_columns": 63})),
            "n_columns: expected 64 as launched, got 63",
        ),
        (
            replace(LAYER, start=lambda s, cdiv: Start((9, 2), {"n_rows": 33})),
            "n_columns: expected 64 as launched, got None",
        ),
        (
            replace(LAYER, outputs=lambda s: {"y_ptr": Output((33, 64), "float16")}),
            r"y_ptr: expected \(34, 64\) as launched, got \(33, 64\)",
        ),
        (
            replace(LAYER, outputs=lambda s: {"y_ptr": Output((34, 64), "float32")}),
            "y_ptr: expected float16 as launched, got float32",
        ),
    ],
)
def test_an_expression_that_says_otherwise_is_refused(layer: Layer, words: str) -> None:
    with pytest.raises(ContractError, match=words) as raised:
        layer.check([recorded(33, 64)])
    assert raised.value.rule == "expressions"
