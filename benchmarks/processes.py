"""What a served model's own process holds, from /proc."""

from pathlib import Path

STUB = "triton_python_backend_stub"


def model_process(server: int, model: str) -> int:
    """The process of a Python model of the server with this process id.

    Raises:
        ValueError: there is not just one.
    """
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or not _is_group(folder, server):
            continue
        words = (folder / "cmdline").read_bytes().decode().split("\0")
        if words[0].endswith(STUB) and any(f"/{model}/1/model.py" in word for word in words):
            found.append(int(folder.name))
    if len(found) != 1:
        raise ValueError(f"{model}: expected one process of server {server}, got {found}")
    return found[0]


def _is_group(folder: Path, group: int) -> bool:
    """Whether a process is of a group; one that just ended is of none."""
    try:
        text = (folder / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(text.rpartition(")")[2].split()[2]) == group


def resident_bytes(process: int) -> int:
    """Bytes of a process that are in memory, files that it maps among them."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def mapped_files(process: int) -> set[str]:
    """Files that a process has mapped, its libraries among them."""
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    return {parts[5] for line in lines if len(parts := line.split(maxsplit=5)) == 6}
