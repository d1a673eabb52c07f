"""Writes the READMEs' tables from stored results: `python -m benchmarks.readme [REPORT]`.

REPORT, a report.json of `make demo`, `stars rank report` or `stars report`, is stored first; `stars
kernels report` writes the kernels' result in its place itself. Each table stands between two
markers, `<!-- table:NAME -->` and `<!-- end -->`.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import compile_tables, device_tables, experiment_tables, quality_tables, rank_tables

ROOT = Path(__file__).resolve().parents[1]
README, KERNELS_README = ROOT / "README.md", ROOT / "kernels" / "README.md"
DEMO = ROOT / "benchmarks" / "results" / "demo.json"
KERNELS = ROOT / "benchmarks" / "results" / "kernels.json"
RETRIEVAL_README = ROOT / "engine" / "retrieval" / "README.md"
RETRIEVAL = ROOT / "benchmarks" / "results" / "retrieval.json"  # one JSON line a row
STORE_README = ROOT / "engine" / "store" / "README.md"
USERS = ROOT / "benchmarks" / "results" / "users.json"  # likewise
SUITE = ROOT / "benchmarks" / "results" / "suite.json"  # likewise
COMPILE_README = ROOT / "engine" / "compile" / "README.md"
_MEASURES = ("hit@5", "hit@10", "recall@10", "ndcg@10", "coverage@10")


def quality_table(report: dict[str, Any]) -> str:
    """Measures of the demo's methods, and the paired differences below."""
    lines = [f"| | {' | '.join(_MEASURES)} |", "|---" * (len(_MEASURES) + 1) + "|"]
    for method, values in report["metrics"].items():
        cells = (f"{values[name]:.4f}" for name in _MEASURES)
        lines.append(f"| {method.replace('_', ' ')} | {' | '.join(cells)} |")
    lines.append("")
    for name, measures in report["comparison"].items():
        parts = (
            f"{measure} {v['mean']:+.4f} ({v['low']:+.4f} … {v['high']:+.4f})"
            for measure, v in measures.items()
        )
        lines.append(f"- {name.replace('_', ' ')}: {', '.join(parts)}")
    return "\n".join(lines)


def latency_table(report: dict[str, Any]) -> str:
    """Latency of a stored user's request beside the model that does nothing."""
    ours, null = report["latency_ms"], report["null_latency_ms"]
    return "\n".join(
        [
            "| ms | p50 | p95 | p99 | requests |",
            "|---|---|---|---|---|",
            f"| `stars` | {ours['p50']:.2f} | {ours['p95']:.2f} | {ours['p99']:.2f} "
            f"| {ours['n']} |",
            f"| null model | {null['p50']:.2f} | {null['p95']:.2f} | {null['p99']:.2f} "
            f"| {null['n']} |",
        ]
    )


# Cases of the README's table, and what each is.
SHOWN = {
    "stored_request_in_process": "stored user, no server",
    "filtered_request_in_process": "stored user under a filter, no server",
    "live_request_in_process": "50 new events, no server",
    "peer_inference": "50 events, libraries",
    "encode_small": "`small`, 200 events encoded",
    "append_small": "`small`, one event appended",
    "search_filtered": "search of 68,000 items, masked",
    "stored_grpc": "stored user over gRPC",
    "live_grpc": "50 events and a filter over gRPC",
}


def suite_table(rows: list[dict[str, Any]]) -> str:
    """Times of every way of the cases of SHOWN that are stored, the engine's first."""
    lines = ["| | way | p50 ms | p95 | p99 | p50 / `stars` |", "|---" * 6 + "|"]
    for case, what in SHOWN.items():
        ways = [row for row in rows if row["case"] == case]
        for row in sorted(ways, key=lambda row: row["way"] != "stars"):
            found = row["statistics"]
            times = " | ".join(f"{found[name]:.2f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
            way = f"`{row['way']}`" if row["way"] == "stars" else row["way"].replace("_", " ")
            lines.append(f"| {what} | {way} | {times} | {found['p50_ratio']:.2f} |")
    return "\n".join(lines)


def kernels_table(report: dict[str, Any]) -> str:
    """Every shipped configuration: bytes, the worst of its cards' resources, modelled times."""
    lines = [
        "| op | configuration | bytes / ideal (bound) | unfused / bytes | registers | spills "
        "| shared KiB | A100 µs, modelled | H100 µs, modelled |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    cases: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in report["rows"]:
        cases.setdefault((row["op"], row["config"]), {})[row["sm"]] = row
    for (op, config), cards in cases.items():
        any_card, worst = cards[90], cards.values()
        unfused = any_card["unfused_ratio"]
        lines.append(
            f"| {op} | {config} | {any_card['bytes_ratio']:.2f} ({any_card['bytes_bound']}) "
            f"| {'' if unfused is None else f'{unfused:.1f}'} "
            f"| {max(r['registers'] for r in worst)} | {max(r['spill_bytes'] for r in worst)} "
            f"| {max(r['shared_bytes'] for r in worst) / 1024:.0f} "
            f"| {cards[80]['modelled_us']:.1f} | {any_card['modelled_us']:.1f} |"
        )
    return "\n".join(lines)


def retrieval_table(case: str) -> Callable[[list[dict[str, Any]]], str]:
    """Rows of one case of benchmarks.scale_items, in the order in which they were stored."""

    def table(rows: list[dict[str, Any]]) -> str:
        lines = [
            "| items x d | queries, k | passes | threads | backend | recall | p50 ms | p99 ms "
            "| ratio | to | MB |",
            "|" + "---|" * 11,
        ]
        for row in rows:
            if row["case"] != case:
                continue
            seen = {None: "", True: ", seen", False: ", first seen"}[row.get("seen")]
            share = f"{row['selectivity']:.2%}" if row.get("masked", True) else "no mask"
            nbytes = f"{row['bytes'] / 1e6:,.0f}" if "bytes" in row else ""
            lines.append(
                f"| {row['n_items']:,} x {row['dim']} | {row['queries']}, {row['k']} "
                f"| {share}{seen} | {row['threads']} | {row['backend'].replace('_', ' ')} "
                f"| {row['recall']:.4f} | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} "
                f"| {row['ratio']:.3f} | {row['opponent'].replace('_', ' ')} | {nbytes} |"
            )
        return "\n".join(lines)

    return table


def tried_table(rows: list[dict[str, Any]]) -> str:
    """Rows of benchmarks.tried_scans."""
    lines = ["| scan | gives | recall | p50 ms |", "|---|---|---|---|"]
    for row in rows:
        if row["case"] == "tried":
            recall = "" if row["recall"] is None else f"{row['recall']:.4f}"
            lines.append(f"| {row['backend']} | {row['gives']} | {recall} | {row['p50_ms']:.2f} |")
    return "\n".join(lines)


RETRIEVAL_CASES = ("request", "predicates", "texts", "filters", "curve")


def users_read_table(rows: list[dict[str, Any]]) -> str:
    """Rows of the case `read` of benchmarks.scale_users."""
    lines = [
        "| users | store | bytes a user | / content | 1 user, p50 ms | 64 users, p50 | p99 "
        "| p99, undisturbed |",
        "|" + "---|" * 8,
    ]
    names = ("read1_p50_ms", "read64_p50_ms", "read64_p99_ms", "read64_p99_undisturbed_ms")
    for row in rows:
        if row["case"] == "read":
            share = row["store_bytes_a_user"] / row["raw_bytes_a_user"]
            lines.append(
                f"| {row['users']:,} | {row['backend']} | {row['store_bytes_a_user']:,.0f} "
                f"| {share:.2f} | {' | '.join(f'{row[each]:.3f}' for each in names)} |"
            )
    return "\n".join(lines)


def users_refresh_table(rows: list[dict[str, Any]]) -> str:
    """Rows of the case `refresh` of benchmarks.scale_users."""
    lines = ["| model | events a user | users/s, batches | one by one | ratio |", "|" + "---|" * 5]
    for row in rows:
        if row["case"] == "refresh":
            lines.append(
                f"| {row['preset']} | {row['events_a_user']:,.0f} | {row['users_per_s']:,.1f} "
                f"| {row['one_by_one_users_per_s']:,.1f} | {row['ratio']:.2f} |"
            )
    return "\n".join(lines)


def users_modelled_table(rows: list[dict[str, Any]]) -> str:
    """What the largest measured stores and the refresh say of more users; nothing of it was run."""
    last = {row["backend"]: row["store_bytes_a_user"] for row in rows if row["case"] == "read"}
    speed = {row["preset"]: row["users_per_s"] for row in rows if row["case"] == "refresh"}
    lines = [
        "| users, modelled | one version, folder | two versions, Redis | Redis of 200 GB "
        f"| refresh, core hours, {' | '.join(speed)} |",
        "|" + "---|" * (4 + len(speed)),
    ]
    for n_users in (10**6, 10**7, 10**8):
        folder, redis = n_users * last["folder"] / 1e9, 2 * n_users * last["redis"] / 1e9
        hours = (f"{n_users / each / 3600:,.1f}" for each in speed.values())
        lines.append(
            f"| {n_users:,} | {folder:,.1f} GB | {redis:,.1f} GB | {-(-redis // 200):.0f} "
            f"| {' | '.join(hours)} |"
        )
    return "\n".join(lines)


TABLES: dict[Path, dict[str, tuple[Path, Callable[[Any], str]]]] = {
    README: {
        "quality": (DEMO, quality_table),
        "latency": (DEMO, latency_table),
        "amazon": (experiment_tables.RUNS, experiment_tables.runs_table),
        "suite": (SUITE, suite_table),
    },
    KERNELS_README: {
        "kernels": (KERNELS, kernels_table),
        "device_kernels": (device_tables.RESULT, device_tables.measured_table),
        "device_operators": (device_tables.RESULT, device_tables.operators_table),
        "device_model": (device_tables.RESULT, device_tables.model_table),
        "device_losses": (device_tables.RESULT, device_tables.losses_table),
    },
    RETRIEVAL_README: {
        **{case: (RETRIEVAL, retrieval_table(case)) for case in RETRIEVAL_CASES},
        "tried": (RETRIEVAL, tried_table),
    },
    STORE_README: {
        "users_read": (USERS, users_read_table),
        "users_refresh": (USERS, users_refresh_table),
        "users_modelled": (USERS, users_modelled_table),
    },
    rank_tables.README: {
        "rank_claims": (rank_tables.RESULT, rank_tables.claims_table),
        "rank_latency": (rank_tables.RESULT, rank_tables.latency_table),
    },
    experiment_tables.NOTES: {
        "amazon_runs": (experiment_tables.RUNS, experiment_tables.runs_table),
        "amazon_tried": (experiment_tables.TRIED, experiment_tables.tried_table),
        "journey_tried": (experiment_tables.JOURNEY, experiment_tables.journey_table),
        "repeats_tried": (experiment_tables.REPEATS, experiment_tables.repeats_table),
        "refits_tried": (experiment_tables.REFITS, experiment_tables.refits_table),
        "lambdas_tried": (experiment_tables.LAMBDAS, experiment_tables.lambdas_table),
        "discovery_tried": (experiment_tables.DISCOVERY, experiment_tables.discovery_table),
    },
    COMPILE_README: {
        "artifacts": (compile_tables.RESULT, compile_tables.artifacts_table),
        "parity": (compile_tables.RESULT, compile_tables.parity_table),
        "encoder": (compile_tables.RESULT, compile_tables.encoder_table),
    },
}
# One JSON line a row.
_OF_LINES = (
    RETRIEVAL, USERS, SUITE, compile_tables.RESULT, experiment_tables.RUNS, experiment_tables.TRIED,
    experiment_tables.JOURNEY, experiment_tables.REPEATS, experiment_tables.DISCOVERY,
    experiment_tables.LAMBDAS, experiment_tables.REFITS, device_tables.RESULT,
)  # fmt: skip


def add_quality() -> None:
    """Adds the tables of `stars report`, where its result is stored."""
    result = quality_tables.RESULT
    if result.exists():
        own = {name: (result, table) for name, table in quality_tables.TABLES.items()}
        TABLES[quality_tables.README] = own


add_quality()


def rendered(path: Path) -> str:
    """A README's text with its tables made anew."""
    readme = path.read_text()
    for name, (result, table) in TABLES[path].items():
        block = f"<!-- table:{name} -->\n{table(_stored(result))}\n<!-- end -->"
        pattern = rf"<!-- table:{name} -->\n.*?<!-- end -->"
        readme, found = re.subn(pattern, lambda _, text=block: text, readme, flags=re.S)
        if found != 1:
            raise ValueError(f"{path}: expected one place for table {name}, got {found}")
    return readme


def _stored(result: Path) -> Any:
    """A report, or the rows of a file of JSON lines."""
    text = result.read_text()
    if result in _OF_LINES:
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def store(report: Path) -> None:
    """Keeps what the tables and their reader need of a demo's report."""
    made = json.loads(report.read_text())
    del made["recommendations"]  # products and households stay where the data is
    DEMO.parent.mkdir(exist_ok=True)
    DEMO.write_text(json.dumps({"command": "make demo", **made}, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:]:
        given = Path(sys.argv[1])
        found = json.loads(given.read_text())
        keep = store
        if "harmonrank" in found:
            keep = rank_tables.store
        elif "complete_journey" in found:
            keep = quality_tables.store
        keep(given)
        add_quality()
    for path in TABLES:
        path.write_text(rendered(path))
