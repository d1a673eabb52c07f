"""Runs the real tritonserver as a child process of this one, without a container."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Self

from engine.errors import ServerError

from .options import DEFAULTS, Options
from .wheel import find_triton

MODEL_REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"

READY_LIMIT_S = 120.0
STOP_LIMIT_S = 15.0
DRAIN_LIMIT_S = 5  # what tritonserver gives requests in flight once it is told to stop
ORPHAN_LIMIT_S = 5.0  # model processes notice within a second that their server is gone
LOG_TAIL_LINES = 40
LOG_TAIL_BYTES = 64 * 1024

# Tables in pages of 2 MB: a scan over them does not push out the addresses of everything else.
_MEMORY = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

# Asks the kernel to end the server with its parent, however the parent ends, then becomes the
# server. A program of its own: between fork and exec a threaded parent cannot safely run Python.
_LAUNCHER = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent ended before the server began")
os.execv(sys.argv[2], sys.argv[2:])
"""


class TritonServer:
    """A Triton Server on this machine: ready inside the `with` block, gone after it.

    It ends with the thread that started it, so start it from one that lives on.

    Args:
        model_repositories: folders of models, each loaded whole.
        bundle: what the model `stars` serves; None leaves it to the model's configuration.
        http_port, grpc_port, metrics_port: 0 takes a free one.
        address: what the server listens on.
        options: of the engine in a model process.
        log: file for the server's output; None keeps it in a temporary file until the end.
        extra_args: further tritonserver options, as they are.
        ready_limit_s: how long loading may take.
    """

    def __init__(
        self,
        model_repositories: Sequence[Path],
        bundle: Path | None,
        *,
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        address: str = "127.0.0.1",
        options: Options = DEFAULTS,
        log: Path | None = None,
        extra_args: Sequence[str] = (),
        ready_limit_s: float = READY_LIMIT_S,
    ) -> None:
        self._repositories = [Path(folder).resolve() for folder in model_repositories]
        self._variables = options.environment()
        if bundle is not None:
            self._variables["STARS_BUNDLE"] = str(Path(bundle).resolve())
        self._ports = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
        self._address = address
        self._log_path = log
        self._extra_args = list(extra_args)
        self._ready_limit_s = ready_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def http_url(self) -> str:
        """host:port of the HTTP endpoint, as clients on this machine reach it."""
        return self._url("http")

    @property
    def grpc_url(self) -> str:
        """host:port of the gRPC endpoint."""
        return self._url("grpc")

    @property
    def metrics_url(self) -> str:
        """host:port of the Prometheus endpoint."""
        return self._url("metrics")

    @property
    def pid(self) -> int | None:
        """The server's process, and the group of its model processes, while it runs."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the server and returns when every model is ready.

        Raises:
            BackendUnavailable: tritonserver, or what it needs, is not on this machine.
            ServerError: it runs already, cannot start, ended or was not ready in time; carries the
                end of its log.
        """
        if self._process is not None:
            raise ServerError(f"tritonserver: expected a stopped one, got pid {self.pid}")
        for folder in self._repositories:
            if not folder.is_dir():
                raise ServerError(f"model repository: expected a folder, got {folder}")
        triton = find_triton()
        self._ports = _claim_ports(self._address, self._ports)
        command = [str(triton.binary), f"--backend-directory={triton.backends}", *self._options()]
        self._log = _open_log(self._log_path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _LAUNCHER, str(os.getpid()), *command],
                env=_MEMORY | os.environ | triton.environment | self._variables,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._await_ready(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the server and its model processes; does nothing where none runs."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
            finally:
                _end_group(process)
        if self._log is not None:
            self._log.close()
            self._log = None

    def wait(self) -> None:
        """Blocks until SIGINT or SIGTERM reaches this process. Only for its main thread.

        Raises:
            ServerError: none runs, or it ended by itself; carries the end of its log.
        """
        process = self._process
        if process is None:
            raise ServerError("tritonserver: expected a running one, got none")
        with _sigterm_as_interrupt(), contextlib.suppress(KeyboardInterrupt):
            process.wait()
            raise self._failure(f"ended by itself with status {process.returncode}")

    def log_tail(self) -> str:
        """The last lines of what the server wrote, its tables and its usage text left out."""
        if self._log is None:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), LOG_TAIL_BYTES, max(0, size - LOG_TAIL_BYTES))
        lines = tail.decode(errors="replace").splitlines()
        told = [line for line in lines if not line.startswith(("|", "+", "  --", "\t"))]
        return "\n".join(told[-LOG_TAIL_LINES:])

    def _url(self, endpoint: str) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._address, self._address)
        return f"{f'[{host}]' if ':' in host else host}:{self._ports[endpoint]}"

    def _options(self) -> list[str]:
        return [
            *(f"--model-repository={folder}" for folder in self._repositories),
            *(f"--{endpoint}-address={self._address}" for endpoint in self._ports),
            *(f"--{endpoint}-port={port}" for endpoint, port in self._ports.items()),
            f"--exit-timeout-secs={DRAIN_LIMIT_S}",
            "--disable-auto-complete-config",  # it would import each model twice
            *self._extra_args,
        ]

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._ready_limit_s
        while process.poll() is None:
            if _is_ready(self.http_url):
                return
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready after {self._ready_limit_s:g} s")
            time.sleep(0.05)
        raise self._failure(f"ended with status {process.returncode} before it was ready")

    def _failure(self, what: str) -> ServerError:
        return ServerError(f"tritonserver {what}; the end of its log:\n{self.log_tail()}")


def _open_log(path: Path | None) -> IO[bytes]:
    if path is None:
        return tempfile.TemporaryFile()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w+b")


def _claim_ports(address: str, wanted: dict[str, int]) -> dict[str, int]:
    """The wanted ports, 0 replaced by free ones; ServerError names one that is taken."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    claimed = {}
    with contextlib.ExitStack() as held:  # all at once, so that no two endpoints get the same
        for endpoint, port in wanted.items():
            listener = held.enter_context(socket.socket(family))
            # A port in TIME_WAIT is free to tritonserver as well.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((address, port))
            except OSError as error:
                raise ServerError(
                    f"{endpoint} port: expected a free one on {address}, got {port}: "
                    f"{error.strerror}"
                ) from error
            claimed[endpoint] = listener.getsockname()[1]
    return claimed


def _is_ready(url: str) -> bool:
    connection = http.client.HTTPConnection(url, timeout=2.0)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Waits for what is left of a server that was told to end, and kills what stays."""
    deadline = time.monotonic() + ORPHAN_LIMIT_S
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Inside the block SIGTERM raises KeyboardInterrupt, as SIGINT does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
