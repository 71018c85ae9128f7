# SPDX-License-Identifier: Apache-2.0
"""Data-parallel training over all devices of one host, or of several that run the same program.

A host is a process. Each computes the same global batch from the step alone and puts the rows of
its own devices there; parameters are on every device. The first host alone prints and writes,
except for checkpoints, for which all share a folder.

A host that ends early ends the others too: those that wait for it in a sum at once, when the
connection breaks, and all of them after HEARTBEAT seconds without a sign of life.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
HEARTBEAT = 30  # seconds
START = 120  # seconds in which all hosts have to be there
ENDED = """
Host {host} of {hosts} has ended early: for an error of its own, which stands above, or because
another host died, or can't be reached. No host goes on without the others. When the cause is
mended, start any number of hosts with --resume: they go on from the last checkpoint."""

_watchers: list[subprocess.Popen] = []


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, metavar="N", help="devices to use a host (all)")
    group = parser.add_argument_group("several hosts, on each of which the same command is started")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="a free port of host 0")
    group.add_argument("--hosts", type=int, metavar="N", help="how many there are")
    group.add_argument("--host", type=int, metavar="I", help="which of them this is, from 0")


def join(options: argparse.Namespace) -> None:
    """Waits for the other hosts, if there are any; to be called before jax computes anything.

    Until `leave` this process ends at once, whatever ends it: others wait for it.
    Where one is missing for START seconds, jaxlib ends the process.
    Raises ValueError for options that don't fit together, and on host 0 for a port that is taken.
    """
    given = options.coordinator, options.hosts, options.host
    if given == (None, None, None):
        return
    if None in given or not 0 <= options.host < options.hosts or ":" not in options.coordinator:
        raise ValueError(
            "expected --coordinator HOST:PORT, --hosts N and --host I with 0 <= I < N, or none of "
            f"them, got {options.coordinator}, {options.hosts} and {options.host}"
        )
    if options.host == 0:
        _check_port(options.coordinator)
    # jaxlib ends a process from C++ where another one is dead, and Python gets to say nothing.
    tell = ["sh", "-c", 'read word || printf "%s\\n" "$0" >&2', ENDED.format(**vars(options))]
    _watchers.append(subprocess.Popen(tell, stdin=subprocess.PIPE))
    atexit.register(_end)
    jax.distributed.initialize(
        *given, initialization_timeout=START, heartbeat_timeout_seconds=HEARTBEAT
    )


def leave() -> None:
    """Waits until every host is here; from then on each may go on, or end, alone."""
    if _watchers:
        jax.distributed.shutdown()
        _watchers.pop().communicate(b"left\n")
        atexit.unregister(_end)


def _check_port(coordinator: str) -> None:
    """jaxlib crashes where the port is taken."""
    port = coordinator.rpartition(":")[2]
    try:
        socket.create_server(("", int(port))).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ValueError(
            f"--coordinator: expected a free port, got {port} ({error}); give another one"
        ) from error


def _end() -> None:
    """Python's usual way out would wait for the other hosts, which wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def is_first() -> bool:
    return jax.process_index() == 0


def say(text: str) -> None:
    if is_first():
        print(text, flush=True)


def agree(what: str, *values: Any) -> None:
    """Waits for the other hosts; raises ValueError if any has values of another `repr`."""
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(repr(values).encode()).digest(), np.uint32)
    if len(np.unique(multihost_utils.process_allgather(digest), axis=0)) > 1:
        raise ValueError(f"the hosts differ in {what}: start each with the same")


def share(folder: Path) -> None:
    """Waits for the other hosts; raises ValueError where they don't see what the first writes."""
    if jax.process_count() == 1:
        return
    mark = folder / ".shared"
    if is_first():
        mark.touch()
    multihost_utils.sync_global_devices("written")
    agree(f"what they see in {folder}, a folder that all must share", mark.exists())
    if is_first():
        mark.unlink()


def make_mesh(batch: int, devices: int | None = None) -> Mesh:
    """So many devices of each host, or all, along one axis, "data".

    Raises ValueError where a host has fewer, or the batch is no multiple of their number.
    """
    hosts = [[d for d in jax.devices() if d.process_index == n] for n in range(jax.process_count())]
    fewest = min(map(len, hosts))
    if devices is not None and not 1 <= devices <= fewest:
        raise ValueError(f"--devices: expected 1 to {fewest}, which a host has, got {devices}")
    chosen = np.array([device for each in hosts for device in each[:devices]])
    if batch % len(chosen):
        raise ValueError(
            f"batch: expected a multiple of the {len(chosen)} devices in use, got {batch}; give "
            "another --batch, or use fewer --devices"
        )
    return Mesh(chosen, (AXIS,), axis_types=(AxisType.Auto,))


def split(mesh: Mesh, batch: Any) -> Any:
    """Arrays [B, ...], the same on every host -> with their rows spread over all devices."""
    return _put(batch, NamedSharding(mesh, PartitionSpec(AXIS)))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Of an array that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def copy(mesh: Mesh, tree: Any) -> Any:
    """Arrays, the same on every host -> on every device."""
    return _put(tree, everywhere(mesh))


def local(tree: Any) -> Any:
    """Arrays that every device has whole -> on this host's first device alone."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def _put(tree: Any, sharding: NamedSharding) -> Any:
    def put(array: Any) -> jax.Array:
        whole = np.asarray(array)
        return jax.make_array_from_process_local_data(sharding, whole, whole.shape)

    return jax.tree.map(put, tree)
