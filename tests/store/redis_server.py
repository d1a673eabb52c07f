"""redis-server as a child process, on a free port of this machine, gone after the block."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import pytest
import redis


class RedisServer:
    """Answers inside the `with` block; a test without the binary is skipped, and says so."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.skip("redis-server is not installed: `apt-get install redis-server`")
        self._binary, self._folder = binary, folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def client(self) -> Any:
        return redis.Redis.from_url(self.url)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def start(self) -> None:
        self._folder.mkdir(exist_ok=True)
        options = {
            "bind": "127.0.0.1", "port": str(self._port), "dir": str(self._folder), "save": "",
            "appendonly": "no",
        }  # fmt: skip
        command = [self._binary, *(part for k, v in options.items() for part in (f"--{k}", v))]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client().ping()
                return
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "redis-server never answered"
                time.sleep(0.02)

    def pause(self) -> None:
        """It takes connections and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """It is gone, with all it held."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
