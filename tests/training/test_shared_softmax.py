import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.training.shared_softmax import shared_softmax
from kernels.candidate_softmax import candidate_softmax


@settings(max_examples=60, deadline=None)
@given(
    p=st.integers(1, 9),
    n=st.integers(4, 33),
    n_shared=st.integers(1, 33),
    c=st.integers(1, 4),
    seed=st.integers(0, 10_000),
)
def test_it_is_the_candidate_softmax(p: int, n: int, n_shared: int, c: int, seed: int) -> None:
    """Values and gradients, with pads, targets among the shared items and apart from them."""
    g = torch.Generator().manual_seed(seed)

    def real(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    hidden, items = real(p, 5).requires_grad_(), real(n, 5).requires_grad_()
    shared = torch.randperm(n, generator=g)[: min(n_shared, n)]
    own = torch.stack([torch.randperm(n, generator=g)[:c] for _ in range(p)])
    own[:, 1:][torch.rand(p, c - 1, generator=g) < 0.3] = -1
    weight = torch.rand(p, c, generator=g, dtype=torch.float64)
    weight[torch.rand(p, c, generator=g) < 0.3] = 0
    bias, log_pi = real(n), -real(p, c).abs()
    shared_log_pi = -real(len(shared)).abs()
    lists = bias, shared, shared_log_pi, own, log_pi
    zeros = torch.zeros_like(log_pi)
    ours = shared_softmax(hidden, items, *lists, weight)
    theirs = candidate_softmax(hidden, items, *lists, zeros, weight, zeros.bool()).loss
    torch.testing.assert_close(ours, theirs)
    up = real(p)
    torch.testing.assert_close(
        torch.autograd.grad(ours @ up, (hidden, items)),
        torch.autograd.grad(theirs @ up, (hidden, items)),
    )
