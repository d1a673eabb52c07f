"""`stars gate`: holds a build to gates.toml and to the last release.

Exit status: 0 passed, 1 a breach, 2 undecided, 3 it could not be asked (an option, a file).
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from engine.errors import ConfigError, StarsError

from .case import Opener, Setting
from .cases import CASES
from .gate_measure import Measured, from_row, measure, read_rows, to_row
from .gate_release import around, comparable, last_release, read_release, store_release
from .gate_rows import GATES, Gate, load_gates
from .gate_verdict import FAILED, Verdict, judge, overall, settled
from .shop_bundle import random_bundle, trained_or_random
from .stored import Row

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "artifacts" / "gate" / "results.json"  # what the last run measured
STATUS = {"pass": 0, "breach": 1, "undecided": 2}
REFUSED = 3
_QUICK_S, _FULL_S = 190.0, 3600.0
_LOG_WIDTH = 130
_FORMS = {"value": "{:g}", "ratio": "{:g} × {}", "difference": "{1} + {0:g}"}
_STYLE = {"pass": "green", "undecided": "yellow", "not run": "bold yellow"}


@dataclass(frozen=True)
class Asked:
    """What a run is to decide.

    Attributes:
        gates: the rows.
        cases: what they name, by name.
        releases: the last release's cases on this class of machine.
    """

    gates: Sequence[Gate]
    cases: Mapping[str, Opener]
    releases: Mapping[str, Measured]

    def __post_init__(self) -> None:
        for gate in self.gates:
            if gate.case not in self.cases:
                raise ConfigError(
                    f"gate {gate.name!r}: case: expected one of {sorted(self.cases)}, "
                    f"got {gate.case!r}"
                )

    def names(self) -> list[str]:
        """The rows' cases, each once; exact ones first, which leave their share to the others."""
        first = sorted(self.gates, key=lambda gate: gate.absolute != "exact")
        return list(dict.fromkeys(gate.case for gate in first))

    def judge(self, measured: Measured) -> list[Verdict]:
        """The verdicts of one case's rows."""
        release = comparable(measured, self.releases)
        return [judge(g, measured, release) for g in self.gates if g.case == measured.case]

    def settled(self, measured: Measured) -> bool:
        """Whether no row of the case needs more repeats."""
        release = comparable(measured, self.releases)
        return all(settled(g, measured, release) for g in self.gates if g.case == measured.case)


def run_cases(asked: Asked, setting: Setting, budget_s: float, console: Console) -> list[Measured]:
    """Measures every case that a row names, one after the other.

    Args:
        budget_s: seconds for all; a case has an equal share of what is left, so what one does not
            use is the others'. The first look is always taken.
    """
    until, names, found = time.monotonic() + budget_s, asked.names(), []
    for place, name in enumerate(names):
        share = (until - time.monotonic()) / (len(names) - place)
        begin = time.monotonic()
        found.append(measure(name, asked.cases[name], setting, asked.settled, share))
        repeats, seconds = len(found[-1].repeats), time.monotonic() - begin
        console.print(f"{name}: {repeats} repeats, {seconds:.0f} s", highlight=False)
    return found


def _stored(path: Path, rows: Sequence[Row], names: Sequence[str]) -> list[Measured]:
    """The named cases of a file of repeats."""
    found = {row["case"]: from_row(row) for row in rows}
    if missing := [name for name in names if name not in found]:
        raise ConfigError(f"{path}: expected repeats of every row's case, got none of {missing}")
    return [found[name] for name in names]


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """What a person reads; the rest is in verdict.json."""
    table = Table("verdict", "row", "value", "bound", "repeats", "last release")
    table.columns[0].no_wrap = True
    for row in verdicts:
        style = "bold red" if row.verdict in FAILED else _STYLE[row.verdict]
        value = "" if row.value is None else f"{row.value:.4g}"
        interval = "" if row.low is None else f"\n[dim]{row.low:.4g} … {row.high:.4g}[/dim]"
        goal = "" if row.goal is None else f"\n[dim]goal {row.goal:g}[/dim]"
        table.add_row(
            f"[{style}]{row.verdict}[/]",
            f"{escape(row.name)}\n[dim]{row.case}, {row.statistic}[/dim]",
            value + interval,
            f"{row.sense} {_FORMS[row.form].format(row.bound, row.opponent)}{goal}",
            str(row.repeats),
            "" if row.release is None else f"{row.release:.4g}",
        )
    return table


def _report(console: Console, verdicts: Sequence[Verdict], word: str) -> None:
    console.print(verdict_table(verdicts))
    for row in verdicts:
        if row.verdict != "pass":
            detail = row.reason or row.why
            console.print(f"{row.verdict.upper()}: {row.name}: {detail}", markup=False)
    console.print(f"gate: {word}", style="bold green" if word == "pass" else "bold red")


def _bundle(asked: Path | None, quick: bool) -> tuple[Path, str]:
    """The bundle to measure with, and where its weights come from."""
    if asked is not None:
        if not asked.is_dir():
            raise ConfigError(f"--bundle: expected a folder of a bundle, got {asked}")
        return asked, "given"
    return (random_bundle(), "random") if quick else trained_or_random()


def _rows(options: argparse.Namespace) -> list[Gate]:
    """The rows that the options leave."""
    rows = [row for row in load_gates(options.gates) if row.quick or not options.quick]
    if unknown := set(options.only) - {row.case for row in rows}:
        raise ConfigError(f"--only: expected cases of the rows, got {sorted(unknown)}")
    rows = [row for row in rows if not options.only or row.case in options.only]
    if not rows:
        raise ConfigError(f"{options.gates}: expected rows to judge, got none")
    return rows


def run(options: argparse.Namespace, cases: Mapping[str, Opener], console: Console) -> int:
    """Measures or reads, judges, prints, stores; returns the exit status."""
    begin, rows = time.monotonic(), _rows(options)
    if options.results:
        stored = read_rows(options.results)
        here = {key: stored[0][key] for key in stored[0] if key not in Measured.__annotations__}
    else:
        folder, weights = _bundle(options.bundle, options.quick)
        console.print(f"bundle: {folder}, {weights} weights")
        here = around(weights) | {"bundle": str(folder)}
    last = options.against or (None if options.quick else last_release(here))
    asked = Asked(rows, cases, read_release(last, here) if last else {})
    if options.results:
        measured = _stored(options.results, stored, asked.names())
    else:
        budget_s = options.budget_s or (_QUICK_S if options.quick else _FULL_S)
        measured = run_cases(asked, Setting(folder), budget_s, console)
        stored = [to_row(one, here) for one in measured]
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_text("".join(json.dumps(row) + "\n" for row in stored))
    verdicts = [verdict for one in measured for verdict in asked.judge(one)]
    word = overall(verdicts)
    document = {
        "verdict": word,
        "rows": [asdict(verdict) for verdict in verdicts],
        "quick": options.quick,
        "last_release": str(last) if last else None,
        "seconds": round(time.monotonic() - begin),
        **here,
    }
    options.json.write_text(json.dumps(document, indent=2) + "\n")
    _report(console, verdicts, word)
    if options.store:
        kept = store_release(stored) if word == "pass" else f"nothing: expected a pass, got {word}"
        console.print(f"stored: {kept}")
    return STATUS[word]


def main(arguments: Sequence[str] | None = None, cases: Mapping[str, Opener] = CASES) -> int:
    """Entry point: an expected error is one line on stderr."""
    try:
        return run(_parse(arguments), cases, _console())
    except StarsError as error:
        print(f"stars gate: {error}", file=sys.stderr)
        return REFUSED


def _console() -> Console:
    """Wide enough for the table where a log, not a terminal, takes it."""
    return Console() if sys.stdout.isatty() else Console(width=_LOG_WIDTH)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """argparse's own exit status for this is 2, which here means undecided."""
        raise ConfigError(message)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser("stars gate", description="Holds a build to gates.toml and the last release.")
    add = parser.add_argument
    add("--quick", action="store_true", help="the rows for CI, in minutes, random weights")
    add("--bundle", type=Path, help="default: artifacts/demo/bundle, or one of random weights")
    add("--only", nargs="+", default=[], metavar="CASE", help="rows of these cases")
    add("--results", type=Path, help="judges these stored repeats, measures nothing")
    add("--store", action="store_true", help="keeps a pass as this version's release")
    add("--against", type=Path, help="a release's file; default: the last of this machine")
    add("--budget-s", type=float, help="seconds to repeat cases in, all together")
    add("--gates", type=Path, default=GATES, help="the rows")
    add("--json", type=Path, default=Path("verdict.json"), help="where the verdict goes")
    options = parser.parse_args(arguments)
    if options.store and (options.quick or options.only or options.results):
        raise ConfigError("--store: expected a whole run, got --quick, --only or --results")
    return options


if __name__ == "__main__":
    raise SystemExit(main())
