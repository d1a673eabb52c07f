import pytest
import torch
from torch import Tensor

from kernels.launch import launch, recording
from kernels.trace import tracing
from tests.kernels import toy

interpreted = pytest.mark.skipif(
    torch.cuda.is_available(), reason="bytes are counted in the interpreter, which a GPU replaces"
)


def scale(x: Tensor, table: Tensor, y: Tensor, rows: int | None = None) -> None:
    rows = len(x) if rows is None else rows
    arguments = {
        "x_ptr": x,
        "table_ptr": table,
        "n_rows": rows,
        "n_columns": x.shape[1],
        "y_ptr": y,
    }
    launch(toy.scale_rows, (rows,), arguments, {"BLOCK": 8}, num_warps=1, num_stages=1)


def test_a_launch_runs_and_is_noted(device: torch.device) -> None:
    x, table = torch.rand(3, 5, device=device), torch.rand(5, device=device)
    y = torch.empty_like(x)
    with recording() as launches:
        scale(x, table, y)
    torch.testing.assert_close(y, x * table)
    (noted,) = launches
    assert (noted.name, noted.grid, noted.blocks, noted.num_warps) == ("scale_rows", (3,), 3, 1)
    scale(x, table, y)
    assert len(launches) == 1


def test_meta_tensors_are_noted_and_nothing_runs() -> None:
    x, table = torch.empty(3, 5, device="meta"), torch.empty(5, device="meta")
    with recording() as launches:
        scale(x, table, torch.empty_like(x))
    assert launches[0].arguments["x_ptr"] is x


def test_an_empty_grid_starts_nothing(device: torch.device) -> None:
    x, table = torch.rand(3, 5, device=device), torch.rand(5, device=device)
    with recording() as launches:
        scale(x, table, torch.empty_like(x), rows=0)
    assert launches == []


@interpreted
def test_bytes_are_counted_per_operand_and_masked_lanes_are_not() -> None:
    x, table = torch.rand(3, 5), torch.rand(5)
    with tracing() as traces:
        scale(x, table, torch.empty_like(x))
    (trace,) = traces
    moved = {o.name: (o.size_bytes, o.read_bytes, o.written_bytes) for o in trace.operands}
    assert moved == {"x_ptr": (60, 60, 0), "table_ptr": (20, 60, 0), "y_ptr": (60, 0, 60)}
    assert trace.moved_bytes() == 180
    assert trace.moved_bytes(frozenset({"table_ptr"})) == 140
    assert trace.cached_bytes(frozenset({"table_ptr"})) == 60


@interpreted
def test_tracing_ends_with_its_block() -> None:
    from triton.runtime.interpreter import InterpreterBuilder

    before = InterpreterBuilder.create_masked_load
    with tracing() as traces:
        assert InterpreterBuilder.create_masked_load is not before
    assert InterpreterBuilder.create_masked_load is before
    x = torch.rand(2, 5)
    scale(x, torch.rand(5), torch.empty_like(x))
    assert traces == []


@interpreted
def test_operands_that_share_memory_cannot_be_told_apart() -> None:
    x = torch.rand(3, 5)
    with (
        pytest.raises(ValueError, match=r"tracing: scale_rows: \w+ and \w+ share memory"),
        tracing(),
    ):
        scale(x, torch.rand(5), x)
