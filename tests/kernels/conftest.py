"""What the kernel tests share."""

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """CUDA where there is one; else the CPU, where kernels run in Triton's interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
