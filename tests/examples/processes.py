# SPDX-License-Identifier: Apache-2.0
"""Programs that run as several hosts: processes of this machine that meet at a loopback port."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compiling import xla_flags

ENDED = "No host goes on without the others."  # of what a host says that ends early


def free_port() -> int:
    """Below those that the system gives to whoever asks for any."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        try:
            socket.create_server(("", port)).close()
        except OSError:
            continue
        return port
    raise RuntimeError("100 ports are taken")


class Host:
    """A process, and what it prints. `dies_at` is of the programs that know it."""

    def __init__(self, command: Sequence[str], log: Path, devices: int, dies_at: int | None):
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(log.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        environment = (
            os.environ
            | cache
            | {
                "XLA_FLAGS": xla_flags(f"--xla_force_host_platform_device_count={devices}"),
                "PYTHONPATH": os.pathsep.join(sys.path),
                "DIES_AT": str(dies_at),
            }
        )
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=file, stderr=file
            )

    def end(self, seconds: float) -> int:
        """The exit status. What a host says last comes from a shell that outlives it."""
        code = self.process.wait(seconds)
        deadline = time.monotonic() + 10
        while code and ENDED not in self.printed() and time.monotonic() < deadline:
            time.sleep(0.05)
        return code

    def printed(self) -> str:
        return self.log.read_text()


@contextmanager
def started(
    program: Sequence[str],
    folder: Path,
    hosts: int,
    *,
    devices: int = 1,
    dies: tuple[int, int] | None = None,
) -> Iterator[list[Host]]:
    """The program as so many hosts; `dies` is one of them and the step at which it dies."""
    name, together = f"{time.monotonic_ns()}", []
    if hosts > 1:
        together = ["--coordinator", f"127.0.0.1:{free_port()}", "--hosts", str(hosts)]
    running: list[Host] = []
    try:
        for host in range(hosts):
            which = ["--host", str(host)] if together else []
            step = dies[1] if dies and dies[0] == host else None
            log = folder / f"{name}-{host}.log"
            running.append(Host([*program, *together, *which], log, devices, step))
        yield running
    finally:
        for host in running:
            host.process.kill()
            host.process.wait()
