"""What a card really does: `python -m benchmarks.device PART... [--store FILE] [--commit C]`.

PART: ceilings, kernels, operators, encoder, training. One JSON line a row, in the place of the row
of the same case, way and card; the tables of kernels/README.md are made from them.
"""

import platform
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer

from . import device_kernels, device_model
from .device_clock import DeviceClock
from .device_tables import RESULT
from .stored import Row, replace_rows, surroundings

KEY = ("part", "case", "config", "way", "device")
PARTS: dict[str, Callable[[DeviceClock], Iterator[Row]]] = {
    "ceilings": device_kernels.ceilings,
    "kernels": device_kernels.shipped,
    "operators": device_kernels.compared,
    "encoder": lambda _: device_model.encoders("cuda", compiled=True),
    "training": lambda _: device_model.training("cuda"),
}


def on_what() -> Row:
    """Card, driver and versions of every row."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    around = surroundings("benchmarks.device", ("torch", "triton", "numpy"))
    around["versions"] |= {"cuda": str(torch.version.cuda), "python": platform.python_version()}
    return around | {"device": torch.cuda.get_device_name(), "driver": driver}


def main(
    parts: Annotated[list[str], typer.Argument(help=f"Some of {', '.join(PARTS)}.")],
    store: Annotated[Path, typer.Option(help="File of JSON lines.")] = RESULT,
    commit: Annotated[str, typer.Option(help="Where the tree is not a checkout.")] = "",
) -> None:
    """Measures the parts and stores their rows."""
    if unknown := [part for part in parts if part not in PARTS]:
        raise typer.BadParameter(f"part: expected some of {list(PARTS)}, got {unknown[0]!r}")
    around = on_what() | {"command": shlex.join(["python", "-m", "benchmarks.device", *parts])}
    if commit:
        around["commit"] = commit
    # What was given up on would run as it is, and be timed as compiled.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    clock = DeviceClock()
    for part in parts:
        for row in PARTS[part](clock):
            replace_rows(store, [{**row, **around}], KEY)
            print(
                row["part"], row["case"], row["config"], row["way"], row["statistics"], flush=True
            )


if __name__ == "__main__":
    torch.set_num_threads(8)
    typer.run(main)
