"""What is known of an author besides ids: tags, a frozen text embedding, or the trained encoder.

Each gives h_CLS for rows of the anchors; only the encoder has an h_TAR, the others give zeros.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.data.text import Embedder

from .anchors import FIELDS
from .config import EncoderConfig
from .encoder import AnchorEncoder, Encoded, TokenTensors, mini_lm_vectors
from .tokens import fit_tokenizer

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Contents:
    """Anchors [A] in every form; those that no model reads may be empty."""

    tags: Tensor  # [A, 6] int64, 0 = rare or blank
    frozen: Tensor  # [A, d] float32, mean square 1
    tokens: TokenTensors
    sizes: tuple[int, int]  # of the base and the domain vocabulary
    vectors: F32 | None  # [tokens, d] to start the encoder from
    authors: int

    @classmethod
    def of(
        cls,
        anchors: pl.DataFrame,
        known: pl.DataFrame,
        authors: int,
        config: EncoderConfig,
        embedder: Embedder,
    ) -> "Contents":
        """All forms of `anchors`; vocabularies are those of `known`, as of the training part."""
        tokenizer = fit_tokenizer(known, config.units)
        tokens = TokenTensors.of(tokenizer.encode(anchors, config.max_tokens))
        vectors = mini_lm_vectors() if config.pretrained else None
        frozen = torch.from_numpy(embedder.embed(sentences(anchors)))
        scaled = frozen * frozen.shape[1] ** 0.5  # unit length to mean square 1
        return cls(tag_codes(anchors, known), scaled, tokens, tokenizer.sizes, vectors, authors)


def sentences(anchors: pl.DataFrame) -> list[str]:
    """The six fields as one text each, blank ones left out."""
    return [". ".join(text for text in row if text) for row in anchors.select(FIELDS).iter_rows()]


def tag_codes(anchors: pl.DataFrame, known: pl.DataFrame, min_count: int = 2) -> Tensor:
    """[A, 6] number of each field's text among those that `known` has twice or more, else 0."""
    columns = []
    for name in FIELDS:
        counts = known.filter(pl.col(name) != "")[name].value_counts()
        texts = counts.filter(pl.col("count") >= min_count)[name].sort().to_list()
        code = anchors[name].replace_strict(texts, range(1, len(texts) + 1), default=0)
        columns.append(code.to_numpy().astype(np.int64))
    return torch.from_numpy(np.stack(columns, 1))


class Tags(nn.Module):
    """h_CLS = W [embedding of each of the six fields]."""

    codes: Tensor

    def __init__(self, codes: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("codes", codes, persistent=False)
        sizes = (codes.amax(0) + 1).tolist() if len(codes) else [1] * len(FIELDS)
        self.tables = nn.ModuleList(nn.Embedding(size, 16) for size in sizes)
        for table in self.tables:
            nn.init.normal_(table.weight, std=0.25)  # type: ignore[arg-type]
        self.out = nn.Linear(16 * len(sizes), dim)

    def forward(self, anchor: Tensor, author: Tensor) -> Encoded:
        codes = self.codes[anchor]
        embedded = [table(codes[:, f]) for f, table in enumerate(self.tables)]
        cls = self.out(torch.cat(embedded, 1))
        return Encoded(cls, torch.zeros_like(cls))


class FrozenText(nn.Module):
    """h_CLS = W e + b, e a text embedding that stays as it is."""

    frozen: Tensor

    def __init__(self, frozen: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("frozen", frozen, persistent=False)
        self.out = nn.Linear(frozen.shape[1], dim)

    def forward(self, anchor: Tensor, author: Tensor) -> Encoded:
        cls = self.out(self.frozen[anchor])
        return Encoded(cls, torch.zeros_like(cls))


class EncodedText(nn.Module):
    """The anchor encoder over the stored tokens."""

    def __init__(self, config: EncoderConfig, contents: Contents) -> None:
        super().__init__()
        self.tokens = contents.tokens
        self.encoder = AnchorEncoder(config, *contents.sizes, contents.authors)
        if contents.vectors is not None:
            self.encoder.start_from(contents.vectors)

    def forward(self, anchor: Tensor, author: Tensor) -> Encoded:
        found: Encoded = self.encoder(self.tokens.at(anchor), author)
        return found
