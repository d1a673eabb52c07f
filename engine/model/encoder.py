"""Causal transformer with read-outs (engine/model/README.md, "Mask")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.features import DAY_BIAS_BUCKETS
from engine.ops import attention


class Layer(nn.Module):
    """Pre-norm attention and feed-forward. Keys and values come from the tokens alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.d_model
        self.heads = config.heads
        self.norm_attention = nn.LayerNorm(d)
        self.to_query = nn.Linear(d, d)
        self.to_key_value = nn.Linear(d, 2 * d)
        self.to_out = nn.Linear(d, d)
        self.norm_feed = nn.LayerNorm(d)
        self.feed_in = nn.Linear(d, config.d_ff)
        self.feed_out = nn.Linear(config.d_ff, d)
        self.day_bias = (
            nn.Parameter(torch.zeros(config.heads, DAY_BIAS_BUCKETS)) if config.day_bias else None
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        states: Tensor,
        n_tokens: int,
        cut: Tensor,
        query_day: Tensor,
        key_day: Tensor,
        rows: Tensor | None = None,
    ) -> Tensor:
        """New states of all rows, or of the chosen ones.

        Args:
            states: [B, Q, D]: the tokens, then the read-outs.
            n_tokens: the first rows, which are keys; nobody attends to the rest.
            cut: [B, Q] int64, keys that each row sees.
            query_day, key_day: [B, Q] and [B, n_tokens] int64 days, for the day bias.
            rows: [B, R] int64 rows to compute; None for all. The last layer is asked for few.
        """
        normed = self.norm_attention(states)
        key, value = self.to_key_value(normed[:, :n_tokens]).chunk(2, dim=-1)
        if rows is not None:
            states, normed = _take(states, rows), _take(normed, rows)
            cut, query_day = cut.gather(1, rows), query_day.gather(1, rows)
        biased = self.day_bias is not None
        attended = attention(
            self._split(self.to_query(normed)),
            self._split(key),
            self._split(value),
            cut,
            bias_table=self.day_bias,
            query_day=query_day if biased else None,
            key_day=key_day if biased else None,
        )
        states = states + self.dropout(self.to_out(attended.flatten(2)))
        feed = self.feed_out(F.relu(self.feed_in(self.norm_feed(states))))
        result: Tensor = states + self.dropout(feed)
        return result

    def _split(self, x: Tensor) -> Tensor:
        """[B, Q, D] to [B, Q, H, d]."""
        return x.view(*x.shape[:2], self.heads, -1)


class Encoder(nn.Module):
    """Hidden states of h_next and h_gen at chosen ends of each sequence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.d_model)

    def forward(
        self, tokens: Tensor, read_outs: Tensor, ends: Tensor, day: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Hidden states of the last item and of the read-out at every end.

        Args:
            tokens: [B, 1 + L, D], [USER] first.
            read_outs: [B, R, D], one an end.
            ends: [B, R] int64, events before each end: 0 … L. With pooling "cls", R is 1 and the
                sequence ends there.
            day: [B, L] int64 local days of the events.
        Returns:
            next [B, R, D] and general [B, R, D].
        """
        n_tokens, n_ends = tokens.shape[1], ends.shape[1]
        position = torch.arange(n_tokens, device=tokens.device)
        event_day = torch.cat([day[:, :1], day], dim=1)  # [USER] counts as the first event's day
        if self.pooling == "cls":
            states, query_day = tokens, event_day
            cut = (ends + 1).expand(-1, n_tokens)
            general = torch.zeros_like(ends)
        else:
            states = torch.cat([tokens, read_outs], dim=1)
            query_day = torch.cat([event_day, event_day.gather(1, ends)], dim=1)
            causal = (position + 1).expand(tokens.shape[0], -1)
            cut = torch.cat([causal, ends + 1], dim=1)
            general = n_tokens + torch.arange(n_ends, device=tokens.device).expand_as(ends)
        rows = torch.cat([ends, general], dim=1)
        states = self._layers(states, n_tokens, cut, query_day, event_day, rows)
        return states[:, :n_ends], states[:, n_ends:]

    def last(self, tokens: Tensor, ends: Tensor, day: Tensor) -> Tensor:
        """As the first result of `forward`, [B, R, D], without the cost of read-outs."""
        if self.pooling == "cls":
            return self.forward(tokens, tokens[:, :0], ends, day)[0]
        n_tokens = tokens.shape[1]
        event_day = torch.cat([day[:, :1], day], dim=1)
        causal = torch.arange(1, n_tokens + 1, device=tokens.device).expand(tokens.shape[0], -1)
        return self._layers(tokens, n_tokens, causal, event_day, event_day, ends)

    def _layers(
        self,
        states: Tensor,
        n_tokens: int,
        cut: Tensor,
        query_day: Tensor,
        key_day: Tensor,
        rows: Tensor,
    ) -> Tensor:
        """[B, R, D] normed states of `rows` behind the last layer; arguments as in `Layer`."""
        for layer in self.layers[:-1]:
            states = layer(states, n_tokens, cut, query_day, key_day)
        last: Tensor = self.norm(self.layers[-1](states, n_tokens, cut, query_day, key_day, rows))
        return last


def _take(states: Tensor, rows: Tensor) -> Tensor:
    """[B, R, D] rows of [B, Q, D]."""
    return states.gather(1, rows[:, :, None].expand(-1, -1, states.shape[-1]))
