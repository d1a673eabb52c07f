"""The two-step, relation-aware ensemble: objectives' probabilities and a user become one logit."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import EnsembleConfig

_LEAST = 1e-6  # a probability of 0 or 1 has no logit


class Scores(NamedTuple):
    """The fused logit is their sum; both [n]."""

    related: Tensor
    agnostic: Tensor


class Ensemble(nn.Module):
    """s = s_rel + s_agn, a logit; σ(s) orders alike, and its soft ranks would be flat.

    s_rel aligns, then fuses: each objective becomes a token of its probability, logit and rank in
    the request; tokens attend to each other, the user's profile attends to them, and a network
    whose last layer starts at 0 reads the result. s_agn = Σ_m g_m(u) logit p^m with g >= 0 is the
    one-step part: at the start it is the whole score, and increases with every objective.
    """

    def __init__(self, config: EnsembleConfig) -> None:
        super().__init__()
        m, d = config.objectives, config.d_model
        self.config = config
        # One network an objective, as one product a layer.
        self.token_in = nn.Parameter(torch.randn(m, 3, config.hidden) / 3**0.5)
        self.token_bias = nn.Parameter(torch.zeros(m, config.hidden))
        self.token_out = nn.Parameter(torch.randn(m, config.hidden, d) / config.hidden**0.5)
        self.kind = nn.Parameter(torch.randn(m, d) * 0.02)
        self.among = nn.MultiheadAttention(d, config.heads, batch_first=True)
        self.user = nn.Linear(config.user_dim, d)
        self.across = nn.MultiheadAttention(d, config.heads, batch_first=True)
        last = nn.Linear(config.hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.read = nn.Sequential(nn.Linear(d, config.hidden), nn.GELU(), last)
        self.gate = nn.Sequential(
            nn.Linear(config.user_dim, config.hidden), nn.GELU(), nn.Linear(config.hidden, m)
        )

    def parts(self, probability: Tensor, rank: Tensor, user: Tensor) -> Scores:
        """The related and the agnostic part of the logit. Arguments as of `forward`."""
        p = probability.detach().clamp(_LEAST, 1 - _LEAST)
        logit = torch.logit(p)
        raw = torch.stack([p, logit, rank], 2)  # [n, M, 3]
        hidden = F.gelu(torch.einsum("nmf,mfh->nmh", raw, self.token_in) + self.token_bias)
        tokens = torch.einsum("nmh,mhd->nmd", hidden, self.token_out) + self.kind
        # Their relation, as the correction of each by the others.
        tokens = tokens + self.among(tokens, tokens, tokens, need_weights=False)[0]
        query = self.user(user)[:, None]  # [n, 1, d]
        fused = self.across(query, tokens, tokens, need_weights=False)[0][:, 0]
        agnostic = (F.softplus(self.gate(user)) * logit).sum(1)
        return Scores(self.read(fused)[:, 0], agnostic)

    def forward(self, probability: Tensor, rank: Tensor, user: Tensor) -> Tensor:
        """Fused logits, [n]; no gradient reaches the probabilities.

        Args:
            probability: [n, M] of the upstream ranker, in [0, 1].
            rank: [n, M] ascending rank of each in its request over the request's size, in (0, 1].
            user: [n, user_dim] profile of the request's user.
        """
        scores = self.parts(probability, rank, user)
        return scores.related + scores.agnostic
