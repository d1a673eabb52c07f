"""What the kernel tests share."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

MAKERS: set[Callable[..., Any]] = {
    torch.arange, torch.as_tensor, torch.empty, torch.eye, torch.full, torch.linspace, torch.ones,
    torch.rand, torch.randint, torch.randn, torch.randperm, torch.tensor, torch.zeros,
}  # fmt: skip


class OnTheCard(TorchFunctionMode):
    """Tensors that a test makes without a device are drawn on the CPU and put on the card.

    `torch.set_default_device` would refuse the generators of the CPU, whose numbers are the same
    everywhere. What an operator makes inside is its own affair.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.numpy:
            return args[0].cpu().numpy()
        made = func(*args, **kwargs)
        return made.cuda() if func in MAKERS and kwargs.get("device") is None else made


@pytest.fixture(scope="session")
def device() -> torch.device:
    """CUDA where there is one; else the CPU, where kernels run in Triton's interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def on_the_card(device: torch.device) -> Iterator[None]:
    """A module's tests, written for the CPU, on the card where there is one."""
    if device.type == "cpu":
        yield
        return
    with OnTheCard():
        yield
