"""The factorisation machine with a kernel: what it equals, and what it computes once."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.ranking.wesing.kfm import KFM


def moved(dims: list[int], seed: int = 0) -> KFM:
    """With kernels as after training."""
    torch.manual_seed(seed)
    kfm = KFM(dims).double()
    for row in kfm.rows:
        torch.nn.init.normal_(row)
    return kfm


def naive(kfm: KFM, fields: list[Tensor]) -> Tensor:
    """[n, pairs], a pair at a time."""
    found = []
    for i, j in combinations(range(len(fields)), 2):
        start = sum(kfm.dims[i + 1 : j])
        kernel = kfm.rows[i][:, start : start + kfm.dims[j]]
        found.append(torch.einsum("na,ab,nb->n", fields[i], kernel, fields[j]))
    return torch.stack(found, 1)


@pytest.mark.parametrize("kernel", [False, True])
def test_with_identities_it_is_the_factorisation_machine(kernel: bool) -> None:
    fields = list(torch.randn(5, 17, 8, generator=torch.Generator().manual_seed(0)).double())
    total = KFM([8] * 5, kernel=kernel).double()(fields).total[:, 0]
    stacked = torch.stack(fields)
    rendle = 0.5 * (stacked.sum(0) ** 2 - (stacked**2).sum(0)).sum(1)
    torch.testing.assert_close(total, rendle)
    assert all(row.requires_grad is kernel for row in KFM([8] * 5, kernel=kernel).rows)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.integers(0, 4), st.integers(0, 9))
def test_pairs_are_bilinear_forms_of_fields_of_any_length(
    dims: list[int], n: int, seed: int
) -> None:
    kfm = moved(dims, seed)
    fields = [torch.randn(n, d).double() for d in dims]
    pairs, total = kfm(fields)
    torch.testing.assert_close(pairs, naive(kfm, fields))
    torch.testing.assert_close(total, pairs.sum(1, keepdim=True))
    assert pairs.shape == (n, kfm.pairs)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=2, max_size=6),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_fields_of_a_request_meet_those_of_its_candidates(
    sides: list[tuple[int, bool]], batch: int, n: int
) -> None:
    kfm = moved([d for d, _ in sides])
    fields = [torch.randn(batch, 1 if request else n, d).double() for d, request in sides]
    width = 1 if all(request for _, request in sides) else n
    flat = [field.expand(batch, width, -1).reshape(batch * width, -1) for field in fields]
    torch.testing.assert_close(kfm(fields).pairs.reshape(batch * width, -1), naive(kfm, flat))


def test_a_pair_of_the_request_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel meets more rows than the request's fields have."""
    rows: list[int] = []
    product = Tensor.__matmul__

    def counted(left: Tensor, right: Tensor) -> Tensor:
        if right.requires_grad:  # a kernel; the other products sum
            rows.append(left.shape[:-1].numel())
        return product(left, right)

    monkeypatch.setattr(Tensor, "__matmul__", counted)
    kfm = moved([3, 3, 3, 3]).float()
    kfm([torch.randn(2, n, 3) for n in (1, 1, 50, 1)])
    assert max(rows) == 2


def test_gradients_reach_every_kernel_and_field() -> None:
    kfm = moved([2, 3, 4])
    fields = [torch.randn(5, d).double().requires_grad_() for d in kfm.dims]
    assert torch.autograd.gradcheck(lambda *given: kfm(given).pairs, fields)
    kfm(fields).total.sum().backward()
    assert all(row.grad is not None and row.grad.all() for row in kfm.rows)


def test_wrong_fields_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dims: expected two lengths or more, got \[3\]"):
        KFM([3])
    with pytest.raises(ValueError, match="dims: expected one length without a kernel"):
        KFM([3, 4], kernel=False)
    with pytest.raises(ValueError, match=r"fields: expected lengths \[3, 4\], got \[3, 3\]"):
        KFM([3, 4])([torch.ones(2, 3), torch.ones(2, 3)])
    with pytest.raises(ValueError, match=r"expected one number of dimensions, got \[2, 3\]"):
        KFM([3, 3])([torch.ones(2, 3), torch.ones(2, 1, 3)])
