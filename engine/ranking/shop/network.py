"""The fine ranker over what a bundle knows of a request and its candidates."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.ranking.wesing.ranker import Ranker

from .config import ShopRankerConfig
from .inputs import FEATURES


@dataclass(frozen=True)
class Shape:
    """Sizes that a bundle decides.

    Attributes:
        dim: of the vectors.
        codes: values of each of the user's categories, hour and weekday, with the unknown.
        profile: numbers of the user.
        subclasses: of the catalogue.
    """

    dim: int
    codes: tuple[int, ...]
    profile: int
    subclasses: int


class ShopRanker(nn.Module):
    """Logits [B, N, M] of `inputs.Inputs`, as tensors, without its names.

    Fields are h_next, h_gen and the profile of the request; vector, subclass and features of each
    candidate. A subclass that no item had in training is unknown.
    """

    profile_scale: Tensor
    feature_scale: Tensor

    def __init__(self, shape: Shape, config: ShopRankerConfig, objectives: tuple[str, ...]) -> None:
        super().__init__()
        self.shape, width = shape, config.embedding
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in shape.codes)
        self.subclass = nn.Embedding(shape.subclasses + 1, width)
        profile = width * len(shape.codes) + shape.profile
        dims = (shape.dim, shape.dim, profile, shape.dim, width, len(FEATURES))
        self.ranker = Ranker(config.ranker, dims, objectives)
        # [2, n]: mean and deviation.
        for name, size in (("profile_scale", shape.profile), ("feature_scale", len(FEATURES))):
            self.register_buffer(name, torch.stack([torch.zeros(size), torch.ones(size)]))
        for table in (*self.tables, self.subclass):
            nn.init.normal_(table.weight, std=width**-0.5)  # type: ignore[arg-type]

    def forward(
        self,
        vectors: Tensor,
        codes: Tensor,
        profile: Tensor,
        items: Tensor,
        subclass: Tensor,
        features: Tensor,
    ) -> Tensor:
        """Shapes and dtypes as of `inputs.Inputs`."""
        of_user = [table(codes[:, c]) for c, table in enumerate(self.tables)]
        of_user.append(_scaled(profile, self.profile_scale))
        known = torch.where(subclass < self.shape.subclasses, subclass + 1, 0)
        fields = [
            vectors[:, :1],
            vectors[:, 1:],
            torch.cat(of_user, 1)[:, None],
            items,
            self.subclass(known),
            _scaled(features, self.feature_scale),
        ]
        logits: Tensor = self.ranker(fields)
        return logits


class ProbabilityGraph(nn.Module):
    """What is exported: probabilities instead of logits."""

    def __init__(self, network: ShopRanker) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        """[B, N, M]; arguments as of `ShopRanker.forward`."""
        return torch.sigmoid(self.network(*inputs))


def _scaled(x: Tensor, scale: Tensor) -> Tensor:
    # What training has hardly seen is not let far out of its range.
    return F.hardtanh((x - scale[0]) / scale[1], -8.0, 8.0)
