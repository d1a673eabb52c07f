"""Item rows in 8 bits: approximate scores of all of them, and how far each can be off."""

import threading

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from engine.runtime.onnx_cpu import session_options

from .index import in_parts, norms

# Queries get 7 bits: sums of two products then fit the 16 bits in which processors without VNNI
# add them, so that sums are exact on each.
QUERY_LIMIT, ITEM_LIMIT = 63, 127
_SHARD_BYTES = 2**28
_WIDEST_BLOCK = 256
_EPS = 2.0**-23  # twice the largest relative error of one fp32 rounding
_TINY = np.float32(1e-30)  # scales and margins stay clear of the subnormal numbers


class Codes:
    """Rows of whole numbers with a scale each: c = s·ĉ + e, h = t·ĥ + d, both rounded.

    h·c - (t·ĥ)·(s·ĉ) = d·c + (t·ĥ)·e, so by Cauchy and Schwarz an approximate score is off by at
    most ‖d‖·‖c‖ + ‖t·ĥ‖·‖e‖, plus what fp32 rounds in it and in the exact score. The products are
    ONNX Runtime's MatMulInteger, exact in 32 bits.
    """

    def __init__(
        self, candidates: NDArray[np.float32], bias: NDArray[np.float32], threads: int
    ) -> None:
        """Rounds candidates [N, D] float32; bias [N] float32 only enters the bounds."""
        n_items, self.dim = candidates.shape
        self.n_items = n_items
        self.width = -(-n_items // _WIDEST_BLOCK) * _WIDEST_BLOCK
        """Scores of a query: n_items, and places without an item up to a whole block."""
        self._scales = np.full(self.width, _TINY, np.float32)
        # [width, 3]: norm of the row, norm of what rounding took from it, magnitude of its bias.
        self._bounds = np.zeros((self.width, 3), np.float32)
        self._bounds[:n_items, 2] = np.abs(bias) + _TINY
        self._scratch = _Scratch()
        # fp32: D + 1 products summed by the exact scan; conversion, scales, bias and margin here.
        self._gamma = (self.dim + 16) * _EPS
        # Lengths of h, t·ĥ and d to the coefficients of ‖c‖ and ‖e‖.
        self._weights = np.array([[self._gamma, 0], [self._gamma, 1 + self._gamma], [1, 0]])
        self._shards: list[tuple[slice, onnxruntime.InferenceSession]] = []
        step = max(1, _SHARD_BYTES // max(1, self.dim) // _WIDEST_BLOCK) * _WIDEST_BLOCK
        for start in range(0, self.width, step):
            place = slice(start, min(start + step, self.width))
            codes = self._round(candidates, place)
            self._shards.append((place, _session(codes, threads)))
        self._block_bounds: dict[int, NDArray[np.float32]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, scales and bounds."""
        return self.width * (self.dim + 4 + 12)

    def _round(self, candidates: NDArray[np.float32], place: slice) -> NDArray[np.int8]:
        """Codes [D, places] of the rows in `place`, their scales and bounds stored."""
        codes = np.zeros((self.dim, place.stop - place.start), np.int8)
        for part in in_parts(min(place.stop, self.n_items) - place.start):
            items = slice(place.start + part.start, place.start + part.stop)
            rows = candidates[items]
            self._scales[items] = np.maximum(np.abs(rows).max(axis=1) / ITEM_LIMIT, _TINY)
            scales = self._scales[items, None]
            rounded = np.rint(rows / scales)
            codes[:, part] = rounded.astype(np.int8).T
            rounded *= scales
            self._bounds[items, 0] = _up(norms(rows))
            self._bounds[items, 1] = _up(norms(rows - rounded) + _EPS * self._bounds[items, 0])
        return codes

    def scores(
        self, queries: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Approximate h·c [B, width] of finite queries [B, D], and coefficients of their margins.

        Returns:
            scores, without the bias, overwritten by the thread's next call; and coefficients
            [B, 3]: a margin is their product with an item's bounds.
        """
        scales = np.maximum(np.abs(queries).max(axis=1, keepdims=True) / QUERY_LIMIT, _TINY)
        rounded = np.rint(queries / scales)
        codes = (rounded + (QUERY_LIMIT + 1)).astype(np.uint8)
        scores = self._scratch.rows(len(queries), self.width)
        for place, session in self._shards:
            (sums,) = session.run(None, {"queries": codes})
            np.copyto(scores[:, place], sums, casting="unsafe")  # faster than to convert inside *
        scores *= self._scales
        scores *= scales
        parts = np.empty((3, *queries.shape))  # h, t·ĥ and what the codes lost
        parts[0] = queries
        np.multiply(rounded, scales, out=parts[1])
        np.subtract(parts[0], parts[1], out=parts[2])
        lengths = np.sqrt(np.einsum("pbd,pbd->bp", parts, parts))
        coefficients = np.full((len(queries), 3), self._gamma, np.float32)
        coefficients[:, :2] = lengths @ self._weights
        return scores, coefficients

    def best_of_blocks(
        self, scores: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The highest score of each block, [B, blocks], and the best items, [B, k], of k blocks.

        Args:
            scores: [B, width], contiguous, bias added, -inf where an item is not allowed.
            k: at most a sixteenth of n_items.
        """
        size = _block_size(self.n_items, k)
        blocks = self.width // size
        best = scores.reshape(-1, size, blocks).max(axis=1)  # item i is in block i % blocks
        chosen = best.argpartition(blocks - k, axis=1)[:, blocks - k :]
        starts = chosen + self.width * np.arange(len(scores))[:, None]
        within = _gather(scores, starts, size, blocks).argmax(axis=2)
        return best, within * blocks + chosen

    def candidates(
        self,
        scores: NDArray[np.float32],
        coefficients: NDArray[np.float32],
        best: NDArray[np.float32],
        least: NDArray[np.float32],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Allowed items whose exact score can reach `least` [B] of their row, by their margins.

        Returns:
            The row of each, ascending, and the item.
        """
        blocks = best.shape[1]
        # What an approximate score must be at least, by the block's and then by the item's bounds.
        floor = least[:, None] - coefficients @ self._of_blocks(blocks).T
        row, block = np.nonzero(best >= floor)
        found = _gather(scores, block + self.width * row, self.width // blocks, blocks)
        place, within = np.nonzero((found >= floor[row, block, None]) & (found > -np.inf))
        row, item = row[place], within * blocks + block[place]
        margins = np.einsum("ij,ij->i", self._bounds.take(item, axis=0), coefficients[row])
        reaches = found[place, within] + margins >= least[row]
        return row[reaches], item[reaches]

    def _of_blocks(self, blocks: int) -> NDArray[np.float32]:
        """The largest bounds [blocks, 3] of the items of each block."""
        if blocks not in self._block_bounds:
            self._block_bounds[blocks] = self._bounds.reshape(-1, blocks, 3).max(axis=0)
        return self._block_bounds[blocks]


class _Scratch(threading.local):
    """Memory for a thread's scores: fresh pages cost a quarter of a scan."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.float32)

    def rows(self, n: int, width: int) -> NDArray[np.float32]:
        """[n, width] float32 of any content."""
        if self._memory.size < n * width:
            self._memory = np.empty(n * width, np.float32)
        return self._memory[: n * width].reshape(n, width)


def _gather(
    scores: NDArray[np.float32], starts: NDArray[np.int64], size: int, step: int
) -> NDArray[np.float32]:
    """`size` scores [..., size] from each place [...] on, `step` apart."""
    return scores.reshape(-1).take(starts[..., None] + step * np.arange(size))


def _block_size(n_items: int, k: int) -> int:
    """Items in a block, a power of two: about as many blocks to look at as items in the open k."""
    return min(_WIDEST_BLOCK, 1 << max(0, ((n_items // k).bit_length() - 1) // 2))


def _up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Never below `values`, after all roundings in them."""
    return (values * (1 + 1e-6)).astype(np.float32)


def _session(codes: NDArray[np.int8], threads: int) -> onnxruntime.InferenceSession:
    """queries [B, D] uint8, shifted, to whole sums [B, n] int32 over codes [D, n]."""
    shift = np.array(QUERY_LIMIT + 1, np.uint8)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["queries", "codes", "shift"], ["sums"])],
        "scan",
        [onnx.helper.make_tensor_value_info("queries", onnx.TensorProto.UINT8, ["B", len(codes)])],
        [onnx.helper.make_tensor_value_info("sums", onnx.TensorProto.INT32, ["B", codes.shape[1]])],
        [
            onnx.numpy_helper.from_array(codes, "codes"),
            onnx.numpy_helper.from_array(shift, "shift"),
        ],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9
    )
    return onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(threads), providers=["CPUExecutionProvider"]
    )
