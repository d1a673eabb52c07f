"""The encode graph as compilers want it: typed, few operators, one bias for all layers.

Equals `Stars.encode` at one end a user. What differs is the form, and why:

- Weights and activations have the graph's dtype. Layer norm, the softmax and the sum of logits and
  bias stay in fp32: their sums lose bits that no later layer returns. fp16 would also overflow in
  the variance, and bf16 has 8 bits for a weight of the softmax.
- The scale 1 / sqrt(d) is part of the query's weights, exactly so for powers of four.
- Day bias and mask are one look-up for all layers, by an integer of each pair of query and key.
- Masked logits get -30,000, not -inf: fused attention kernels make NaN of tiles that are all -inf.
- The read-out's key and value are computed and masked, which is cheaper than cutting a row off.
"""

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.features import DAY_BIAS_BUCKETS
from engine.model.encoder import Layer
from engine.model.stars import Events, Stars
from engine.model.user import UserEncoder

Precision = Literal["fp64", "fp32", "fp16", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
FIELDS = ("event_type", "hour", "weekday", "week", "recency")
MASKED = -30_000.0
LAST_DAY = 1 << (DAY_BIAS_BUCKETS - 2)  # the first difference in days that falls in the last bucket


def graph_inputs(model: Stars) -> tuple[str, ...]:
    """Names of the inputs that `model` reads, in order: a shop may lack signals or profiles."""
    has_days = any(layer.day_bias is not None for layer in model.encoder.layers)
    return (
        "rows",
        *FIELDS,
        *(("day",) if has_days else ()),
        *(("signals",) if model.signal.shape[0] else ()),
        "length",
        *(("user_categorical",) if len(model.user.tables) else ()),
        *(("user_numeric", "user_known") if model.n_user_numeric else ()),
    )


class Graph(nn.Module):
    """The parts that both graphs are made of; a graph says how they follow each other.

    Attributes:
        inputs: names of what the graph reads, in order.
    """

    def __init__(self, model: Stars, precision: Precision, inputs: tuple[str, ...]) -> None:
        super().__init__()
        dtype = DTYPES[precision]
        self.inputs = inputs
        self.tokens = Tokens(model, dtype)
        layers = [layer for layer in model.encoder.layers if isinstance(layer, Layer)]
        self.bias = Bias(layers, dtype)
        self.layers = nn.ModuleList(Block(layer, dtype) for layer in layers)
        self.norm = Norm(model.encoder.norm, dtype)
        self.next = _linear(model.head_next.weight, model.head_next.bias, dtype)
        self.general = _linear(model.head_general.weight, model.head_general.bias, dtype)


class EncodeGraph(Graph):
    """h_next, h_gen [B, d_serve] fp32 of the tensors that `graph_inputs` names.

    rows [B, L, d_model] comes in the graph's dtype, other floats in fp32, integers in int32.
    """

    def __init__(self, model: Stars, precision: Precision = "fp32") -> None:
        super().__init__(model, precision, graph_inputs(model))
        self.pooling = model.config.pooling

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Both vectors; `tensors` are in the order of `self.inputs`."""
        given = dict(zip(self.inputs, tensors, strict=True))
        ends = given["length"][:, None]  # [B, 1]
        states = self.tokens(given, self.pooling == "causal")
        position = torch.arange(states.shape[1], dtype=torch.int32)
        if self.pooling == "cls":
            cut = (ends + 1).expand(-1, states.shape[1])
            general = torch.zeros_like(ends)
        else:
            causal = position[1:].expand(ends.shape[0], -1)
            cut = torch.cat([causal, ends + 1], dim=1)
            general = torch.full_like(ends, 1) * (states.shape[1] - 1)
        rows = torch.cat([ends, general], dim=1).long()  # [B, 2]
        days = self._days(given, ends)
        biases = self.bias(cut, position, days)
        for block, bias in zip(self.layers[:-1], biases[:-1], strict=True):
            states = block(states, bias)
        pooled = self.bias.last(cut.gather(1, rows), position, days, rows)
        states = self.norm(self.layers[-1](states, pooled, rows))
        return self.next(states[:, 0]).float(), self.general(states[:, 1]).float()

    def _days(self, given: dict[str, Tensor], ends: Tensor) -> Tensor | None:
        """[B, rows] day of every state: [USER] has the first event's, the read-out its end's."""
        if "day" not in given:
            return None
        days = torch.cat([given["day"][:, :1], given["day"]], dim=1)
        if self.pooling == "cls":
            return days
        return torch.cat([days, days.gather(1, ends.long())], dim=1)


class Tokens(nn.Module):
    """[B, 1 + L (+ 1), D]: [USER], the events' tokens, the read-out (token_assembly)."""

    def __init__(self, model: Stars, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        tables = {name: getattr(model, name) for name in FIELDS}
        self.tables = nn.ParameterDict({k: _parameter(v, dtype) for k, v in tables.items()})
        self.position = _parameter(model.position, dtype)
        self.signal = _parameter(model.signal, dtype)
        self.read_out = _parameter(model.read_out, dtype)
        self.user = User(model.user, dtype)

    def forward(self, given: dict[str, Tensor], read_out: bool) -> Tensor:
        """The tokens of the inputs by name."""
        rows = self.events(given)
        rows = rows + self.position[: rows.shape[1]]
        user = self.user(given, rows.shape[0])
        ends = [(user + self.read_out)[:, None]] if read_out else []
        return torch.cat([user[:, None], rows, *ends], dim=1)

    def events(self, given: dict[str, Tensor]) -> Tensor:
        """[B, L, D] of the events, without their positions."""
        rows = given["rows"]
        if "signals" in given:
            rows = rows + given["signals"].to(self.dtype) @ self.signal
        for name in FIELDS:
            rows = rows + F.embedding(given[name], self.tables[name])
        return rows


class User(nn.Module):
    """[B, D] of the user's features; without any, what all users share."""

    def __init__(self, user: UserEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.base = _parameter(user.base, dtype)
        tables = [table for table in user.tables if isinstance(table, nn.Embedding)]
        self.tables = nn.ParameterList(_parameter(table.weight, dtype) for table in tables)
        self.project = None if user.project is None else _linear(user.project.weight, None, dtype)

    def forward(self, given: dict[str, Tensor], batch: int) -> Tensor:
        """The vector of the inputs by name."""
        parts = []
        if "user_categorical" in given:
            codes = given["user_categorical"]
            parts += [F.embedding(codes[:, i], table) for i, table in enumerate(self.tables)]
        if "user_numeric" in given:
            known = given["user_known"].to(self.dtype)
            parts += [given["user_numeric"].to(self.dtype) * known, known]
        if self.project is None:
            return self.base.expand(batch, -1)
        user: Tensor = self.project(torch.cat(parts, dim=1)) + self.base
        return user


class Bias(nn.Module):
    """Bias and mask of every layer's logits: one look-up for all layers, by the days between.

    The tables are laid out by day up to the first that falls in the last bucket, and end with what
    a hidden key gets; so a pair of (query, key) needs one integer, whatever the layers and heads.
    """

    def __init__(self, layers: list[Layer], dtype: torch.dtype) -> None:
        super().__init__()
        self.heads, self.dtype = layers[0].heads, dtype
        tables = [
            torch.zeros(self.heads, DAY_BIAS_BUCKETS) if layer.day_bias is None else layer.day_bias
            for layer in layers
        ]
        bucket = torch.tensor([days.bit_length() for days in range(LAST_DAY + 1)])
        table = torch.cat([table.detach() for table in tables])[:, bucket]
        hidden = torch.full((len(table), 1), MASKED)
        self.table = _parameter(torch.cat([table, hidden], dim=1), dtype)  # [layers · H, days + 2]

    def forward(self, cut: Tensor, position: Tensor, days: Tensor | None) -> tuple[Tensor, ...]:
        """[B, H, Q, K] a layer but the last, and a place for the last.

        Args:
            cut: [B, Q] keys that each query sees.
            position: [K] of the keys, or [B, 1, 1, K] where sequences differ.
            days: [B, Q] of queries and keys alike; None without a day bias.
        """
        if days is None:
            return (self.mask(cut, position),) * (len(self.table) // self.heads)
        table = self.table[: -self.heads]
        if not len(table):
            return (cut,)
        biases = self.product(table, cut, position, days, days)
        return (*torch.split(biases, self.heads, dim=1), cut)

    def last(self, cut: Tensor, position: Tensor, days: Tensor | None, rows: Tensor) -> Tensor:
        """[B, H, R, K] of the last layer: queries at `rows` [B, R] alone, `cut` [B, R] theirs."""
        if days is None:
            return self.mask(cut, position)
        table = self.table[-self.heads :]
        return self.product(table, cut, position, days.gather(1, rows), days)

    def mask(self, cut: Tensor, position: Tensor) -> Tensor:
        """[B, 1, Q, K] of layers without a day bias."""
        return (position >= cut[:, None, :, None]).to(self.dtype) * MASKED

    def product(
        self, table: Tensor, cut: Tensor, position: Tensor, query_day: Tensor, key_day: Tensor
    ) -> Tensor:
        """[B, rows of `table`, Q, K] from days [B, Q] of queries and [B, K] of keys."""
        days = (query_day[:, :, None] - key_day[:, None, :]).clamp(0, LAST_DAY)
        hidden = (position >= cut[:, None, :, None]).squeeze(1)
        index = days.masked_fill(hidden, LAST_DAY + 1)  # [B, Q, K]
        biases = table.index_select(1, index.flatten()).view(table.shape[0], *index.shape)
        return biases.transpose(0, 1)


class Block(nn.Module):
    """One layer: attention over all rows, feed-forward; queries at all rows or at chosen ones."""

    def __init__(self, layer: Layer, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads, self.dtype = layer.heads, dtype
        d_model = layer.to_query.in_features
        scale = (d_model // layer.heads) ** -0.5
        self.norm_attention = Norm(layer.norm_attention, dtype)
        self.norm_feed = Norm(layer.norm_feed, dtype)
        to_query, both = layer.to_query, layer.to_key_value
        self.query = _linear(to_query.weight * scale, to_query.bias * scale, dtype)
        # Three products, not one: a compiler merges them where that helps, and cannot split one.
        self.key = _linear(both.weight[:d_model], both.bias[:d_model], dtype)
        self.value = _linear(both.weight[d_model:], both.bias[d_model:], dtype)
        self.out = _linear(layer.to_out.weight, layer.to_out.bias, dtype)
        self.feed_in = _linear(layer.feed_in.weight, layer.feed_in.bias, dtype)
        self.feed_out = _linear(layer.feed_out.weight, layer.feed_out.bias, dtype)

    def forward(self, states: Tensor, bias: Tensor, rows: Tensor | None = None) -> Tensor:
        """New states [B, Q, D] of all rows, or of `rows` [B, R]; bias [B, H or 1, Q, K]."""
        normed = self.norm_attention(states)
        key, value = self.key(normed), self.value(normed)
        if rows is not None:
            states, normed = _take(states, rows), _take(normed, rows)
        return self.attend(states, normed, key, value, bias)

    def attend(
        self, states: Tensor, normed: Tensor, key: Tensor, value: Tensor, bias: Tensor
    ) -> Tensor:
        """New states [B, Q, D] of queries at `normed` over keys and values [B, K, D]."""
        query, key, value = self.split(self.query(normed)), self.split(key), self.split(value)
        logits = (query @ key.transpose(2, 3)).float() + bias.float()
        weights = torch.softmax(logits, dim=-1).to(self.dtype)
        return self.feed(states, weights @ value)

    def feed(self, states: Tensor, attended: Tensor) -> Tensor:
        """What follows attention: `states` [B, Q, D] and the heads' results [B, H, Q, d]."""
        states = states + self.out(_join(attended))
        result: Tensor = states + self.feed_out(F.relu(self.feed_in(self.norm_feed(states))))
        return result

    def split(self, x: Tensor) -> Tensor:
        """[B, Q, D] to [B, H, Q, d]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Norm(nn.Module):
    """Layer norm in fp32, whatever the graph's dtype."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.eps = dtype, norm.eps
        self.weight = _parameter(norm.weight, torch.float32)
        self.bias = _parameter(norm.bias, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised over the last dimension, in the graph's dtype."""
        normed = F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.eps)
        return normed.to(self.dtype)


class PlainGraph(nn.Module):
    """What a straightforward export gives: the model as it is written, every layer full.

    It is the rival that the CPU runtime is measured against, never what is served.
    """

    def __init__(self, model: Stars, full: bool = True) -> None:
        """full: the last layer computes all rows too; False pools it as the model does."""
        super().__init__()
        self.inputs = graph_inputs(model)
        self.model = copy.deepcopy(model)
        if full:
            layers = self.model.encoder.layers
            layers[-1] = _Full(layers[-1])

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Both vectors; `tensors` are in the order of `self.inputs`."""
        given = dict(zip(self.inputs, tensors, strict=True))
        batch, length = given["rows"].shape[:2]
        wide = {name: x.long() for name, x in given.items() if not x.is_floating_point()}
        given |= wide
        for name, shape, dtype in (
            ("day", (batch, length), torch.int64),
            ("signals", (batch, length, 0), torch.float32),
            ("user_categorical", (batch, 0), torch.int64),
            ("user_numeric", (batch, 0), torch.float32),
            ("user_known", (batch, 0), torch.float32),
        ):
            given.setdefault(name, torch.zeros(shape, dtype=dtype))
        rows, ends = given.pop("rows"), given.pop("length")[:, None]
        h_next, h_gen = self.model.encode(rows, Events(**given), ends)
        return h_next[:, 0], h_gen[:, 0]


class _Full(nn.Module):
    """A layer that computes all rows and only then takes the ones asked for."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: Tensor, *rest: Tensor) -> Tensor:
        *others, rows = rest
        return _take(self.layer(states, *others), rows)


def _join(heads: Tensor) -> Tensor:
    """[B, H, Q, d] to [B, Q, D]."""
    n_queries = heads.shape[2]
    if isinstance(n_queries, int) and n_queries <= 2:
        # Row by row: with as many queries as heads, OpenVINO 2026.4 fuses the transposition into
        # attention in bf16 and writes wrong rows (engine.runtime.openvino checks for it).
        return torch.stack([heads[:, :, row].flatten(1) for row in range(n_queries)], dim=1)
    return heads.transpose(1, 2).flatten(2)


def _take(states: Tensor, rows: Tensor) -> Tensor:
    """[B, R, D] rows of [B, Q, D]."""
    return states.gather(1, rows[:, :, None].expand(-1, -1, states.shape[2]))


def _parameter(value: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(value.detach().to(dtype).clone(), requires_grad=False)


def _linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight = _parameter(weight, dtype)
    if bias is not None:
        linear.bias = _parameter(bias, dtype)
    return linear
