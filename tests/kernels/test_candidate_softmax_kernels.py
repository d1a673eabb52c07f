"""The candidate softmax's kernels against its reference: values, gradients, bits and memory."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernels.backend import BackendUnavailable
from kernels.candidate_softmax import candidate_softmax, cases, explain, launch
from tests.kernels.candidate_case import Case, case
from tests.kernels.planted import plant
from tests.kernels.truth import assert_as_good_as_torch

# An empty row's sum is 0, its logarithm -inf: meant, and numpy in the interpreter warns of it.
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.*"),
    pytest.mark.usefixtures("on_the_card"),
]
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: not run")
SHAPES = [  # positions, own candidates, shared, items, dimension
    (1, 1, 1, 1, 16),
    (3, 5, 0, 9, 17),
    (5, 0, 63, 90, 32),
    (0, 4, 7, 20, 16),
    (31, 33, 65, 97, 24),
    (65, 31, 64, 300, 64),
    (23, 130, 129, 400, 128),
]
NAMES = ("loss", "negative_loss", "logsumexp", "hidden", "items", "offset")


def results(x: Case, backend: Any) -> list[Tensor]:
    """The three outputs, and the gradients of a random combination of them."""
    learned = [getattr(x, name).detach().requires_grad_() for name in NAMES[3:]]
    out = replace(x, **dict(zip(NAMES[3:], learned, strict=True))).loss(backend)
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=torch.float64, device=x.hidden.device)
    for value in out:
        pull = torch.randn(len(value), generator=generator).to(value.device)
        total = total + (value.double().masked_fill(value.isinf(), 0) * pull).sum()
    return [value.detach() for value in (*out, *torch.autograd.grad(total, learned))]


def check(x: Case, got: list[Tensor] | None = None) -> None:
    """The kernels' results are as good as torch's in the same dtype."""
    triples = zip(
        got or results(x, "triton"), results(x, "reference"), results(x.wide(), "reference"),
        NAMES, strict=True,
    )  # fmt: skip
    for actual, same, truth, name in triples:
        try:
            assert_as_good_as_torch(actual, same, truth)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        assert actual.dtype == same.dtype, name


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_good_as_torch(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    p, c, s, n, d = shape
    check(case(p, c, s, n, 0, d=d).to(dtype).to(device))


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 140), st.integers(0, 99))
def test_gradients_of_ragged_rows(p: int, c: int, s: int, seed: int) -> None:
    check(case(p, c, s, 50, seed, d=16))


def test_the_whole_catalogue_shared(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    monkeypatch.setattr(launch, "CATALOGUE", 300)
    monkeypatch.setattr(launch, "GROUPS", 8)
    x = case(20, 20, 1111, 1111, 2, d=16)
    assert len(x.shared) == len(x.items) > launch.GROUPS * launch.TILE  # groups of many tiles
    check(x.to(torch.float16).to(device))


def test_a_popular_item_takes_many_pieces(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    monkeypatch.setattr(launch, "PIECE", 2 * launch.ENTRY_BLOCK)
    x = case(2 * launch.PIECE + 3, 3, 9, 30, 3, d=16)
    candidates = x.candidates.masked_fill(x.candidates == 7, -1)
    candidates[:, 1] = 7
    x = replace(x, candidates=candidates, weight=x.weight * (candidates >= 0))
    check(x.to(device))


def chunked(x: Case, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    with monkeypatch.context() as patched:
        patched.setattr(launch, "WORD_BYTES", 1)
        patched.setattr(launch, "ENTRIES", 1)
        return results(x, "triton")


def test_chunks_of_positions_change_no_row(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    x = case(launch.TILE + 5, 9, 70, 100, 4, d=16).to(device)
    whole, parts = results(x, "triton"), chunked(x, monkeypatch)
    check(x, parts)
    for name, one, other in zip(NAMES, whole, parts, strict=True):
        assert name == "items" or torch.equal(one, other), name


def test_a_rows_bits_do_not_depend_on_the_others(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    x = case(70, 9, 200, 300, 5, d=16).to(torch.float16).to(device)
    whole = x.loss("triton")
    for rows in (slice(0, 1), slice(69, 70), slice(3, 40)):
        for one, other in zip(whole, x.rows(rows).loss("triton"), strict=True):
            assert torch.equal(one[rows], other)
    # As many positions would: one block takes every group of shared items.
    monkeypatch.setattr(launch, "FULL_CARD", 1)
    for one, other in zip(whole, x.loss("triton"), strict=True):
        assert torch.equal(one, other)


def test_repeats_are_bitwise_equal(device: torch.device) -> None:
    x = case(20, 9, 100, 30, 6, d=16).to(device)
    for one, other in zip(results(x, "triton"), results(x, "triton"), strict=True):
        assert torch.equal(one, other)


def test_a_nan_stays_in_its_row() -> None:
    x = case(6, 5, 8, 60, 7, d=16)
    listed = next(i for i in x.candidates[2].tolist() if i >= 0 and i not in x.shared.tolist())
    hidden, items = x.hidden.clone(), x.items.clone()
    hidden[4] = float("nan")
    items[listed] = float("nan")
    got = replace(x, hidden=hidden, items=items).loss("triton").logsumexp
    poisoned = [row for row in range(6) if row == 4 or listed in x.candidates[row].tolist()]
    assert got.isnan().nonzero().flatten().tolist() == poisoned
    clean = [row for row in range(6) if row not in poisoned]
    assert torch.equal(got[clean], x.loss("triton").logsumexp[clean])


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Every output and scratch starts as NaN with a canary behind; the function looks at them."""
    made: list[Tensor] = []

    def poison(like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        size = torch.Size(shape).numel()
        whole = torch.full((size + 64,), float("nan"), dtype=dtype, device=like.device)
        whole[size:] = 7.0
        made.append(whole)
        return whole[:size].view(shape)

    def look() -> None:
        assert made
        for whole in made:
            assert (whole[-64:] == 7.0).all(), "written past the end"

    monkeypatch.setattr(launch, "_empty", poison)
    return look


def test_every_output_is_written_and_nothing_behind(
    poisoned: Callable[[], None], device: torch.device
) -> None:
    for p, c, s, n, d in SHAPES[:5]:
        check(case(p, c, s, n, 8, d=d).to(device))
    poisoned()


PLANTS = {
    "tail of shared items": ("m_s = o_s < n_shared\n", "m_s = o_s < n_shared - 1\n"),
    "listed items": ("m_listed | (m_s == 0)[None, :]", "(m_s == 0)[None, :]"),
    "listed items, transposed": ("m_listed | (m_s == 0)[:, None]", "(m_s == 0)[:, None]"),
    "bit of a word": ("1 << (i_other & 31)", "1 << (i_other & 15)"),
    "pads": ('tl.where(m_own, b_z - b_log_pi, float("-inf"))', "b_z - b_log_pi"),
    "tail of positions": (
        "tl.load(d_sum_ptr + o_p, mask=m_p,", "tl.load(d_sum_ptr + o_p, mask=o_p < n_positions - 1,"
    ),
    "tail of a piece": ("m_e = o_e < i_last", "m_e = o_e < i_last - 1"),
    "gradient of a pad": ("b_d_z = tl.where(m_own, b_d_z, 0.0)", "b_d_z += 1.0"),
}  # fmt: skip


@pytest.mark.parametrize("name", [None, *PLANTS])
def test_a_planted_mask_error_is_seen(name: str | None) -> None:
    x = case(14, 9, 70, 90, 9, d=16)
    if name is None:
        check(x)
        return
    with plant(launch, *PLANTS[name]):
        got = results(x, "triton")
    with pytest.raises(AssertionError):
        check(x, got)


def test_opcheck() -> None:
    x = case(3, 5, 7, 20, 10, d=16)
    arguments = [v.requires_grad_() if n in NAMES else v for n, v in x.arguments().items()]
    torch.library.opcheck(torch.ops.stars.candidate_softmax, tuple(arguments))
    with torch.no_grad():
        _, _, *saved = torch.ops.stars.candidate_softmax(*arguments)
    pulls = [torch.randn(3) for _ in range(3)]
    plain = [argument.detach() for argument in arguments]
    torch.library.opcheck(torch.ops.stars.candidate_softmax_backward, (*plain, *saved, *pulls))


def test_a_choice_is_explained() -> None:
    hidden = torch.zeros(3, 16)
    assert explain(hidden.cpu()).reason.startswith("the tensors are on cpu")
    assert explain(hidden, backend="triton").backend == "triton"
    assert explain(hidden.to("meta")).backend == "triton"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden": torch.zeros(3, 16).double(), "items": torch.zeros(9, 16).double()},
         "the kernels take fp16, bf16 and fp32, hidden is torch.float64"),
        ({"hidden": torch.zeros(3, 129), "items": torch.zeros(9, 129)},
         "the kernels take 1 to 128 dimensions, hidden has 129"),
        ({"offset": torch.zeros(3, 5).half()},
         "the kernels take bias, log π, offset and weight in fp32, not torch.float16"),
        ({"hidden": torch.zeros(3, 16).bfloat16(), "items": torch.zeros(9, 16).bfloat16()},
         "Triton's interpreter computes bf16 wrongly"),
    ],
)  # fmt: skip
@pytest.mark.skipif(torch.cuda.is_available(), reason="bf16 is refused in the interpreter alone")
def test_an_impossible_backend_is_refused(changes: dict[str, Tensor], text: str) -> None:
    arguments = case(3, 5, 4, 9, 11, d=16).arguments() | changes
    with pytest.raises(BackendUnavailable, match=f"'triton' cannot run: {text}$"):
        candidate_softmax(**arguments, backend="triton")
    candidate_softmax(**arguments)


class Live(TorchDispatchMode):
    """Bytes of storages that live at once."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.seen:
            return
        self.seen.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def peak_of_a_step(shape: cases.Shape) -> int:
    x = shape.inputs(torch.device("meta"))
    with Live(vars(x).values()) as memory:
        cases.step(x)
    return memory.peak


def test_memory_of_a_papers_step_is_what_is_stated() -> None:
    shape = cases.PAPER
    gradient = 4 * shape.p * shape.c
    assert gradient < peak_of_a_step(shape) <= cases.peak_bytes(shape)
    assert cases.unfused_peak_bytes(shape) >= 20 * cases.peak_bytes(shape)


def test_memory_of_a_large_shared_catalogue_is_bounded() -> None:
    shape = replace(cases.PAPER, s=100_000, n=100_000)
    assert peak_of_a_step(shape) <= cases.peak_bytes(shape) < 4 * shape.p * shape.s // 100


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bf16(shape: tuple[int, int, int, int, int], device: torch.device) -> None:
    p, c, s, n, d = shape
    check(case(p, c, s, n, 12, d=d).to(torch.bfloat16).to(device))


@GPU
@pytest.mark.gpu
def test_repeats_of_a_large_batch_are_bitwise_equal(device: torch.device) -> None:
    x = case(3000, 64, 1024, 5000, 13, d=128).to(torch.bfloat16).to(device)
    first = results(x, "triton")
    for _ in range(10):
        for one, other in zip(first, results(x, "triton"), strict=True):
            assert torch.equal(one, other)
    some = x.rows(slice(100, 101)).loss("triton")
    assert all(torch.equal(a[100:101], b) for a, b in zip(first[:3], some, strict=True))


@GPU
@pytest.mark.gpu
def test_rows_beyond_two_to_the_31_elements(device: torch.device) -> None:
    x = case(40, 6, 30, 50, 14, d=128).to(torch.float16).to(device)
    n = 2**31 // 128 + 50
    items = torch.zeros(n, 128, dtype=torch.float16, device=device)
    items[-50:] = x.items
    bias = torch.zeros(n, device=device)
    bias[-50:] = x.bias
    far = replace(
        x, items=items, bias=bias, shared=x.shared + n - 50,
        candidates=torch.where(x.candidates >= 0, x.candidates + n - 50, -1),
    )  # fmt: skip
    for one, other in zip(x.loss("triton"), far.loss("triton"), strict=True):
        assert torch.equal(one, other)
