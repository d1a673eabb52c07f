"""Specification of the token gate, in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def token_gate(
    hidden: Tensor, keys: Tensor, values: Tensor, ids: Tensor, scale: Tensor, eps: float = 1e-6
) -> Tensor:
    """Equals h + σ((RMSNorm(h) * scale)·RMSNorm(keys[j]) / √D) values[j], j = ids[t]; h if j = -1.

    The dual-token gate of SARM, with the product of both norms' weights as the one scale. Computed
    in fp32 at least, and rounded once. A NaN in a key or a value reaches the tokens of its id
    alone; a token without an id is its own bits, and its gradient reaches nothing else.

    Args:
        hidden: [T, D] base tokens.
        keys, values: [V, D] W_K e' and W_V e' of every domain token, V at least 1.
        ids: [T] int domain token of each base token, -1 for none.
        scale: [D].
        eps: of both norms, added to the mean square.
    Returns:
        [T, D], dtype of `hidden`.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    d, gated = hidden.shape[1], ids >= 0
    # A row of zeros behind the last is what a token without an id takes: a NaN of row 0, taken and
    # multiplied away, would stay.
    row = ids.where(gated, len(keys))
    # Few keys and many tokens: the keys' side takes the norm and the scale before it is gathered.
    scaled = F.pad(F.rms_norm(keys.to(wide), (d,), eps=eps) * scale, (0, 0, 0, 1))
    k, v = F.embedding(row, scaled), F.embedding(row, F.pad(values.to(wide), (0, 0, 0, 1)))
    h = hidden.to(wide)
    agreement = (F.rms_norm(h, (d,), eps=eps) * k).sum(dim=1, keepdim=True)
    out = h + torch.sigmoid(agreement * d**-0.5) * v
    return torch.where(gated[:, None], out.to(hidden.dtype), hidden)
