"""Item rows in 8 bits: approximate scores of all of them, and how far each can be off."""

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from .index import norms

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
        # [3, width]: norm of the row, norm of what rounding took from it, magnitude of its bias.
        self._bounds = np.zeros((3, self.width), np.float32)
        self._bounds[2, :n_items] = np.abs(bias) + _TINY
        self._shards: list[tuple[slice, onnxruntime.InferenceSession]] = []
        step = max(1, _SHARD_BYTES // max(1, self.dim) // _WIDEST_BLOCK) * _WIDEST_BLOCK
        for start in range(0, self.width, step):
            place = slice(start, min(start + step, self.width))
            codes = self._round(candidates[place], place)
            self._shards.append((place, _session(codes, threads)))
        self._block_bounds: dict[int, NDArray[np.float32]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, scales and bounds."""
        return self.width * (self.dim + 4 + 12)

    def _round(self, rows: NDArray[np.float32], place: slice) -> NDArray[np.int8]:
        """Codes [D, places] of some rows, their scales and bounds stored."""
        items = slice(place.start, place.start + len(rows))
        self._scales[items] = np.maximum(np.abs(rows).max(axis=1) / ITEM_LIMIT, _TINY)
        scales = self._scales[items, None]
        codes = np.zeros((self.dim, place.stop - place.start), np.int8)
        rounded = np.rint(rows / scales).clip(-ITEM_LIMIT, ITEM_LIMIT)
        codes[:, : len(rows)] = rounded.T
        rounded *= scales
        self._bounds[0, items] = _up(norms(rows))
        self._bounds[1, items] = _up(norms(rows - rounded) + _EPS * self._bounds[0, items])
        return codes

    def scores(
        self, queries: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Approximate h·c [B, width] of finite queries [B, D], and coefficients of their margins.

        Returns:
            scores, without the bias, and coefficients [B, 3]: a margin is their product with an
            item's bounds.
        """
        scales = np.maximum(np.abs(queries).max(axis=1, keepdims=True) / QUERY_LIMIT, _TINY)
        rounded = np.rint(queries / scales).clip(-QUERY_LIMIT, QUERY_LIMIT)
        codes = (rounded + (QUERY_LIMIT + 1)).astype(np.uint8)
        scores = np.empty((len(queries), self.width), np.float32)
        for place, session in self._shards:
            (sums,) = session.run(None, {"queries": codes})
            np.multiply(
                sums, self._scales[place], out=scores[:, place], dtype=np.float32, casting="unsafe"
            )
        scores *= scales
        wide = queries.astype(np.float64)
        near = rounded.astype(np.float64) * scales
        own, kept, lost = (np.sqrt((x * x).sum(axis=1)) for x in (wide, near, wide - near))
        # fp32: D + 1 products summed by the exact scan; three roundings here; bias added in both.
        gamma = (self.dim + 16) * _EPS
        coefficients = np.stack(
            [lost + gamma * (own + kept), kept * (1 + gamma), np.full_like(own, gamma)], axis=1
        )
        return scores, coefficients

    def candidates(
        self, scores: NDArray[np.float32], coefficients: NDArray[np.float64], k: int
    ) -> Iterator[NDArray[np.int64]]:
        """Items of each row that its k best must be among, by what `scores` gave.

        Args:
            scores: [B, width], bias added, -inf where an item is not allowed.
            coefficients: [B, 3].
            k: at most a sixteenth of n_items.
        """
        size = _block_size(self.n_items, k)
        blocks = self.width // size
        best = scores.reshape(-1, size, blocks).max(axis=1)  # item i is in block i % blocks
        margins = coefficients @ self._of_blocks(size)
        # Each block holds an item that is at least this good: k blocks hold k items.
        low = np.partition(best - margins, blocks - k, axis=1)[:, blocks - k]
        is_open = best + margins >= low[:, None]
        places = blocks * np.arange(size)[:, None]
        for row in range(len(scores)):
            items = (places + np.flatnonzero(is_open[row])).ravel()
            found = scores[row, items]
            margin = coefficients[row] @ self._bounds[:, items]
            least = np.partition(found - margin, -k)[-k]
            yield items[(found + margin >= least) & (found > -np.inf)]

    def _of_blocks(self, size: int) -> NDArray[np.float32]:
        """The largest bounds [3, blocks] of the items of each block."""
        if size not in self._block_bounds:
            self._block_bounds[size] = self._bounds.reshape(3, size, -1).max(axis=1)
        return self._block_bounds[size]


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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
