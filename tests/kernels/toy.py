"""Small kernels with known properties, to test what looks at kernels."""

import triton
import triton.language as tl


@triton.jit
def scale_rows(x_ptr, table_ptr, n_rows, n_columns, y_ptr, BLOCK: tl.constexpr):
    """y = x * table, row by row: reads x once, the table once a row, writes y once."""
    i_row = tl.program_id(0).to(tl.int64)
    o_column = tl.arange(0, BLOCK)
    m_column = o_column < n_columns
    b_x = tl.load(x_ptr + i_row * n_columns + o_column, mask=m_column, other=0.0)
    b_table = tl.load(table_ptr + o_column, mask=m_column, other=0.0)
    tl.store(y_ptr + i_row * n_columns + o_column, b_x * b_table, mask=m_column)


@triton.jit
def product(a_ptr, b_ptr, ids_ptr, c_ptr, N: tl.constexpr):
    """c = a[ids] @ b, one block of [N, N]."""
    o_n = tl.arange(0, N)
    i_row = tl.load(ids_ptr + o_n)
    b_a = tl.load(a_ptr + i_row[:, None] * N + o_n[None, :])
    b_b = tl.load(b_ptr + o_n[:, None] * N + o_n[None, :])
    tl.store(c_ptr + o_n[:, None] * N + o_n[None, :], tl.dot(b_a, b_b).to(tl.float16))


@triton.jit
def spilling(x_ptr, y_ptr, N: tl.constexpr):
    """y = x - sum(x): all of x is held until its sum is known, more than a warp's registers."""
    o_n = tl.arange(0, N)
    b_x = tl.load(x_ptr + o_n[:, None] * N + o_n[None, :])
    tl.store(y_ptr + o_n[:, None] * N + o_n[None, :], b_x - tl.sum(b_x))


@triton.jit
def in_place(x_ptr, y_ptr, N: tl.constexpr):
    """y += x."""
    o_n = tl.arange(0, N)
    tl.store(y_ptr + o_n, tl.load(x_ptr + o_n) + tl.load(y_ptr + o_n))


@triton.jit
def output_first(y_ptr, x_ptr, n, N: tl.constexpr):
    """y = x up to n."""
    o_n = tl.arange(0, N)
    tl.store(y_ptr + o_n, tl.load(x_ptr + o_n), mask=o_n < n)


@triton.jit
def times(x_ptr, factor, y_ptr, N: tl.constexpr):
    """y = x * factor."""
    o_n = tl.arange(0, N)
    tl.store(y_ptr + o_n, tl.load(x_ptr + o_n) * factor)
