"""Exact search by the fused scan of the kernels, on a CUDA device."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable

from .index import CheckedIndex, TopK

if TYPE_CHECKING:
    from torch import Tensor


class GpuIndex(CheckedIndex):
    """Scores every item on the device by `score_topk`, bias and mask read inside the scan.

    Exactness: fp32 sums in the kernel's order, so answers differ from ExactIndex's only where
    scores differ by less than their rounding; ties go to the lower index. k is at most 500.
    """

    def __init__(
        self,
        candidates: NDArray[np.float32],
        bias: NDArray[np.float32],
        threads: int = 1,
        *,
        device: str = "cuda",
    ) -> None:
        """Copies the item rows to the device.

        Args:
            device: "cuda", or "cpu", where the kernel's reference runs: for tests.
        Raises:
            ValueError: see CheckedIndex.
            BackendUnavailable: torch sees no such device.
        """
        import torch  # with the index that needs it: the other backends never load it

        from engine.ops import score_topk

        super().__init__(candidates, bias, threads)
        self._torch, self._score_topk = torch, score_topk
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise BackendUnavailable(
                f"GpuIndex: device {device!r}: expected a CUDA device, torch {torch.__version__} "
                "sees none"
            )
        self._device = torch.device(device)
        self._items = torch.from_numpy(np.ascontiguousarray(candidates)).to(self._device)
        self._bias = torch.from_numpy(np.ascontiguousarray(bias)).to(self._device)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self.n_items * (self.dim + 1) * 4

    def _search(self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None) -> TopK:
        words = None if mask is None else self._moved(mask)
        found = self._score_topk(self._moved(queries), self._items, self._bias, words, k)
        return TopK(found.values.cpu().numpy(), found.indices.cpu().numpy())

    def _moved(self, array: NDArray[np.float32] | NDArray[np.int32]) -> "Tensor":
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(self._device)
