"""Conversions along a tree: products of probabilities, never above the parent's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.ranking.wesing.esmm import ConversionTree, losses

NAMES = ("gift", "click", "watch", "share")
PARENTS = {"gift": "watch", "watch": "click"}


def test_probabilities_multiply_along_the_tree() -> None:
    z = torch.randn(50, 4).double()
    p = torch.sigmoid(ConversionTree(NAMES, PARENTS)(z))
    own = torch.sigmoid(z)
    torch.testing.assert_close(p[:, 1], own[:, 1])
    torch.testing.assert_close(p[:, 2], own[:, 1] * own[:, 2])
    torch.testing.assert_close(p[:, 0], own[:, 1] * own[:, 2] * own[:, 0])
    torch.testing.assert_close(p[:, 3], own[:, 3])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-3e4, 3e4, width=32), min_size=4, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_a_child_is_never_likelier_than_its_parent_and_all_is_finite(
    z: list[float], y: list[bool]
) -> None:
    given_z = torch.tensor([z], requires_grad=True)
    logits = ConversionTree(NAMES, PARENTS)(given_z)
    assert logits[0, 0] <= logits[0, 2] <= logits[0, 1]
    assert (torch.sigmoid(logits[0, 0]) <= torch.sigmoid(logits[0, 1])).all()
    loss = losses(logits, torch.tensor([y]).float())
    assert loss.isfinite().all()
    loss.sum().backward()
    assert given_z.grad is not None
    assert given_z.grad.isfinite().all()


def test_small_probabilities_and_near_certain_ones_keep_their_digits() -> None:
    tree = ConversionTree(("a", "b"), {"b": "a"})
    z = torch.tensor([[-40.0, -40.0], [40.0, 40.0], [60.0, -60.0]])
    exact = [-80.0, 40 - np.log(2), -60.0]
    np.testing.assert_allclose(tree(z)[:, 1], exact, rtol=1e-6)


def test_losses_are_over_all_impressions() -> None:
    """A child's gradient moves its parent also where nothing was clicked."""
    z = torch.zeros(3, 2, requires_grad=True)
    losses(ConversionTree(("a", "b"), {"b": "a"})(z), torch.zeros(3, 2))[1].backward()
    # p = 1/4 of each: dL/dz = -(p/(1 - p)) d log p/dz = 1/3 · 1/2, over 3 rows
    assert z.grad is not None
    torch.testing.assert_close(z.grad, torch.full((3, 2), 1 / 18))


def test_no_tree_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected objectives of .* got buy"):
        ConversionTree(NAMES, {"gift": "buy"})
    with pytest.raises(ConfigError, match=r"expected objectives of .* got buy"):
        ConversionTree(NAMES, {"buy": "gift"})
    with pytest.raises(ConfigError, match=r"got a circle among \['gift', 'click'\]"):
        ConversionTree(NAMES, {"gift": "click", "click": "gift"})


def test_a_positive_whose_parent_is_none_is_refused() -> None:
    tree = ConversionTree(("click", "gift"), {"gift": "click"})
    tree.check(np.array([[True, True], [True, False], [False, False]]))
    with pytest.raises(ValueError, match=r"gift: expected its positives .* of click, got 2"):
        tree.check(np.array([[False, True], [False, True], [True, True]]))
