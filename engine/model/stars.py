"""STARS: item tokens, [USER], causal encoder, two heads, context offset, repeats; see README.md."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.data.clock import HOURS, WEEKDAYS, WEEKS
from engine.features import RECENCY_BUCKETS
from engine.ops import token_assembly

from .encoder import Encoder
from .items import ItemContent, ItemEncoder
from .repeats import RepeatScorer
from .user import UserEncoder


@dataclass(frozen=True)
class ModelData:
    """What the shape of a model takes from the dataset.

    Attributes:
        content: texts and tags of the catalogue.
        category_sizes: values of each user category, unknown included.
        n_user_numeric, n_event_types, n_signals, n_promotions: counts.
    """

    content: ItemContent
    category_sizes: Sequence[int]
    n_user_numeric: int
    n_event_types: int
    n_signals: int
    n_promotions: int


@dataclass(frozen=True)
class Events:
    """A batch of windows: [B, L] int64 fields, signals [B, L, S], the users' features."""

    event_type: Tensor
    hour: Tensor
    weekday: Tensor
    week: Tensor
    day: Tensor
    recency: Tensor
    signals: Tensor
    user_categorical: Tensor
    user_numeric: Tensor
    user_known: Tensor


class Stars(nn.Module):
    """The whole trained model. Stored vectors are `encode`; a request adds `context`."""

    def __init__(self, config: ModelConfig, data: ModelData) -> None:
        super().__init__()
        d = config.d_model
        self.config = config
        self.n_user_numeric = data.n_user_numeric
        self.items = ItemEncoder(config, data.content)
        known_of_user = (data.category_sizes, data.n_user_numeric) if config.user else ((), 0)
        self.user = UserEncoder(*known_of_user, d)
        # From zero: a week or an hour that training never saw adds nothing.
        self.hour = nn.Parameter(torch.zeros(HOURS, d))
        self.weekday = nn.Parameter(torch.zeros(WEEKDAYS, d))
        self.week = nn.Parameter(torch.zeros(WEEKS, d))
        self.event_type = nn.Parameter(torch.zeros(data.n_event_types, d))
        self.recency = nn.Parameter(torch.zeros(RECENCY_BUCKETS, d))
        self.position = nn.Parameter(torch.randn(config.window, d) * 0.02)
        self.signal = nn.Parameter(torch.zeros(data.n_signals, d))
        self.read_out = nn.Parameter(torch.randn(d) * 0.02)
        self.token_dropout = nn.Dropout(config.token_dropout)
        self.encoder = Encoder(config)
        self.head_next = nn.Linear(d, config.d_serve)
        self.head_general = nn.Linear(d, config.d_serve)
        # W_ctx: [e_time(t) ; log1p gap in days ; signals], from zero, one for both heads.
        self.context_weight = nn.Parameter(torch.zeros(d + 1 + data.n_signals, config.d_serve))
        self.auxiliary = nn.Linear(d, config.d_serve)
        n_promotions = data.n_promotions if config.promotions else 0
        self.repeats = RepeatScorer(config.repeat_hidden, n_promotions)
        if not config.context:  # from zero, where it then stays
            for part in (self.hour, self.weekday, self.week, self.signal, self.context_weight):
                part.requires_grad_(False)

    def hidden(
        self, rows: Tensor, events: Events, ends: Tensor, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encoder outputs [B, R, D] of the last item and the read-out at every end.

        Args:
            rows: [B, L, d_model] Proj(v) of the events' items, L <= window; with an index
                [n, d_model] of distinct items.
            events: their fields.
            ends: [B, R] int64, events before each end.
            index: [B, L] int64, rows of the events, or None.
        """
        tokens, read_outs = self._tokens(rows, events, ends, index)
        read_outs = read_outs.view(*ends.shape, -1)
        hidden: tuple[Tensor, Tensor] = self.encoder(tokens, read_outs, ends, events.day)
        return hidden

    def last(
        self, rows: Tensor, events: Events, ends: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """Encoder outputs [B, R, D] of the last item alone; arguments as in `hidden`."""
        tokens, _ = self._tokens(rows, events, ends[:, :1], index)
        return self.encoder.last(tokens, ends, events.day)

    def _tokens(
        self, rows: Tensor, events: Events, ends: Tensor, index: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens [B, 1 + L, d_model], and the read-outs [B * R, d_model] of all ends."""
        user = self.user(events.user_categorical, events.user_numeric, events.user_known)
        assembled = token_assembly(
            rows,
            index,
            user,
            *self._codes(events),
            events.signals,
            self.signal,
            self.read_out,
            None if ends.shape[1] == 1 else _owners(ends),
            ends.flatten(),
        )
        return self.token_dropout(assembled.tokens), assembled.read_outs

    def _codes(self, events: Events) -> tuple[Tensor, Tensor]:
        """The small tables, one below the other, and the rows [B, L, 6] of each event."""
        position = torch.arange(events.hour.shape[1], device=events.hour.device)
        parts = (
            (self.hour, events.hour),
            (self.weekday, events.weekday),
            (self.week, events.week),
            (self.event_type, events.event_type),
            (self.recency, events.recency),
            (self.position, position.expand_as(events.hour)),
        )
        codes, first = [], 0
        for table, code in parts:
            codes.append(code + first)
            first += len(table)
        return torch.cat([table for table, _ in parts]), torch.stack(codes, dim=-1)

    def encode(
        self, rows: Tensor, events: Events, ends: Tensor, index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """h_next and h_gen, [B, R, d_serve] each; arguments as in `hidden`."""
        last, read_out = self.hidden(rows, events, ends, index)
        return self.head_next(last), self.head_general(read_out)

    def context(
        self, hour: Tensor, weekday: Tensor, week: Tensor, gap_days: Tensor, signals: Tensor
    ) -> Tensor:
        """δ [P, d_serve] of requests at [P] hours, weekdays and weeks.

        Args:
            gap_days: [P] days since the user's last event, 0 without one.
            signals: [P, S] standardised external signals.
        """
        tables = ((self.hour, hour), (self.weekday, weekday), (self.week, week))
        time = torch.stack([F.embedding(index, table) for table, index in tables]).sum(dim=0)
        return torch.cat([time, torch.log1p(gap_days)[:, None], signals], 1) @ self.context_weight


def _owners(ends: Tensor) -> Tensor:
    """[B * R] int64, the sequence of each of the flattened ends [B, R]."""
    sequence = torch.arange(ends.shape[0], device=ends.device)
    return sequence[:, None].expand_as(ends).flatten()
