"""Data-parallel training over all devices of one host, or of several that run the same program.

Each host is a process. All of them compute the same global batch from the step alone; each puts
its own devices' rows there. Parameters are on every device.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"
HEARTBEAT = 20  # seconds without a sign of life after which a host counts as dead
START = 120  # seconds in which all hosts have to be there


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several hosts, each running this same command")
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="address of host 0, with a free port there"
    )
    group.add_argument("--hosts", type=int, metavar="N", help="how many there are")
    group.add_argument("--host", type=int, metavar="I", help="which one this is, from 0")
    parser.add_argument("--devices", type=int, metavar="N", help="of each host to use (all)")


def join(options: argparse.Namespace) -> None:
    """Waits for the other hosts, if there are any. Before anything else that jax does.

    Raises ValueError for options that don't fit together.
    """
    given = [options.coordinator, options.hosts, options.host]
    if given == [None] * 3:
        return
    if None in given or not 0 <= options.host < options.hosts or ":" not in options.coordinator:
        raise ValueError(
            "several hosts: expected --coordinator HOST:PORT, --hosts N and --host I with "
            f"0 <= I < N, got {options.coordinator}, {options.hosts} and {options.host}"
        )
    jax.distributed.initialize(
        options.coordinator,
        options.hosts,
        options.host,
        initialization_timeout=START,
        heartbeat_timeout_seconds=HEARTBEAT,
    )


def is_first() -> bool:
    """Whether this is the host that prints and writes."""
    return jax.process_index() == 0


def make_mesh(batch: int, devices: int | None = None) -> Mesh:
    """`devices` of every host (all, without a number) along one axis, "data".

    Raises ValueError where the batch does not divide.
    """
    local = jax.local_device_count()
    if devices is not None and not 1 <= devices <= local:
        raise ValueError(f"--devices: expected 1 to {local}, which this host has, got {devices}")
    each = [
        device
        for host in range(jax.process_count())
        for device in jax.devices()
        if device.process_index == host
    ]
    chosen = np.array(each).reshape(jax.process_count(), local)[:, : devices or local].reshape(-1)
    if batch % len(chosen):
        raise ValueError(
            f"--batch: expected a multiple of the {len(chosen)} devices, got {batch}; give "
            "another batch, or fewer devices with --devices"
        )
    return Mesh(chosen, (AXIS,), axis_types=(AxisType.Auto,))


def split(mesh: Mesh, batch: Any) -> Any:
    """The same arrays on every host [B, ...] -> arrays whose rows are spread over all devices."""
    return _put(batch, NamedSharding(mesh, PartitionSpec(AXIS)))


def copy(mesh: Mesh, tree: Any) -> Any:
    """The same arrays on every host -> arrays that every device has."""
    return _put(tree, NamedSharding(mesh, PartitionSpec()))


def _put(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x, np.shape(x)), tree
    )
