"""Crosses of fields: the factorisation machine with a kernel between each two of them."""

from collections.abc import Sequence
from itertools import accumulate, combinations, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Crosses(NamedTuple):
    """One cross a pair of fields, and what they come to."""

    pairs: Tensor  # [..., F (F - 1) / 2], in order (0, 1), (0, 2), ..., (1, 2), ...
    total: Tensor  # [..., 1]


class KFM(nn.Module):
    """Σ_{i<j} <v_i, W_ij v_j>, and each of its terms; with W_ij = I it is the FM.

    W starts at I (of fields of different lengths: at ones on the diagonal); without `kernel` it
    stays there.
    """

    def __init__(self, dims: Sequence[int], *, kernel: bool = True) -> None:
        """`dims` are the fields' lengths.

        Raises:
            ValueError: fewer than two fields, a length below 1, or lengths that differ where there
                is no kernel.
        """
        super().__init__()
        if len(dims) < 2 or min(dims) < 1:
            raise ValueError(f"KFM: dims: expected two lengths or more, got {list(dims)}")
        if not kernel and len(set(dims)) > 1:
            raise ValueError(f"KFM: dims: expected one length without a kernel, got {list(dims)}")
        self.dims = tuple(dims)
        # Row i holds [W_i,i+1 ... W_i,F-1]: a field meets all that follow in one product.
        self.rows = nn.ParameterList(
            nn.Parameter(
                torch.cat([torch.eye(d, other) for other in dims[i + 1 :]], 1), requires_grad=kernel
            )
            for i, d in enumerate(dims[:-1])
        )
        of = torch.arange(len(dims)).repeat_interleave(torch.tensor(dims))
        self.of_field: Tensor
        self.register_buffer("of_field", F.one_hot(of, len(dims)).float(), persistent=False)

    @property
    def pairs(self) -> int:
        """How many crosses there are."""
        return len(self.dims) * (len(self.dims) - 1) // 2

    def forward(self, fields: Sequence[Tensor]) -> Crosses:
        """Crosses of fields whose leading dimensions broadcast.

        A pair is computed at its own leading dimensions: that of two fields [B, 1, d] once a
        request, whatever the number of candidates in the others.

        Args:
            fields: F of [..., d_f], as many leading dimensions each.
        Raises:
            ValueError: another number of fields or another length, or leading dimensions of
                another number.
        """
        given = [field.shape[-1] for field in fields]
        if given != list(self.dims):
            raise ValueError(f"KFM: fields: expected lengths {list(self.dims)}, got {given}")
        if len({field.ndim for field in fields}) > 1:
            raise ValueError(
                "KFM: fields: expected one number of dimensions,"
                f" got {[field.ndim for field in fields]}"
            )
        found: list[Tensor] = []  # [leading of the pairs, how many]
        order: list[tuple[int, int]] = []
        for i, row in enumerate(self.rows):
            ends = list(accumulate(self.dims[i + 1 :], initial=0))
            blocks = [row[:, start:end] for start, end in pairwise(ends)]
            for group in _alike(fields, i + 1):
                others = [(fields[j], blocks[j - i - 1]) for j in group]
                found.append(_crosses(fields[i], others, self._sums(group)))
                order += [(i, j) for j in group]
        first = [part[..., 0] for part in found]
        leading = torch.broadcast_tensors(*first)[0].shape  # type: ignore[no-untyped-call]
        pairs = torch.cat([part.expand(*leading, part.shape[-1]) for part in found], -1)
        place = {pair: k for k, pair in enumerate(order)}
        wanted = [place[pair] for pair in combinations(range(len(fields)), 2)]
        if wanted != list(range(len(wanted))):
            pairs = pairs.index_select(-1, torch.tensor(wanted, device=pairs.device))
        return Crosses(pairs, pairs.sum(-1, keepdim=True))

    def _sums(self, group: list[int]) -> Tensor:
        """[Σ d_j, J] of 0 and 1: which of the group's dimensions are whose."""
        ends = list(accumulate(self.dims, initial=0))
        if group == list(range(group[0], group[-1] + 1)):
            return self.of_field[ends[group[0]] : ends[group[-1] + 1], group[0] : group[-1] + 1]
        rows = [row for j in group for row in range(ends[j], ends[j + 1])]
        return self.of_field[rows][:, group]


def _alike(fields: Sequence[Tensor], start: int) -> list[list[int]]:
    """Fields from `start` on, those with the same leading dimensions together."""
    groups: list[list[int]] = []
    for j in range(start, len(fields)):
        for group in groups:
            if fields[group[0]].shape[:-1] == fields[j].shape[:-1]:
                group.append(j)
                break
        else:
            groups.append([j])
    return groups


def _crosses(field: Tensor, others: list[tuple[Tensor, Tensor]], sums: Tensor) -> Tensor:
    """[..., J] of <v W_j, v_j> for J fields v_j of the same leading dimensions, W_j [d, d_j]."""
    first = others[0][0]
    if any(a == 1 and b != 1 for a, b in zip(first.shape[:-1], field.shape[:-1], strict=True)):
        # The kernel is applied where there are fewer rows.
        turned = torch.stack([other @ block.T for other, block in others], -2)  # [..., J, d]
        return (turned * field[..., None, :]).sum(-1)
    read = field @ torch.cat([block for _, block in others], 1)  # [..., Σ d_j]
    return (read * torch.cat([other for other, _ in others], -1)) @ sums
