"""The tolerance of every kernel test: no worse than twice torch's own error in the same dtype."""

import torch
from torch import Tensor

EPS = 1e-5


def assert_as_good_as_torch(actual: Tensor, torch_same: Tensor, truth: Tensor) -> None:
    """Passes if max |actual - truth| <= 2 max |torch_same - truth| + eps, NaN nowhere.

    Args:
        actual: what the kernel gave.
        torch_same: the reference in the kernel's dtype.
        truth: the reference in fp64.
    """
    assert actual.shape == truth.shape, f"{tuple(actual.shape)} is not {tuple(truth.shape)}"
    assert not actual.isnan().any(), f"{int(actual.isnan().sum())} NaN of {actual.numel()}"
    if not actual.numel():
        return
    same, finite = actual.double(), truth.isfinite()
    assert torch.equal(same[~finite], truth[~finite]), "infinities differ"
    error = (same - truth)[finite].abs().max() if finite.any() else torch.tensor(0.0)
    own = (torch_same.double() - truth)[finite].abs().max() if finite.any() else torch.tensor(0.0)
    # A result that torch happens to hit exactly still has its own rounding.
    scale = truth[finite].abs().max() if finite.any() else torch.tensor(0.0)
    eps = EPS + torch.finfo(actual.dtype).eps * float(scale)
    assert error <= 2 * own + eps, f"error {error:.3g}, torch's own {own:.3g}, eps {eps:.3g}"
