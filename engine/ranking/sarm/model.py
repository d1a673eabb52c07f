"""The ranker with authors: y = MultiTask([h_CLS ; h_TAR ; h_UIN ; h_rank]).

MultiTask's first layer reads the concatenation, so what an author adds to it is one row of
`Ranker.content`, and serving keeps those rows instead of the vectors.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..features import Features, FieldEmbedding, concatenated
from ..wesing.experts import Experts
from .config import RankerConfig, SarmConfig
from .content import Contents, EncodedText, FrozenText, Tags
from .encoder import Encoded
from .stream import CLICK


class Given(NamedTuple):
    """Features of impressions, and what SARM adds to them."""

    numbers: Tensor  # [..., F]
    categories: Tensor  # [..., C]
    content: Tensor | None  # [..., H + r] rows of `Ranker.content`
    user: Tensor | None  # [..., H + r] of `Ranker.user`


class Ranker(nn.Module):
    """h_rank from features, products of two projections, and a multi-task head."""

    def __init__(
        self, config: RankerConfig, features: Features, author: int, content: int, user: int
    ) -> None:
        """`author`: the category that says whose an impression is; `content`, `user`: width of
        what is known of authors and of h_UIN, 0 for nothing."""
        super().__init__()
        h, r = config.hidden, config.cross
        self.widths = (h, r)
        self.fields = FieldEmbedding(features, config.field_dim)
        wide = sum(self.fields.dims)
        self.rank = nn.Sequential(nn.Linear(wide, h), nn.GELU(), nn.Linear(h, h))
        self.places = (features.categories.index("user_id"), author)
        self.taste, self.charm = (nn.Embedding(features.sizes[c], r) for c in self.places)
        for table in (self.taste, self.charm):
            nn.init.normal_(table.weight, std=0.1)
        self.described = nn.Linear(wide, 2 * r)  # what other features add to both
        nn.init.zeros_(self.described.weight)
        self.join = nn.Linear(r, h, bias=False)
        self.content = nn.Linear(content, h + r, bias=False) if content else None
        self.user = nn.Linear(user, h + r, bias=False) if user else None
        if self.user is not None:
            nn.init.zeros_(self.user.weight)
        tasks = len(features.objectives)
        self.experts = Experts(h, tasks, config.experts)
        self.tower = nn.Parameter(torch.randn(tasks, config.experts.width) * 0.1)
        # A factorisation machine beside the experts: its products reach each logit directly.
        self.affinity = nn.Linear(r, tasks)
        nn.init.normal_(self.affinity.weight)

    def forward(self, given: Given) -> Tensor:
        """Logits [..., M]; the parts of `given` broadcast in their leading dimensions."""
        h, r = self.widths
        x = concatenated(self.fields(given.numbers, given.categories))
        rank = self.rank(x)
        user, author = (given.categories[..., c] for c in self.places)
        of_user, of_author = self.described(x).split(r, -1)
        left, right = self.taste(user) + of_user, self.charm(author) + of_author
        if given.content is not None:
            rank, right = rank + given.content[..., :h], right + given.content[..., h:]
        if given.user is not None:
            rank, left = rank + given.user[..., :h], left + given.user[..., h:]
        product = left * right
        hidden = F.gelu(rank + self.join(product))
        found: Tensor = (self.experts(hidden) * self.tower).sum(-1) + self.affinity(product)
        return found


class UserSequence(nn.Module):
    """h_UIN = MeanPool(Transformer(h_CLS of the last m authors)), one layer, one head.

    A learned row always stands before the history, so that an empty one has a mean too.
    """

    def __init__(self, dim: int, m: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(dim) * 0.1)
        self.position = nn.Parameter(torch.zeros(m, dim))
        self.before, self.between = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        for part in (self.out.weight, self.down.weight, self.down.bias):
            nn.init.zeros_(part)  # it starts as the plain mean

    def forward(self, history: Tensor, known: Tensor) -> Tensor:
        """[R, D] of histories [R, m, D], the last click last; `known` [R, m] marks real rows."""
        first = self.start.expand(len(history), 1, -1)
        h = torch.cat([first, history + self.position[len(self.position) - history.shape[1] :]], 1)
        kept = F.pad(known, (1, 0), value=True)
        q, k, v = self.project(self.before(h)).chunk(3, -1)
        h = h + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=kept[:, None]))
        h = h + self.down(F.gelu(self.up(self.between(h))))
        weight = kept.to(h.dtype)
        return torch.einsum("rmd,rm->rd", h, weight) / weight.sum(1, keepdim=True)


class Sarm(nn.Module):
    """Content of authors, users' sequences and the ranker, as far as `config` has them."""

    def __init__(
        self, config: SarmConfig, features: Features, contents: Contents, author: int, rates: Tensor
    ) -> None:
        """`author`: the category that says whose an impression is; `rates` [M] of the objectives,
        what the first answers are.

        Raises ValueError for a part that its content cannot give."""
        super().__init__()
        kind, d = config.ranker.content, config.encoder.dim
        _check(config.ranker)
        self.config = config
        self.content: Tags | FrozenText | EncodedText | None = None
        if kind == "tags":
            self.content = Tags(contents.tags, d)
        elif kind == "frozen":
            self.content = FrozenText(contents.frozen, d)
        elif kind == "encoder":
            self.content = EncodedText(config.encoder, contents)
        self.dims = (0 if kind == "none" else d, d if config.ranker.identity else 0)
        self.null = nn.Parameter(torch.zeros(2, d))
        sequence = d if config.ranker.sequence else 0
        self.sequence = UserSequence(d, config.ranker.history) if sequence else None
        wide = sum(self.dims)
        self.ranker = Ranker(
            config.ranker, features, author, wide, d if config.ranker.sequence else 0
        )
        if self.ranker.content is not None:
            nn.init.zeros_(self.ranker.content.weight[:, d:])  # h_TAR starts unheard
        with torch.no_grad():
            self.ranker.affinity.bias.copy_(torch.logit(rates))
        self.click = features.objectives.index(CLICK)
        self.author_head = (
            nn.Sequential(nn.Linear(wide, 32), nn.GELU(), nn.Linear(32, 1))
            if config.ranker.auxiliary
            else None
        )

    def authors(self, anchor: Tensor, author: Tensor) -> Encoded:
        """Vectors of rows of the anchors [A], with gradient; the null vector where below 0."""
        assert self.content is not None
        known = (anchor >= 0).nonzero()[:, 0]
        found = self.content(anchor[known], author[known])
        cls, tar = (
            null.expand(len(anchor), -1).index_copy(0, known, part)
            for null, part in zip(self.null, found, strict=True)
        )
        return Encoded(cls, tar)

    def read(self, authors: Encoded) -> Tensor:
        """[..., 1 or 2 times D]: the parts that the ranker reads, one behind the other."""
        return torch.cat(authors, -1) if self.dims[1] else authors.cls

    def forward(
        self, numbers: Tensor, categories: Tensor, authors: Tensor | None, user: Tensor | None
    ) -> Tensor:
        """Logits [n, M] of features, `read` authors [n, ...] and h_UIN [n, D]."""
        ranker = self.ranker
        content = None if authors is None or ranker.content is None else ranker.content(authors)
        of_user = None if user is None or ranker.user is None else ranker.user(user)
        found: Tensor = ranker(Given(numbers, categories, content, of_user))
        return found

    def loss(self, logits: Tensor, labels: Tensor, authors: Tensor | None) -> Tensor:
        """Σ_m BCE + λ BCE(click, σ(MLP[h_CLS ; h_TAR])), means over the impressions."""
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(0).sum()
        if self.author_head is None or authors is None:
            return loss
        alone = self.author_head(authors)[:, 0]
        auxiliary = F.binary_cross_entropy_with_logits(alone, labels[:, self.click])
        return loss + self.config.ranker.auxiliary * auxiliary


def _check(config: RankerConfig) -> None:
    if config.identity and config.content != "encoder":
        raise ValueError(f"sarm: identity: expected content encoder, got {config.content}")
    if config.content == "none" and (config.sequence or config.auxiliary):
        raise ValueError("sarm: content none: expected no sequence and auxiliary 0, got others")
