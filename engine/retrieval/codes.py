"""Item rows in 8 bits: the scan that finds which of them can be among the best."""

import threading

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from engine.compiled import compiled
from engine.runtime.onnx_cpu import session_options

from .index import in_parts, norms
from .mask import is_allowed

Floats = NDArray[np.float32]
# Queries get 7 bits: sums of two products then fit the 16 bits in which processors without VNNI
# add them, so that sums are exact on each.
QUERY_LIMIT, ITEM_LIMIT = 63, 127
_SHARD_BYTES = 2**28
CHUNK = 64  # items that are looked at one by one only if one of them can be among the best
_EPS = 2.0**-23  # twice the largest relative error of one fp32 rounding
_TINY = np.float32(1e-30)  # scales and margins stay clear of the subnormal numbers
_LEAST_ROOM = 256
MANY_CANDIDATES = 1 / 4  # more candidates than this share of the catalogue are scanned in fp32
_SUMS = ["sums"]


class Codes:
    """Rows of whole numbers with a scale each: c = s·ĉ + e, h = t·ĥ + d, both rounded.

    h·c - (t·ĥ)·(s·ĉ) = d·c + (t·ĥ)·e, so by Cauchy and Schwarz an approximate score is off by at
    most ‖d‖·‖c‖ + ‖t·ĥ‖·‖e‖, plus what fp32 rounds in it and in the exact score. The products are
    ONNX Runtime's MatMulInteger, exact in 32 bits.
    """

    def __init__(
        self, candidates: NDArray[np.float32], bias: NDArray[np.float32], threads: int
    ) -> None:
        """Rounds candidates [N, D] float32; bias [N] float32 is added to the scores as it is."""
        n_items, self.dim = candidates.shape
        self.n_items = n_items
        self.width = -(-n_items // CHUNK) * CHUNK
        """Scores of a query: n_items, and -inf up to a whole chunk."""
        self._bias = np.full(self.width, -np.inf, np.float32)
        self._bias[:n_items] = bias
        self._scales = np.full(self.width, _TINY, np.float32)
        # [width, 3]: norm of the row, norm of what rounding took from it, magnitude of its bias.
        self._bounds = np.zeros((self.width, 3), np.float32)
        self._bounds[:n_items, 2] = np.abs(bias) + _TINY
        # fp32: D + 1 products summed by the exact scan; conversion, scales, bias and margin here.
        self._gamma = (self.dim + 16) * _EPS
        self._scratch = _Scratch()
        self._shards: list[tuple[slice, onnxruntime.InferenceSession]] = []
        step = max(1, _SHARD_BYTES // max(1, self.dim) // CHUNK) * CHUNK
        for start in range(0, self.width, step):
            place = slice(start, min(start + step, self.width))
            codes = self._round(candidates, place)
            self._shards.append((place, _session(codes, threads)))
        self._of_chunks = self._bounds.reshape(-1, CHUNK, 3).max(axis=1)

    @property
    def nbytes(self) -> int:
        """Bytes of the codes, scales, bounds and bias."""
        return self.width * (self.dim + 4 + 12 + 4)

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

    def candidates(
        self, queries: NDArray[np.float32], words: NDArray[np.int32] | None, k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], bool]:
        """The items that can be among the k best: no k others are surely better.

        Args:
            queries: [B, D] float32, finite.
            words: [B, ceil(N / 32)] masks, see `engine.retrieval.mask`; None allows every item.
            k: at least 1.
        Returns:
            Items [B, n] of each row, ascending, -1 behind them; [B] which rows have too many, and
            whether any has.
        """
        codes, scales, coefficients = self.quantised(queries)
        sums = self._sums(codes)
        tables = self._scales, self._bias, self._bounds, self._of_chunks
        most = max(k, int(MANY_CANDIDATES * self.n_items))
        return _select_all(sums, scales, coefficients, tables, words, k, most)

    def quantised(
        self, queries: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float64]]:
        """Codes [B, D], shifted, scales t [B] and coefficients [B, 3] of the queries' margins.

        A margin is their product with an item's bounds: ‖d‖ and what fp32 rounds for ‖c‖, ‖t·ĥ‖ for
        ‖e‖, what fp32 rounds for |b|.
        """
        return _quantise(queries, self._gamma)

    def _sums(self, codes: NDArray[np.uint8]) -> NDArray[np.int32]:
        """ĥ·ĉ [B, width]; of several shards in memory that the thread's next call takes."""
        if len(self._shards) == 1:
            found: NDArray[np.int32] = self._shards[0][1].run(_SUMS, {"queries": codes})[0]
            return found
        found = self._scratch.rows(len(codes), self.width)
        for place, session in self._shards:
            (found[:, place],) = session.run(_SUMS, {"queries": codes})
        return found


@compiled
def _quantise(
    queries: NDArray[np.float32], gamma: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float64]]:
    """What `Codes.quantised` returns."""
    codes = np.empty(queries.shape, np.uint8)
    scales = np.empty(len(queries), np.float32)
    coefficients = np.empty((len(queries), 3))
    for row in range(len(queries)):
        largest = np.float32(0)
        for value in queries[row]:
            largest = max(largest, abs(value))
        scale = max(largest / np.float32(QUERY_LIMIT), _TINY)
        whole = kept = lost = np.float64(0)  # squares of ‖h‖, ‖t·ĥ‖ and ‖d‖
        for place in range(queries.shape[1]):
            value = np.float64(queries[row, place])
            code = np.rint(value / scale)
            codes[row, place] = np.uint8(code + (QUERY_LIMIT + 1))
            rounded = code * scale
            whole += value * value
            kept += rounded * rounded
            lost += (value - rounded) * (value - rounded)
        scales[row] = scale
        coefficients[row, 0] = gamma * (np.sqrt(whole) + np.sqrt(kept)) + np.sqrt(lost)
        coefficients[row, 1] = (1 + gamma) * np.sqrt(kept)
        coefficients[row, 2] = gamma
    return codes, scales, coefficients


@compiled
def _select_all(
    sums: NDArray[np.int32],
    units: NDArray[np.float32],
    coefficients: NDArray[np.float64],
    tables: tuple[Floats, Floats, Floats, Floats],
    words: NDArray[np.int32] | None,
    k: int,
    most: int,
) -> tuple[NDArray[np.int64], NDArray[np.bool_], bool]:
    """What `Codes.candidates` returns: `_select` for every query, with little room at first."""
    mask = np.empty(0, np.int32)
    counts = np.full(len(sums), -1)
    room = min(max(_LEAST_ROOM, 2 * k), most)
    while True:
        items = np.empty((len(sums), room), np.int64)
        for row in range(len(sums)):
            if words is not None:
                mask = words[row]
            counts[row] = _select(
                sums[row], units[row], coefficients[row], *tables, mask, k, items[row]
            )
            items[row, max(counts[row], 0) :] = -1
        given_up = counts < 0
        if room == most or not given_up.any():
            return items[:, : max(counts.max(), 1)].copy(), given_up, bool(given_up.any())
        room = most


@compiled
def _select(
    sums: NDArray[np.int32],
    unit: np.float32,
    coefficients: NDArray[np.float64],
    scales: NDArray[np.float32],
    bias: NDArray[np.float32],
    bounds: NDArray[np.float32],
    of_chunks: NDArray[np.float32],
    words: NDArray[np.int32],
    k: int,
    items: NDArray[np.int64],
) -> int:
    """Puts the items that can be among a query's k best into `items` [room]; how many, or -1.

    One pass: the k highest lower bounds so far are kept as a heap, and whatever has an upper bound
    below the least of them is out. Chunks without a score near it are not looked into, so neither
    the mask nor the margins of most items are read. No `words` allow every item; -1 tells that
    there is not room enough.
    """
    room = len(items)
    highest = np.full(k, -np.inf)  # a heap, its root the least
    uppers = np.empty(room, np.float64)
    by_norm, by_lost, by_bias = coefficients
    n = 0
    for chunk in range(len(of_chunks)):
        start = chunk * CHUNK
        part = slice(start, start + CHUNK)
        margin = by_norm * of_chunks[chunk, 0] + by_lost * of_chunks[chunk, 1]
        near = highest[0] - (margin + by_bias * of_chunks[chunk, 2])
        near -= 1e-6 * abs(near)  # as float32 it is still not above
        if not _any_near(sums[part], scales[part], bias[part], unit, np.float32(near)):
            continue
        for i in range(start, start + CHUNK):
            score = np.float64(np.float32(sums[i]) * scales[i] * unit + bias[i])
            if score < near or bias[i] == -np.inf:
                continue
            if len(words) and not is_allowed(words, i):
                continue
            margin = by_norm * bounds[i, 0] + by_lost * bounds[i, 1] + by_bias * bounds[i, 2]
            if score + margin < highest[0]:
                continue
            if score - margin > highest[0]:
                _replace_root(highest, score - margin)
            if n == room:
                n = _drop(items, uppers, n, highest[0])
                if 2 * n > room:
                    return -1
            items[n], uppers[n] = i, score + margin
            n += 1
    return _drop(items, uppers, n, highest[0])


@compiled
def _any_near(
    sums: NDArray[np.int32],
    scales: NDArray[np.float32],
    bias: NDArray[np.float32],
    unit: np.float32,
    near: np.float32,
) -> bool:
    """Whether a score of a chunk is at least `near`: an `or` is taken many at a time."""
    found = False
    for i in range(CHUNK):
        found |= np.float32(sums[i]) * scales[i] * unit + bias[i] >= near
    return found


@compiled
def _drop(items: NDArray[np.int64], uppers: NDArray[np.float64], n: int, least: float) -> int:
    """Keeps those of the first n items whose upper bound reaches `least`; how many."""
    kept = 0
    for place in range(n):
        if uppers[place] >= least:
            items[kept], uppers[kept] = items[place], uppers[place]
            kept += 1
    return kept


@compiled
def _replace_root(heap: NDArray[np.float64], value: float) -> None:
    """Puts `value` in the place of the least of a heap."""
    place, end = 0, len(heap)
    while True:
        child = 2 * place + 1
        if child >= end:
            break
        if child + 1 < end and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value


class _Scratch(threading.local):
    """Memory for a thread's sums: fresh pages cost a quarter of a scan."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.int32)

    def rows(self, n: int, width: int) -> NDArray[np.int32]:
        """[n, width] int32 of any content."""
        if self._memory.size < n * width:
            self._memory = np.empty(n * width, np.int32)
        return self._memory[: n * width].reshape(n, width)


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
