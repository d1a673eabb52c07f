"""Host side of attention's kernels: configurations, outputs, grids."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.launch import Value, launch

from . import _triton


@dataclass(frozen=True)
class Config:
    """Rows of queries and keys that a block holds at a time, and how it is compiled."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


# By the most queries that a sequence has: a read-out's few, an append's some, a whole window.
FORWARD = {
    16: Config(16, 32, 2, 3),
    64: Config(64, 64, 4, 2),
    None: Config(128, 64, 8, 2),
}
BACKWARD_QUERY = Config(64, 32, 4, 2)
BACKWARD_KEY = Config(32, 64, 4, 3)
BACKWARD_VALUE = Config(32, 64, 4, 2)


@dataclass(frozen=True)
class Arguments:
    """What every kernel of attention reads. Shapes as in the public function."""

    query: Tensor
    key: Tensor
    value: Tensor
    cut: Tensor
    bias_table: Tensor | None
    query_day: Tensor | None
    key_day: Tensor | None
    query_offsets: Tensor | None
    key_offsets: Tensor | None

    @property
    def n_batch(self) -> int:
        """Sequences."""
        for offsets in (self.query_offsets, self.key_offsets):
            if offsets is not None:
                return offsets.shape[0] - 1
        return self.query.shape[0]

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.query.shape[-2]

    def inputs(self) -> dict[str, Value]:
        """Pointers by the kernels' names."""
        return {
            "query_ptr": self.query,
            "key_ptr": self.key,
            "value_ptr": self.value,
            "cut_ptr": self.cut.contiguous(),
            "bias_table_ptr": _dense(self.bias_table),
            "query_day_ptr": _dense(self.query_day),
            "key_day_ptr": _dense(self.key_day),
            "query_offsets_ptr": _dense(self.query_offsets),
            "key_offsets_ptr": _dense(self.key_offsets),
        }

    def sizes(self) -> dict[str, Value]:
        """Sizes and strides by the kernels' names."""
        return {
            "n_batch": self.n_batch,
            "n_queries": 0 if self.query_offsets is not None else self.query.shape[1],
            "n_keys": 0 if self.key_offsets is not None else self.key.shape[1],
            "n_heads": self.heads,
            "n_rows": self.cut.numel(),
            **_strides("q", self.query),
            **_strides("k", self.key),
            **_strides("v", self.value),
        }

    def constants(self, config: Config) -> dict[str, int]:
        """Compile-time arguments."""
        d_a, d_b = split_head(self.query.shape[-1])
        return {
            "D_A": d_a,
            "D_B": d_b,
            "N_BUCKETS": 0 if self.bias_table is None else self.bias_table.shape[1],
            "BLOCK_M": config.block_m,
            "BLOCK_N": config.block_n,
        }

    def query_slots(self, block: int) -> int:
        """Grid slots for blocks of queries."""
        return _slots(self.query, self.query_offsets, block)

    def key_slots(self, block: int) -> int:
        """Grid slots for blocks of keys."""
        return _slots(self.key, self.key_offsets, block)


def split_head(d: int) -> tuple[int, int]:
    """The head dimension as two powers of two, the second 0 where one is enough."""
    first = 1 << (d.bit_length() - 1)
    return first, d - first


def supports_head(d: int) -> bool:
    """Whether `d` is one power of two or the sum of two, of 16 to 128, for tensor cores."""
    first, second = split_head(d) if d > 0 else (0, 0)
    parts = (first, second) if second else (first,)
    return d <= 128 and all(part >= 16 and part & (part - 1) == 0 for part in parts)


def forward(arguments: Arguments, max_queries: int | None, save: bool) -> tuple[Tensor, Tensor]:
    """Attention, and the logarithm to base 2 of each row's sum of exponentials.

    Args:
        max_queries: the most queries of a packed sequence, which picks the configuration.
        save: whether the second result is wanted.
    Returns:
        out like query, contiguous; logsumexp [H, rows] fp32, [H, 0] unless `save`.
    """
    query = arguments.query
    config = forward_config(query.shape[1] if query.dim() == 4 else max_queries)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    n_rows = arguments.cut.numel() if save else 0
    logsumexp = torch.empty(arguments.heads, n_rows, dtype=torch.float32, device=query.device)
    launch(
        _triton.attention_forward,
        (arguments.query_slots(config.block_m), arguments.heads),
        {
            **arguments.inputs(),
            **arguments.sizes(),
            "out_ptr": out,
            "logsumexp_ptr": logsumexp if save else None,
        },
        arguments.constants(config),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out, logsumexp


def forward_config(max_queries: int | None) -> Config:
    """The configuration for sequences of at most so many queries; None: of any length."""
    for most, config in FORWARD.items():
        if most is None or (max_queries is not None and max_queries <= most):
            return config
    raise AssertionError("the table ends with None")


def backward(
    arguments: Arguments, out: Tensor, grad_out: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and of the bias table ([0] without one).

    Queries come first and leave delta behind for the keys and values.
    """
    query, key, value, table = (
        arguments.query, arguments.key, arguments.value, arguments.bias_table,
    )  # fmt: skip
    inputs, sizes, device = arguments.inputs(), arguments.sizes(), query.device
    grad_out = grad_out.contiguous()
    grad_query, grad_key, grad_value = (
        torch.empty(x.shape, dtype=x.dtype, device=device) for x in (query, key, value)
    )
    delta = torch.empty(logsumexp.shape, dtype=torch.float32, device=device)
    slots = arguments.query_slots(BACKWARD_QUERY.block_m)
    n_buckets = 0 if table is None else table.shape[1]
    partial = torch.empty(slots, arguments.heads, n_buckets, dtype=torch.float32, device=device)
    launch(
        _triton.attention_backward_query,
        (slots, arguments.heads),
        {
            **inputs, "out_ptr": out, "grad_out_ptr": grad_out, "logsumexp_ptr": logsumexp,
            **sizes, "grad_query_ptr": grad_query, "delta_ptr": delta,
            "grad_bias_ptr": None if table is None else partial,
        },
        arguments.constants(BACKWARD_QUERY),
        num_warps=BACKWARD_QUERY.num_warps,
        num_stages=BACKWARD_QUERY.num_stages,
    )  # fmt: skip
    for config, grads in (
        (BACKWARD_KEY, {"grad_key_ptr": grad_key, "grad_value_ptr": None}),
        (BACKWARD_VALUE, {"grad_key_ptr": None, "grad_value_ptr": grad_value}),
    ):
        launch(
            _triton.attention_backward_key,
            (arguments.key_slots(config.block_n), arguments.heads),
            {
                **inputs, "grad_out_ptr": grad_out, "logsumexp_ptr": logsumexp,
                "delta_ptr": delta, **sizes, **grads,
            },
            arguments.constants(config),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
        )  # fmt: skip
    if table is None:
        return grad_query, grad_key, grad_value, delta.new_empty(0)
    # One block after the other, in the order of the grid: the same bits every time.
    return grad_query, grad_key, grad_value, partial.sum(dim=0).to(table.dtype)


def _dense(tensor: Tensor | None) -> Tensor | None:
    """Contiguous; these are small."""
    return None if tensor is None else tensor.contiguous()


def _strides(letter: str, tensor: Tensor) -> dict[str, Value]:
    """Strides of the batch (0 of a packed tensor), the rows and the heads."""
    *batch, row, head, _ = tensor.stride()
    return {
        f"stride_{letter}b": batch[0] if batch else 0,
        f"stride_{letter}t": row,
        f"stride_{letter}h": head,
    }


def _slots(tensor: Tensor, offsets: Tensor | None, block: int) -> int:
    """Grid slots: packed lengths are on the device, so each sequence may need one more."""
    if offsets is None:
        return tensor.shape[0] * -(-tensor.shape[1] // block)
    return tensor.shape[0] // block + offsets.shape[0] - 1
