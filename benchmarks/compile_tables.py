"""Tables of `stars compile`'s stored results, and how they are stored: one JSON line a report.

`python -m benchmarks.compile_tables COMPILE_JSON …` takes the place of what was stored.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.compile.parity import BOUNDS
from engine.compile.show import files

RESULT = Path(__file__).parent / "results" / "compile.json"
Reports = Sequence[dict[str, Any]]
_NAMES = {
    "cpu": "CPU runtime",
    "torch_eager": "torch eager",
    "onnxruntime_plain": "ONNX Runtime, plain export",
    "openvino_plain": "OpenVINO, plain export",
    "pooled_same_graph": "OpenVINO, plain export with the last layer pooled",
}


def parity_table(reports: Reports) -> str:
    """Each runtime and precision beside torch in fp32: what was found, and its bound."""
    lines = [
        "| weights | runtime | precision | cosine, at least | same of the top 10 | NDCG@10 |",
        "|---|---|---|---|---|---|",
    ]
    for report in reports:
        for row in report["parity"]:
            bound, overlap = BOUNDS[row["precision"]], row["top10_overlap"]
            same = ndcg = ""
            if overlap is not None:
                least = "swaps inside the score error" if bound.overlap is None else bound.overlap
                same = f"{overlap:.4f} ({least})"
                ndcg = f"{row['ndcg_delta']:+.2%} (± {bound.ndcg:.0%})"
            lines.append(
                f"| {report['weights']} | {row['runtime']} | {row['precision']} "
                f"| {row['cosine_min']:.6f} ({bound.cosine}) | {same} | {ndcg} |"
            )
    return "\n".join(lines)


def encoder_table(reports: Reports) -> str:
    """Times of one full window by model: ours, the rivals', and one appended event."""
    lines = ["| model | | precision | p50 ms | p95 ms | CPU runtime / this |", "|---" * 6 + "|"]
    for report in reports:
        model, ours = _model(report), report["encoder_ms"]["cpu"]
        for family, name in _NAMES.items():
            row = report["encoder_ms"][family]
            lines.append(
                f"| {model} | {name} | {row['precision']} | {row['p50']:.2f} | {row['p95']:.2f} "
                f"| {ours['p50'] / row['p50']:.2f} |"
            )
        for key, run in (("append_ms", ""), ("append_alone_ms", ", in a run of these two")):
            one = report[key]
            lines.append(
                f"| {model} | CPU runtime, one event appended{run} | {ours['precision']} "
                f"| {one['p50']:.2f} | | {one['p50'] / one['full_p50']:.2f} of a full window |"
            )
    return "\n".join(lines)


def artifacts_table(reports: Reports) -> str:
    """Files by model: what they are for, size, and the seconds that they took."""
    lines = ["| model | file | target | cards | MB | seconds |", "|---" * 6 + "|"]
    for report in reports:
        for file, target, cards, size, seconds in files(report):
            lines.append(
                f"| {_model(report)} | `{file}` | {target} | {cards} | {size} | {seconds} |"
            )
        lines.append(
            f"| {_model(report)} | everything, kernels too | | | | {report['build_seconds']:.1f} |"
        )
    return "\n".join(lines)


def _model(report: dict[str, Any]) -> str:
    model = report["model"]
    return f"{model['layers']} layers of {model['d_model']}, {report['weights']} weights"


def stored() -> list[dict[str, Any]]:
    """The stored reports."""
    return [json.loads(line) for line in RESULT.read_text().splitlines()]


def store(reports: Sequence[Path]) -> None:
    """Keeps these reports, each a line."""
    lines = [json.dumps(json.loads(path.read_text()), ensure_ascii=False) for path in reports]
    RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    store([Path(name) for name in sys.argv[1:]])
