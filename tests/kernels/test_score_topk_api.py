import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.backend import BackendUnavailable
from kernels.launch import recording
from kernels.score_topk import explain, launch, score_topk
from kernels.score_topk.reference import score_topk as reference

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: not run")


def inputs(device: str = "cpu", dtype: torch.dtype = torch.float16, **sizes: int) -> dict[str, Any]:
    """Random vectors, and a mask of random bits."""
    b, n, d = (sizes.get(name, size) for name, size in (("b", 3), ("n", 70), ("d", 8)))
    make = torch.Generator(device).manual_seed(0)
    return {
        "queries": torch.randn(b, d, generator=make, device=device).to(dtype),
        "items": torch.randn(n, d, generator=make, device=device).to(dtype),
        "bias": torch.randn(n, generator=make, device=device),
        "mask": torch.randint(
            -(2**31), 2**31 - 1, (b, -(-n // 32)), generator=make, device=device, dtype=torch.int32
        ),
        "k": 5,
    }


def meta(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("queries", torch.zeros(8).half(), ValueError,
     r"score_topk: queries: expected shape \(B, D\) with D at least 1, got \(8,\)"),
    ("queries", torch.zeros(3, 0).half(), ValueError,
     r"score_topk: queries: expected shape \(B, D\) with D at least 1, got \(3, 0\)"),
    ("queries", torch.zeros(3, 8, dtype=torch.int32), TypeError,
     r"score_topk: queries: expected one of .*bfloat16.*, got torch.int32"),
    ("queries", torch.zeros(8, 3).half().T, ValueError,
     r"score_topk: queries: expected contiguous, got strides \(1, 3\)"),
    ("items", torch.zeros(70, 9).half(), ValueError,
     r"score_topk: items: expected shape \(70, 8\), got \(70, 9\)"),
    ("items", torch.zeros(70, 8), TypeError,
     r"score_topk: items: expected torch.float16, got torch.float32"),
    ("items", meta(70, 8), ValueError, r"score_topk: items: expected on cpu, got meta"),
    ("bias", torch.zeros(69), ValueError,
     r"score_topk: bias: expected shape \(70,\), got \(69,\)"),
    ("bias", torch.zeros(70).half(), TypeError,
     r"score_topk: bias: expected torch.float32, got torch.float16"),
    ("mask", torch.zeros(3, 2, dtype=torch.int32), ValueError,
     r"score_topk: mask: expected shape \(3, 3\), got \(3, 2\)"),
    ("mask", torch.zeros(3, 3, dtype=torch.int64), TypeError,
     r"score_topk: mask: expected torch.int32, got torch.int64"),
    ("k", 0, ValueError, r"score_topk: k: expected 1 to 500, got 0"),
    ("k", 501, ValueError, r"score_topk: k: expected 1 to 500, got 501"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "error", "text"), WRONG)
def test_a_wrong_argument_is_named(
    name: str, value: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        score_topk(**inputs() | {name: value})


@pytest.mark.parametrize(
    ("queries", "items", "why"),
    [
        (torch.zeros(1, 257), torch.zeros(1, 257), "1 to 256 dimensions, queries have 257"),
        (meta(1, 8), meta(2**30 + 1, 8), f"up to {2**30} items, got {2**30 + 1}"),
        pytest.param(
            torch.zeros(1, 8).bfloat16(), torch.zeros(1, 8).bfloat16(), "computes bf16 wrongly",
            marks=pytest.mark.skipif(
                torch.cuda.is_available(), reason="bf16 is refused in the interpreter alone"
            ),
        ),
    ],
)  # fmt: skip
def test_what_the_kernels_cannot_take_is_explained(
    queries: Tensor, items: Tensor, why: str
) -> None:
    choice = explain(queries, items)
    assert choice.backend == "reference"
    assert why in choice.reason
    with pytest.raises(BackendUnavailable, match=why):
        explain(queries, items, backend="triton")


def test_the_operator_passes_torchs_own_checks(device: torch.device) -> None:
    arguments = tuple(inputs(device.type).values())
    torch.library.opcheck(torch.ops.stars.score_topk, arguments)
    torch.library.opcheck(torch.ops.stars.score_topk, (*arguments[:3], None, 80))


def test_auto_on_the_cpu_is_the_reference() -> None:
    arguments = inputs(dtype=torch.bfloat16)
    assert explain(arguments["queries"], arguments["items"]).backend == "reference"
    found, wanted = score_topk(**arguments), reference(**arguments)
    assert torch.equal(found.values, wanted.values)
    assert torch.equal(found.indices, wanted.indices)


@pytest.mark.parametrize("b", [1, 16, 17, 33, 64, 65, 256, 1000])
@pytest.mark.parametrize("k", [1, 16, 17, 128, 129, 500])
def test_a_class_fills_every_card_and_its_lists_stay_small(b: int, k: int) -> None:
    with recording() as launches:
        launch.score_topk(
            meta(b, 128), meta(100_000, 128), meta(100_000, dtype=torch.float32), None, k
        )
    scan, merge = launches
    assert scan.blocks >= 170
    assert merge.blocks == b
    lists = scan.arguments["lists_ptr"]
    assert isinstance(lists, Tensor)
    blocks = -(-b // 32)
    assert 2 * 8 * lists.numel() <= 0.062 * blocks * 100_000 * 256


COMPILE = """
import torch
from kernels.aot import compile_launch
from kernels.launch import recording
from kernels.score_topk import launch
meta = lambda *shape, dtype: torch.empty(shape, dtype=dtype, device="meta")
with recording() as launches:
    launch.score_topk(meta(64, 64, dtype=torch.bfloat16), meta(9999, 64, dtype=torch.bfloat16),
                      meta(9999, dtype=torch.float32), None, 10)
for call in launches:
    built = compile_launch(call, 90)
    assert not built.resources.local_bytes, call.name
    assert built.resources.shared_bytes <= 48 * 1024, call.name
    assert "mma.sync" in built.ptx and "wgmma" not in built.ptx, call.name
"""


def test_bf16_compiles_and_both_kernels_multiply_with_the_same_instruction() -> None:
    """One accumulation order: a chunk that is read again has the same bits. fp16: the cases."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("k", [10, 100, 500])
def test_on_a_gpu_repeats_and_batches_give_the_same_bits(dtype: torch.dtype, k: int) -> None:
    arguments = inputs("cuda", dtype, b=256, n=20_011, d=128) | {"k": k}
    first = score_topk(**arguments, backend="triton")
    for _ in range(20):
        again = score_topk(**arguments, backend="triton")
        assert torch.equal(again.values, first.values)
        assert torch.equal(again.indices, first.indices)
    for rows in (slice(3, 4), slice(0, 16), slice(1, 33), slice(2, 80)):
        part = {name: arguments[name][rows].contiguous() for name in ("queries", "mask")}
        some = score_topk(**arguments | part, backend="triton")
        assert torch.equal(some.values, first.values[rows])
        assert torch.equal(some.indices, first.indices[rows])


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_small_integers_are_exact(dtype: torch.dtype) -> None:
    arguments = inputs("cuda", dtype, b=70, n=30_001, d=128) | {"k": 500}
    for name in ("queries", "items", "bias"):
        arguments[name] = arguments[name].clamp(-3, 3).round()
    arguments["bias"][64:96] += 500  # a chunk that is read again
    found, wanted = score_topk(**arguments, backend="triton"), reference(**arguments)
    assert torch.equal(found.indices, wanted.indices)
    assert torch.equal(found.values, wanted.values)


@pytest.mark.gpu
@NEEDS_GPU
def test_on_a_gpu_offsets_pass_two_to_the_31() -> None:
    n, d = 2**31 // 128 + 4096, 128
    items = torch.zeros(n, d, dtype=torch.float16, device="cuda")
    items[-1] = 1
    queries = torch.ones(1, d, dtype=torch.float16, device="cuda")
    found = score_topk(queries, items, torch.zeros(n, device="cuda"), None, 2, backend="triton")
    assert found.indices.tolist() == [[n - 1, 0]]
