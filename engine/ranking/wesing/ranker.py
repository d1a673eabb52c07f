"""The fine ranker: crosses of fields, experts, one tower a task, conversions along a tree."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.ranking.auc import F64
from engine.ranking.data.impressions import Impressions
from engine.ranking.features import Features, FieldEmbedding, concatenated, fit

from .config import RankerConfig, TrainConfig
from .esmm import ConversionTree
from .experts import Experts
from .kfm import KFM
from .steps import Steps

_AT_ONCE = 8192  # impressions scored


class Ranker(nn.Module):
    """Fields to one logit an objective; σ of it is the probability over all impressions."""

    def __init__(
        self, config: RankerConfig, dims: Sequence[int], objectives: Sequence[str]
    ) -> None:
        """For fields of lengths `dims`.

        Raises:
            ValueError: lengths that `KFM` refuses.
            ConfigError: parents that are no tree of the objectives.
        """
        super().__init__()
        self.config, self.dims, self.objectives = config, tuple(dims), tuple(objectives)
        tasks, width = len(self.objectives), config.experts.width
        crossed = config.interaction != "none"
        self.kfm = KFM(dims, kernel=config.interaction == "kfm") if crossed else None
        self.experts = Experts(n_inputs(config, dims), tasks, config.experts)
        self.tower_in = nn.Parameter(torch.randn(tasks, width, config.tower) * (2 / width) ** 0.5)
        self.tower_bias = nn.Parameter(torch.zeros(tasks, config.tower))
        self.tower_out = nn.Parameter(torch.randn(tasks, config.tower) / config.tower**0.5)
        self.prior = nn.Parameter(torch.zeros(tasks))
        self.tree = ConversionTree(objectives, config.parents)

    def forward(self, fields: Sequence[Tensor]) -> Tensor:
        """[..., M] logits.

        Args:
            fields: [..., d_f] each, of leading dimensions that broadcast: [B, 1, d] of a request
                beside [B, N, d] of its candidates.
        """
        x = concatenated(fields)
        if self.kfm is not None:
            crosses = self.kfm(fields)
            x = torch.cat(
                [x, crosses.pairs if self.config.crosses == "pairs" else crosses.total], -1
            )
        x = F.dropout(x, self.config.dropout, self.training)
        read = self.experts(x)  # [..., M, width]
        hidden = F.relu(torch.einsum("...mw,mwt->...mt", read, self.tower_in) + self.tower_bias)
        logits: Tensor = self.tree((hidden * self.tower_out).sum(-1) + self.prior)
        return logits

    def kept(self) -> set[nn.Parameter]:
        """Parameters that weight decay leaves alone: kernels, which start at I, and biases."""
        return {
            p
            for name, p in self.named_parameters()
            if name.startswith("kfm.") or name.endswith(("bias", "prior"))
        }

    def shared(self) -> list[nn.Parameter]:
        """Parameters that several tasks move."""
        own = {id(p) for p in self.towers()}
        return [p for p in self.parameters() if id(p) not in own and p.requires_grad]

    def towers(self) -> list[nn.Parameter]:
        """Parameters of one task each."""
        return [self.tower_in, self.tower_bias, self.tower_out, self.prior]


def n_inputs(config: RankerConfig, dims: Sequence[int]) -> int:
    """How many numbers the experts read."""
    pairs = len(dims) * (len(dims) - 1) // 2
    crosses = {"pairs": pairs, "sum": 1}[config.crosses]
    return sum(dims) + (crosses if config.interaction != "none" else 0)


@dataclass(frozen=True)
class TrainedRanker:
    """Features, their embedding and the ranker on top."""

    features: Features
    embedding: FieldEmbedding
    ranker: Ranker

    @torch.no_grad()
    def __call__(self, asked: Impressions) -> F64:
        """Probabilities, [n, M], in the order of the objectives."""
        inputs = self.features.read(asked)
        self.ranker.eval()
        found = [
            torch.sigmoid(self.ranker(self.embedding(numbers, categories)).double())
            for numbers, categories in zip(*(torch.split(x, _AT_ONCE) for x in inputs), strict=True)
        ]
        probabilities: F64 = torch.cat(found).numpy()
        return probabilities


def train_ranker(log: Impressions, config: TrainConfig | None = None) -> TrainedRanker:
    """The ranker after `epochs` over the impressions in any order, by AdamW.

    The same seed gives the same weights on one machine.

    Raises:
        DataError: columns that `engine.ranking.features.fit` refuses.
        ConfigError: parents that are no tree of the objectives.
        ValueError: a positive whose parent is none, an objective of one class.
    """
    config = config or TrainConfig()
    torch.manual_seed(config.seed)
    features = fit(log, config.features)
    embedding = FieldEmbedding(features, config.dim, join=config.join, equal=config.equal_fields)
    ranker = Ranker(config.ranker, embedding.dims, log.objectives)
    ranker.tree.check(log.labels)
    inputs, labels = features.read(log), features.labels(log)
    start_at_rates(ranker, labels)
    steps = Steps(
        ranker, embedding.parameters(), config.gradients,
        config.epochs * -(-len(labels) // config.batch),
        lr=config.lr, weight_decay=config.weight_decay,
    )  # fmt: skip
    ranker.train()
    for _ in range(config.epochs):
        for rows in torch.split(torch.randperm(len(labels)), config.batch):
            steps.take(ranker(embedding(*inputs.at(rows))), labels[rows])
    return TrainedRanker(features, embedding, ranker.eval())


@torch.no_grad()
def start_at_rates(ranker: Ranker, labels: Tensor) -> None:
    """Each tower's bias at the log-odds of its objective in labels [n, M], given its parent.

    Raises:
        ValueError: an objective of one class.
    """
    rate = labels.mean(0)
    for m, name in enumerate(ranker.objectives):
        if not 0 < rate[m] < 1:
            raise ValueError(f"train_ranker: {name}: expected both classes, got one")
        parent = ranker.tree.parent[m]
        # A child as frequent as its parent has no finite log-odds; half a row is less.
        given = (len(labels) if parent is None else labels[:, parent].sum()) + 0.5
        ranker.prior[m] = torch.logit(labels[:, m].sum() / given)
