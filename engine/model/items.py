"""Item tokens and candidates (engine/model/README.md, "Item token")."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import ModelConfig
from engine.ops import unfolded_rows


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
    tag_ids: Tensor
    tag_offsets: Tensor
    text_mean: Tensor
    text_components: Tensor

    def __init__(self, config: ModelConfig, content: ItemContent) -> None:
        super().__init__()
        mean, components = _principal_components(content.text, config.text_dim)
        self.register_buffer("text_mean", mean)
        self.register_buffer("text_components", components)
        # The content is the dataset's, not the model's: it stays out of the checkpoint.
        self.register_buffer("text", self.reduce(content.text), persistent=False)
        for name in ("text_index", "tag_ids", "tag_offsets"):
            self.register_buffer(name, getattr(content, name), persistent=False)
        dim = components.shape[1]
        self.delta = nn.Parameter(torch.zeros(len(content.text_index), dim))
        self.tag_weight = nn.Parameter(torch.randn(content.n_tags, config.attribute_dim) * 0.1)
        self.attribute = (
            nn.Sequential(nn.ReLU(), nn.Linear(config.attribute_dim, config.attribute_dim))
            if config.attribute_mlp
            else nn.Identity()
        )
        self.project = nn.Linear(dim + config.attribute_dim, config.d_model)
        self.to_candidate = nn.Linear(config.d_model, config.d_serve, bias=False)

    def reduce(self, text: Tensor) -> Tensor:
        """e [n, d_e]: principal components of text [n, d_text], scaled to mean square 1."""
        return (text - self.text_mean) @ self.text_components

    def rows(self, index: Tensor) -> Tensor:
        """Proj(v) [n, d_model] of the items `index` [n] int64."""
        starts, ends = self.tag_offsets[index], self.tag_offsets[index + 1]
        counts = ends - starts
        offsets = counts.cumsum(0) - counts
        position = torch.arange(int(counts.sum()), device=index.device)
        position = position + torch.repeat_interleave(starts - offsets, counts)
        text = self.text[self.text_index[index]]
        return self.project_rows(
            text, F.embedding(index, self.delta), self.tag_ids[position], offsets
        )

    def project_rows(
        self, text: Tensor, delta: Tensor, tag_ids: Tensor, tag_offsets: Tensor
    ) -> Tensor:
        """Proj(v) [n, d_model] from reduced text [n, d_e], Δ and tags: new items come this way."""
        v = unfolded_rows(text, delta, tag_ids, tag_offsets, self.tag_weight)
        attributes = self.attribute(v[:, text.shape[1] :])
        projected: Tensor = self.project(torch.cat([v[:, : text.shape[1]], attributes], dim=-1))
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
