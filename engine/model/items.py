"""Item tokens and candidates (engine/model/README.md, "Item token")."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.ops import Tags, pack_tags, tag_sums, unfolded_rows


@dataclass(frozen=True)
class ItemContent:
    """Frozen description of a catalogue.

    Attributes:
        text: [T, d_text] float32 unit embeddings of the distinct texts.
        text_index: [N] int64, row of `text` of each item.
        tag_ids: [nnz] int64; tag_offsets: [N + 1] int64: the tags of item i are
            tag_ids[tag_offsets[i] : tag_offsets[i + 1]].
        n_tags: size of the vocabulary.
    """

    text: Tensor
    text_index: Tensor
    tag_ids: Tensor
    tag_offsets: Tensor
    n_tags: int


class ItemEncoder(nn.Module):
    """v = [s ; a] with s = e + Δ and a = W_attr t; rows Proj(v), candidates W_item Proj(v)."""

    text: Tensor
    text_index: Tensor
    tag_bits: Tensor
    tag_ids: Tensor
    tag_offsets: Tensor
    text_mean: Tensor
    text_components: Tensor

    def __init__(self, config: ModelConfig, content: ItemContent) -> None:
        super().__init__()
        self._has_text = config.text
        mean, components = _principal_components(content.text, config.text_dim)
        self.register_buffer("text_mean", mean)
        self.register_buffer("text_components", components)
        # The content is the dataset's, not the model's: it stays out of the checkpoint.
        self.register_buffer("text", self.reduce(content.text), persistent=False)
        self.register_buffer("text_index", content.text_index, persistent=False)
        tags = pack_tags(content.tag_ids, content.tag_offsets, content.n_tags)
        for name, value in tags._asdict().items():
            self.register_buffer(f"tag_{name}", value, persistent=False)
        dim = components.shape[1]
        self.delta = nn.Parameter(torch.zeros(len(content.text_index), dim))
        self.tag_weight = nn.Parameter(torch.randn(content.n_tags, config.attribute_dim) * 0.1)
        if not config.tags:
            self.tag_weight.requires_grad_(False).zero_()
        self.attribute = (
            nn.Sequential(nn.ReLU(), nn.Linear(config.attribute_dim, config.attribute_dim))
            if config.attribute_mlp
            else nn.Identity()
        )
        self.project = nn.Linear(dim + config.attribute_dim, config.d_model)
        self.to_candidate = nn.Linear(config.d_model, config.d_serve, bias=False)

    @classmethod
    def stored(cls, config: ModelConfig, weights: Mapping[str, Tensor]) -> "ItemEncoder":
        """The encoder of items that training has not seen, from the weights of a bundle.

        Args:
            config: of the model.
            weights: of the trained encoder; what it knows of each item (Δ, tags) is left out.
        """
        n_tags, d_text = len(weights["tag_weight"]), len(weights["text_mean"])
        none = torch.zeros(1, dtype=torch.int64)
        content = ItemContent(
            torch.zeros(1, d_text), none, none[:0], torch.zeros(2, dtype=torch.int64), n_tags
        )
        encoder = cls(config, content)
        delta = {"delta": torch.zeros_like(encoder.delta)}
        names = encoder.state_dict()
        encoder.load_state_dict({k: v for k, v in weights.items() if k in names} | delta)
        return encoder.eval()

    def reduce(self, text: Tensor) -> Tensor:
        """e [n, d_e]: principal components of text [n, d_text], scaled to mean square 1; 0 without
        text in the configuration."""
        if not self._has_text:
            return text.new_zeros(len(text), self.text_components.shape[1])
        return (text - self.text_mean) @ self.text_components

    def rows(self, index: Tensor) -> Tensor:
        """Proj(v) [n, d_model] of the items `index` [n] int64.

        Training asks for distinct items: of one that stands there twice, Triton's kernels would
        give Δ the gradient of one place only.
        """
        tags = Tags(self.tag_bits, self.tag_ids, self.tag_offsets)
        return self._project(index, self.text, self.text_index, self.delta, tags)

    def project_rows(self, text: Tensor, delta: Tensor, tags: Tags) -> Tensor:
        """Proj(v) [n, d_model] from reduced text [n, d_e], Δ and tags: new items come this way."""
        index = torch.arange(len(text), device=text.device)
        return self._project(index, text, index, delta, tags)

    def _project(
        self, index: Tensor, text: Tensor, text_index: Tensor, delta: Tensor, tags: Tags
    ) -> Tensor:
        project = self.project
        if isinstance(self.attribute, nn.Identity):
            return unfolded_rows(
                index, text, text_index, delta, tags, self.tag_weight, project.weight, project.bias
            )
        # The second layer of the attributes stands between the sum of tags and the projection.
        attributes = self.attribute(tag_sums(index, tags, self.tag_weight))
        semantic = text[text_index[index]] + F.embedding(index, delta)
        projected: Tensor = project(torch.cat([semantic, attributes], dim=-1))
        return projected

    def candidates(self, rows: Tensor) -> Tensor:
        """c [n, d_serve] of the rows Proj(v) [n, d_model]."""
        candidate: Tensor = self.to_candidate(rows)
        return candidate


def _principal_components(text: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean [d_text] and scaled components [d_text, min(dim, d_text)] of text embeddings."""
    mean = text.mean(dim=0)
    centred = text - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    components = vectors.flip(1)[:, :dim]
    # The sign of an eigenvector is free; fixing it makes two builds agree.
    largest = components.gather(0, components.abs().argmax(dim=0, keepdim=True))
    components = components * torch.where(largest < 0, -1.0, 1.0)
    scale = (centred @ components).square().mean().sqrt().clamp(min=1e-6)
    return mean, components / scale
