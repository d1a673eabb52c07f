"""Gradients of attention: the reference by differences, the kernels by the reference."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.attention import attention
from tests.kernels.attention_inputs import Arguments, cast, packed, padded
from tests.kernels.truth import assert_as_good_as_torch

pytestmark = pytest.mark.usefixtures("on_the_card")
LEARNED = ("query", "key", "value", "bias_table")


def gradients(arguments: Arguments, backend: Any) -> dict[str, Tensor]:
    """Gradient of a random weighting of the output, by learned argument."""
    leaves = {
        name: arguments[name].detach().clone().requires_grad_()
        for name in LEARNED
        if name in arguments
    }
    out = attention(**arguments | leaves, backend=backend)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    out.backward(weight.to(out.device, out.dtype))
    found = {}
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        # The table's gradient is a sum over values of the queries' dtype, and as exact as they are.
        found[name] = leaf.grad.to(arguments["query"].dtype)
    return found


def check(arguments: Arguments) -> None:
    """The kernels' gradients against the reference's in the same dtype, by those in fp64."""
    truth = gradients(cast(arguments, torch.float64), "reference")
    same = gradients(arguments, "reference")
    for name, ours in gradients(arguments, "triton").items():
        assert_as_good_as_torch(ours, same[name], truth[name])


@pytest.mark.parametrize("n_buckets", [0, 4])
def test_the_reference_by_differences(n_buckets: int) -> None:
    arguments = cast(padded(2, 3, 4, 2, 3, n_buckets), torch.float64)
    arguments["cut"] = torch.tensor([[0, 1, 4], [2, 3, 1]])
    learned = [name for name in LEARNED if name in arguments]
    for name in learned:
        arguments[name].requires_grad_()

    def of_learned(*values: Tensor) -> Tensor:
        return attention(**arguments | dict(zip(learned, values, strict=True)))

    assert torch.autograd.gradcheck(of_learned, [arguments[name] for name in learned])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 16, 1),
        (2, 7, 31, 2, 48, 5),
        (1, 65, 129, 1, 96, 11),
        (1, 140, 63, 1, 32, 0),
        (2, 3, 0, 1, 16, 2),
        (2, 0, 3, 1, 16, 2),
        (0, 3, 4, 1, 16, 0),
    ],
)
def test_the_kernels_equal_the_reference(shape: Any, dtype: torch.dtype) -> None:
    check(padded(*shape, dtype=dtype))


def test_read_outs_follow_the_tokens() -> None:
    """Cuts as in training: ascending, then of any order."""
    arguments = padded(2, 80, 67, 1, 96, 11, dtype=torch.float16)
    tokens = torch.arange(1, 68).expand(2, -1)
    arguments["cut"] = torch.cat([tokens, torch.randint(1, 68, (2, 13))], dim=1)
    check(arguments)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 70)), min_size=1, max_size=3),
    st.sampled_from([0, 11]), st.integers(0, 99),
)  # fmt: skip
def test_packed_sequences_of_any_lengths(
    lengths: list[tuple[int, int]], n_buckets: int, seed: int
) -> None:
    queries, keys = ([pair[i] for pair in lengths] for i in (0, 1))
    arguments = packed(queries, keys, 1, 16, n_buckets, seed)
    expected = gradients(arguments, "reference")
    for name, ours in gradients(arguments, "triton").items():
        torch.testing.assert_close(ours, expected[name], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_a_query_without_keys_gets_zeros_and_gives_none(backend: Any) -> None:
    arguments = padded(2, 3, 4, 2, 16, 11, seed=1)
    arguments["cut"] = torch.tensor([[0, 0, 2], [0, 4, 0]])
    out = attention(**arguments, backend=backend)
    assert torch.equal(out[0, :2], torch.zeros(2, 2, 16))
    assert bool(out[1, 1].abs().sum() > 0)
    found = gradients(arguments, backend)
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())
    assert torch.equal(found["query"][0, :2], torch.zeros(2, 2, 16))
    for name in ("key", "value"):
        assert torch.equal(found[name][0, 2:], torch.zeros(2, 2, 16))


def test_the_same_bits_every_time() -> None:
    arguments = padded(3, 20, 70, 2, 48, 11, dtype=torch.float16)
    first, second = (gradients(arguments, "triton") for _ in range(2))
    for name, gradient in first.items():
        assert torch.equal(gradient, second[name]), name


def test_gradients_of_a_sequence_do_not_depend_on_the_batch() -> None:
    arguments = padded(2, 20, 70, 1, 32, 0)
    one = {name: tensor[:1] for name, tensor in arguments.items()}
    twice = {name: torch.cat([tensor[:1]] * 2) for name, tensor in arguments.items()}
    found = []
    for given_arguments in (one, twice):
        leaves = {n: given_arguments[n].clone().requires_grad_() for n in LEARNED[:3]}
        attention(**given_arguments | leaves, backend="triton").square().sum().backward()
        found.append([leaf.grad[:1] for leaf in leaves.values() if leaf.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("n_buckets", [0, 11])
def test_every_element_is_written(n_buckets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = padded(2, 5, 70, 1, 48, n_buckets)
    expected = gradients(arguments, "reference")

    def empty(*shape: Any, **options: Any) -> Tensor:
        size = shape[0] if isinstance(shape[0], torch.Size) else shape
        return torch.full(size, float("nan"), **options)

    monkeypatch.setattr("kernels.attention.launch.torch.empty", empty)
    found = gradients(arguments, "triton")
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=2e-5)


def test_grid_slots_without_a_sequence_add_nothing_to_the_bias() -> None:
    arguments = packed([1, 1, 65], [3, 0, 5], 1, 16, 2)
    expected = gradients(arguments, "reference")
    for name, ours in gradients(arguments, "triton").items():
        torch.testing.assert_close(ours, expected[name], rtol=1e-4, atol=2e-5)
