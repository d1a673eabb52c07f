"""Scans that were tried for one request before the one in 8 bits was taken.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.tried_scans

68,399 x 64 items, both vectors of a request, one thread, without a mask; rows of case "tried" in
results/retrieval.json. `gives`: "answers" (the ten best, with the recall measured), or "scores" of
all items, of which the ten best are still to be found.
"""

from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
import onnx
import onnxruntime
import openvino as ov
import openvino.opset13 as op
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from engine.retrieval.approximate import overlap
from engine.retrieval.codes import Codes
from engine.retrieval.exact import ExactIndex
from engine.retrieval.quantised import QuantisedIndex

from .opponents import Floats
from .scale_items import KEY, LIBRARIES, RESULTS, timed
from .stored import replace_rows, surroundings
from .vectors import gaussian_vectors

N_ITEMS, DIM, K = 68_399, 64, 10
Ask = Callable[[Floats], Any]
QUANTISERS = ("QT_8bit", "QT_8bit_uniform", "QT_8bit_direct_signed", "QT_fp16", "QT_bf16")


def answering(rows: Floats, bias: Floats) -> Iterator[tuple[str, Ask]]:
    """Ways that give the ten best."""
    for name, kind in (("exact", ExactIndex), ("quantised", QuantisedIndex)):
        index = kind(rows, bias)
        yield name, lambda q, index=index: index.search(q, K).items
    for name in QUANTISERS:
        ours = faiss.IndexScalarQuantizer(
            DIM, getattr(faiss.ScalarQuantizer, name), faiss.METRIC_INNER_PRODUCT
        )
        scale = 127 / np.abs(rows).max() if "direct" in name else 1.0
        scaled = (rows * scale).round() if "direct" in name else rows
        ours.train(scaled)
        ours.add(scaled)
        yield f"FAISS {name}", lambda q, ours=ours, s=scale: ours.search(q * np.float32(s), K)[1]
    scan = faiss.index_factory(DIM, "PQ64x4fs", faiss.METRIC_INNER_PRODUCT)
    scan.train(rows)
    scan.add(rows)
    yield "FAISS PQ64x4fs", lambda q: scan.search(q, K)[1]


def scoring(rows: Floats, bias: Floats) -> Iterator[tuple[str, Ask]]:
    """Ways that give the score of every item."""
    codes = Codes(rows, bias, threads=1)
    scales = codes._scales[:N_ITEMS]
    yield (
        "ONNX Runtime MatMulInteger, scaled",
        lambda q: codes._sums(codes.quantised(q)[0])[:, :N_ITEMS] * scales,
    )
    columns = np.ascontiguousarray(rows.T)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["q", "rows"], ["scores"])],
        "scan",
        [onnx.helper.make_tensor_value_info("q", onnx.TensorProto.FLOAT, ["B", DIM])],
        [onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["B", N_ITEMS])],
        [onnx.numpy_helper.from_array(columns, "rows")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 9
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    yield "ONNX Runtime MatMul, fp32", lambda q: session.run(None, {"q": q})[0]
    yield "numpy, fp32", lambda q: q @ columns
    own = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    whole = np.rint(rows / own).astype(np.int8)
    for name, weights, hints in (
        (
            "OpenVINO, 8 bits by itself",
            op.multiply(op.convert(op.constant(whole), np.float32), op.constant(own)),
            {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": DIM},
        ),
        ("OpenVINO, bf16", op.constant(rows), {"INFERENCE_PRECISION_HINT": "bf16"}),
    ):
        queries = op.parameter([2, DIM], np.float32)
        graph = ov.Model([op.matmul(queries, weights, False, True)], [queries])
        compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_NUM_THREADS": 1, **hints})
        asked = compiled.create_infer_request()

        def ask(q: Floats, asked: Any = asked) -> NDArray[np.float32]:
            asked.set_input_tensor(ov.Tensor(q, shared_memory=True))
            asked.infer()
            found: NDArray[np.float32] = asked.get_output_tensor(0).data
            return found

        yield name, ask


def main() -> None:
    rows, rng = gaussian_vectors(N_ITEMS, DIM), np.random.default_rng(1)
    bias = np.zeros(N_ITEMS, np.float32)
    queries = [rng.standard_normal((2, DIM), np.float32) for _ in range(40)]
    with threadpool_limits(1):
        faiss.omp_set_num_threads(1)
        ways, gives = {}, {}
        for name, ask in answering(rows, bias):
            ways[name], gives[name] = ask, "answers"
        for name, ask in scoring(rows, bias):
            ways[name], gives[name] = ask, "scores"
        truth = [ways["exact"](q) for q in queries]
        for name, ask in ways.items():
            if gives[name] == "scores":  # of the right items, before it is timed
                best = [np.argsort(-ask(q), axis=1)[:, :K] for q in queries]
                recall = np.mean([overlap(b, t) for b, t in zip(best, truth, strict=True)])
                if recall < 0.9:
                    raise ValueError(f"{name}: expected the scores of the items, got {recall:.2f}")
        found = timed(
            {name: lambda i, ask=ask: ask(queries[i]) for name, ask in ways.items()},
            len(queries),
            rounds=300,
        )
    written = []
    for name, row in found.items():
        answers = [ways[name](q) for q in queries] if gives[name] == "answers" else None
        recall = None
        if answers is not None:
            pairs = zip(answers, truth, strict=True)
            recall = round(float(np.mean([overlap(a, t) for a, t in pairs])), 4)
        written.append(
            {"case": "tried", "n_items": N_ITEMS, "dim": DIM, "queries": 2, "k": K}
            | {"backend": name, "gives": gives[name], **row, "recall": recall}
            | {"threads": 1, **surroundings("benchmarks.tried_scans", LIBRARIES)}
        )
    replace_rows(RESULTS, written, KEY)
    for row in written:
        print(f"{row['backend']}: {row['p50_ms']} ms, {row['gives']}, recall {row['recall']}")


if __name__ == "__main__":
    main()
