"""The report: what is stored is drawn, what is not is said to be missing."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from engine.errors import ConfigError

AROUND = {"machine": "2 x CPU", "commit": "abc", "command": "pytest benchmarks"}


def timed(case: str, way: str, p50: float) -> dict[str, Any]:
    found = {"p50_ms": p50, "p95_ms": 2 * p50, "p99_ms": 3 * p50, "p50_ratio": p50, "n": 40.0}
    quantiles = [p50 * (1 + place / 20) for place in range(21)]
    about = {"case": case, "way": way, "statistics": found, "quantiles_ms": quantiles}
    return {**about, "parameters": {}, **AROUND}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A suite of one timed case, one of growth and one of numbers."""
    sizes = {"p50_ms_10": 1.0, "request_ms_at_100": 2.0, "exponent": 0.3}
    growth = {"case": "growth_items", "way": "stars", "statistics": sizes}
    exact = {"case": "search_recall", "way": "stars", "statistics": {"recall_exact": 1}}
    empty = {"quantiles_ms": [], "parameters": {}, **AROUND}
    rows = [timed("live_request_in_process", "torch", 2.5), growth | empty, exact | empty]
    rows.append(timed("live_request_in_process", "null", 0.4))
    write(tmp_path / "suite.json", [*rows, timed("live_request_in_process", "stars", 1.0)])
    return tmp_path


def parts(page: str) -> dict[str, str]:
    """The page's HTML by the title of its sections."""
    found = re.split(r'<h2 id="[^"]*">([^<]*)</h2>', page)
    return dict(zip(found[1::2], found[2::2], strict=True))


def test_nothing_stored_names_what_to_run(tmp_path: Path) -> None:
    sections = parts(report.page(tmp_path, tmp_path / "releases"))
    del sections["Measured on"]
    assert all("not stored yet: run <code>" in text for text in sections.values())
    assert "stars gate --store" in sections["History"]
    assert "stars profile --json" in sections["Throughput against latency"]


def test_what_is_stored_is_drawn(stored: Path) -> None:
    sections = parts(report.page(stored, stored / "releases"))
    for title in ("Latency", "Growth", "Ratios to opponents"):
        assert "<svg" in sections[title], title
        assert "not stored yet" not in sections[title]
    assert "live_request_in_process: torch" in sections["Ratios to opponents"]
    assert "null" not in sections["Ratios to opponents"]
    assert "exponent 0.30" in sections["Growth"]
    assert ">20<" in sections["Growth"]  # a tick between both sizes
    assert "<td>2.50</td>" in sections["Every case"]
    assert "recall_exact" in sections["Every case"]
    assert "not stored yet" in sections["History"]
    assert "pytest benchmarks" in sections["Measured on"]


def test_the_page_stands_alone(stored: Path) -> None:
    page = report.page(stored, stored / "releases")
    assert not re.search(r'(src|href)="(?!#)', page.replace("xlink:href", ""))
    assert "<script" not in page
    assert "@import" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_load_is_drawn_a_protocol_and_scenario(tmp_path: Path) -> None:
    rows = [
        {"protocol": "grpc", "scenario": scenario, "load": "concurrency", "value": n,
         "model": model, "throughput_per_s": 100.0 * n, "p99_ms": 2.0 * n, **AROUND}
        for scenario in ("stored", "live") for n in (1, 8) for model in ("stars", "stars_null")
    ]  # fmt: skip
    write(tmp_path / "profile.json", rows)
    text = parts(report.page(tmp_path, tmp_path / "releases"))["Throughput against latency"]
    assert text.count("<svg") == 2
    assert "live over grpc" in text


def test_kernels_that_no_card_has_run_say_so(tmp_path: Path) -> None:
    row = {"op": "attention", "config": "pooled", "bytes_ratio": 1.01, "ideal_bytes": 2_039_000}
    both = [row | {"sm": 80, "modelled_us": 2.0}, row | {"sm": 90, "modelled_us": 1.0}]
    document = {"rows": both, "commit": "abc", "command": "stars kernels report"}
    (tmp_path / "kernels.json").write_text(json.dumps(document))
    text = parts(report.page(tmp_path, tmp_path / "releases"))["Kernels"]
    assert text.count("not run") == 2
    assert "<td>50%</td>" in text  # 2.039 MB at the A100's 2.039 TB/s are 1 µs, 2 are modelled
    document["rows"] = [both[0] | {"measured_us": 2.5}, both[1]]
    (tmp_path / "kernels.json").write_text(json.dumps(document))
    text = parts(report.page(tmp_path, tmp_path / "releases"))["Kernels"]
    assert text.count("not run") == 1
    assert "<td>2.5</td>" in text


def test_history_is_a_share_of_the_first_release(tmp_path: Path) -> None:
    releases = {}
    for version, p50 in (("0.1.0", 2.0), ("0.2.0", 1.0)):
        repeats = [{"stars": {"p50_ms": p50 * n}} for n in (1.0, 1.0, 9.0)]
        row = {"case": "stored_grpc", "repeats": repeats, **AROUND}
        exact = {"case": "parity", "repeats": [{"stars": {"cosine_min": 1.0}}], **AROUND}
        releases[version] = [row, exact]
        write(tmp_path / f"{version}.json", releases[version])
    assert report.shares(releases) == {"stored_grpc": {"0.1.0": 1.0, "0.2.0": 0.5}}
    text = parts(report.page(tmp_path / "results", tmp_path))["History"]
    assert "<svg" in text
    assert "0.2.0" in text


def test_a_broken_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text("{}\nnot json\n")
    with pytest.raises(ConfigError, match=r"suite\.json:2: expected a JSON line"):
        report.page(tmp_path, tmp_path / "releases")


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    script = "from engine.cli import main; main()"
    command = [sys.executable, "-c", script, "bench", "report", "--out", str(out)]
    subprocess.run(command, cwd=report.ROOT, check=True)
    assert "</html>" in out.read_text()
