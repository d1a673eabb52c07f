"""Host side of the unfolded kernels: configurations, outputs, grids."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.launch import Value, launch

from . import _triton
from .launch import allocate, tile


@dataclass(frozen=True)
class RowConfig:
    """Tiles of one shape class; README.md says why these.

    Attributes:
        block_n, block_v, block_e, block_d, warps, stages: of the forward: items, tags, columns of
            the text, columns of the rows.
        items_n, items_c, items_k, items_warps: gradient of the items: items, columns of v, columns
            of the rows.
        project_d, project_c, project_n, project_warps, project_splits: gradient of the projection:
            its rows and columns, items; parts of the items, whose sums are added afterwards.
        tags_v, tags_n, tags_splits: gradient of W_attr: tags, items; parts of the items.
    """

    block_n: int
    block_v: int
    block_e: int
    block_d: int
    warps: int
    stages: int
    items_n: int
    items_c: int
    items_k: int
    items_warps: int
    project_d: int
    project_c: int
    project_n: int
    project_warps: int
    project_splits: int
    tags_v: int
    tags_n: int
    tags_splits: int


# By the most columns D: the first class that D fits in.
CONFIGS = {
    128: RowConfig(32, 128, 128, 32, 4, 2, 32, 256, 32, 4, 64, 64, 32, 4, 32, 64, 64, 11),
    1 << 30: RowConfig(32, 128, 128, 64, 4, 2, 64, 256, 64, 8, 128, 128, 32, 8, 8, 64, 64, 11),
}


def config(d: int) -> RowConfig:
    """Configuration of rows with `d` columns."""
    return next(c for most, c in CONFIGS.items() if d <= most)


def unfolded(
    index: Tensor,
    text: Tensor,
    text_index: Tensor,
    delta: Tensor,
    tag_bits: Tensor,
    tag_weight: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Rows [n, D] of `dtype`, which is the type of the products too, by one launch."""
    n, (d, width), (n_tags, d_a) = len(index), project_weight.shape, tag_weight.shape
    d_e = width - d_a
    chosen = config(d)
    rows = allocate(text, n, d, dtype=dtype)
    arguments: dict[str, Value] = {
        "index_ptr": index.contiguous(),
        "text_ptr": text.contiguous(),
        "text_index_ptr": text_index.contiguous(),
        "delta_ptr": delta.contiguous(),
        "tag_bits_ptr": tag_bits.contiguous(),
        "tag_weight_ptr": tag_weight.contiguous(),
        "weight_ptr": project_weight.contiguous(),
        "bias_ptr": project_bias.contiguous(),
        "n_rows": n,
        "n_tags": n_tags,
        "n_words": tag_bits.shape[1],
        "rows_ptr": rows,
    }
    constants = {
        "D": d, "DE": d_e, "DA": d_a,
        "BLOCK_N": chosen.block_n, "BLOCK_V": chosen.block_v, "BLOCK_A": tile(d_a, 1 << 30, 16),
        "BLOCK_E": tile(d_e, chosen.block_e, 16), "BLOCK_D": tile(d, chosen.block_d, 16),
    }  # fmt: skip
    launch(
        _triton.unfolded_kernel, (-(-n // chosen.block_n),), arguments, constants,
        num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    return rows


def unfolded_backward(
    d_rows: Tensor,
    index: Tensor,
    text: Tensor,
    text_index: Tensor,
    delta: Tensor,
    tag_bits: Tensor,
    tag_weight: Tensor,
    project_weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of delta, tag_weight, project_weight and project_bias; products in d_rows' dtype.

    The whole of Δ gets a gradient, 0 for items that are not in `index`, as torch's own is.
    """
    d_rows, index = d_rows.contiguous(), index.contiguous()
    attributes = _attributes(index, tag_bits, tag_weight, d_rows.dtype)
    d_delta, d_attributes = _items_gradient(d_rows, index, project_weight, delta, tag_weight)
    d_weight = _projection_gradient(
        d_rows, index, text, text_index, delta, attributes, project_weight
    )
    d_tags = _tags_gradient(d_attributes, index, tag_bits, tag_weight)
    d_bias = d_rows.sum(dim=0, dtype=torch.float32).to(project_weight.dtype)
    return d_delta, d_tags, d_weight, d_bias


def _attributes(index: Tensor, tag_bits: Tensor, tag_weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Σ tag_weight of the items' tags, [n, d_a] of `dtype`."""
    n, (n_tags, d_a) = len(index), tag_weight.shape
    chosen = config(1 << 30)
    out = allocate(tag_weight, n, d_a, dtype=dtype)
    arguments: dict[str, Value] = {
        "index_ptr": index,
        "tag_bits_ptr": tag_bits.contiguous(),
        "tag_weight_ptr": tag_weight.contiguous(),
        "n_rows": n,
        "n_tags": n_tags,
        "n_words": tag_bits.shape[1],
        "attributes_ptr": out,
    }
    constants = {
        "DA": d_a, "BLOCK_N": chosen.block_n, "BLOCK_V": chosen.block_v,
        "BLOCK_A": tile(d_a, 1 << 30, 16),
    }  # fmt: skip
    launch(
        _triton.attributes_kernel, (-(-n // chosen.block_n),), arguments, constants,
        num_warps=chosen.warps, num_stages=chosen.stages,
    )  # fmt: skip
    return out


def _items_gradient(
    d_rows: Tensor, index: Tensor, project_weight: Tensor, delta: Tensor, tag_weight: Tensor
) -> tuple[Tensor, Tensor]:
    """d_rows @ W: gradients of delta [N, d_e], and of the attributes [n, d_a]."""
    (n, d), d_e, d_a = d_rows.shape, delta.shape[1], tag_weight.shape[1]
    chosen = config(d)
    block_c = tile(d_e + d_a, chosen.items_c, 16)
    d_delta = torch.zeros_like(delta, memory_format=torch.contiguous_format)
    d_attributes = allocate(d_rows, n, d_a)
    arguments: dict[str, Value] = {
        "gradient_ptr": d_rows,
        "index_ptr": index,
        "weight_ptr": project_weight.contiguous(),
        "n_rows": n,
        "delta_gradient_ptr": d_delta,
        "attribute_gradient_ptr": d_attributes,
    }
    constants = {
        "D": d, "DE": d_e, "DA": d_a,
        "BLOCK_N": chosen.items_n, "BLOCK_C": block_c, "BLOCK_K": tile(d, chosen.items_k, 16),
    }  # fmt: skip
    grid = (-(-(d_e + d_a) // block_c), -(-n // chosen.items_n))
    launch(
        _triton.items_gradient_kernel, grid, arguments, constants,
        num_warps=chosen.items_warps, num_stages=2,
    )  # fmt: skip
    return d_delta, d_attributes


def _projection_gradient(
    d_rows: Tensor,
    index: Tensor,
    text: Tensor,
    text_index: Tensor,
    delta: Tensor,
    attributes: Tensor,
    project_weight: Tensor,
) -> Tensor:
    """Gradient of project_weight [D, d_e + d_a]."""
    (n, d), d_e, d_a = d_rows.shape, delta.shape[1], attributes.shape[1]
    chosen = config(d)
    block_c = tile(d_e + d_a, chosen.project_c, 16)
    block_d = tile(d, chosen.project_d, 16)
    partial = allocate(d_rows, chosen.project_splits, d, d_e + d_a, dtype=torch.float32)
    arguments: dict[str, Value] = {
        "gradient_ptr": d_rows,
        "index_ptr": index,
        "text_ptr": text.contiguous(),
        "text_index_ptr": text_index.contiguous(),
        "delta_ptr": delta.contiguous(),
        "attributes_ptr": attributes,
        "n_rows": n,
        "n_split": _part(n, chosen.project_splits, chosen.project_n),
        "partial_ptr": partial,
    }
    constants = {
        "D": d, "DE": d_e, "DA": d_a,
        "BLOCK_N": chosen.project_n, "BLOCK_C": block_c, "BLOCK_D": block_d,
    }  # fmt: skip
    grid = (-(-(d_e + d_a) // block_c), -(-d // block_d), chosen.project_splits)
    launch(
        _triton.projection_gradient_kernel, grid, arguments, constants,
        num_warps=chosen.project_warps, num_stages=2,
    )  # fmt: skip
    return partial.sum(dim=0).to(project_weight.dtype)


def _tags_gradient(
    d_attributes: Tensor, index: Tensor, tag_bits: Tensor, tag_weight: Tensor
) -> Tensor:
    """Gradient of tag_weight [V, d_a]."""
    n, (n_tags, d_a) = len(index), tag_weight.shape
    chosen = config(1 << 30)
    partial = allocate(d_attributes, chosen.tags_splits, n_tags, d_a, dtype=torch.float32)
    arguments: dict[str, Value] = {
        "attribute_gradient_ptr": d_attributes,
        "index_ptr": index,
        "tag_bits_ptr": tag_bits.contiguous(),
        "n_rows": n,
        "n_tags": n_tags,
        "n_words": tag_bits.shape[1],
        "n_split": _part(n, chosen.tags_splits, chosen.tags_n),
        "partial_ptr": partial,
    }
    constants = {
        "DA": d_a, "BLOCK_N": chosen.tags_n,
        "BLOCK_V": chosen.tags_v, "BLOCK_A": tile(d_a, 1 << 30, 16),
    }  # fmt: skip
    launch(
        _triton.tags_gradient_kernel, (-(-n_tags // chosen.tags_v), chosen.tags_splits), arguments,
        constants, num_warps=4, num_stages=2,
    )  # fmt: skip
    return partial.sum(dim=0).to(tag_weight.dtype)


def _part(n: int, splits: int, block: int) -> int:
    """Items of a split: all but the last splits hold whole blocks."""
    return -(-n // (splits * block)) * block
