# SPDX-License-Identifier: Apache-2.0
"""Times a training step on virtual devices: one CPU that XLA divides, in a process of its own.

    python -m benchmarks.scaling_virtual '{"shape": {..}, "peers": [..], "devices": [1, 2], ..}'

prints one entry of a results file, whose peers are "PEER on D". All numbers of devices take turns
in the one process: a mesh of D is made of the first D devices.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import machine
from benchmarks.measure import compare, results_of, spread
from benchmarks.peers import SOURCES
from benchmarks.problem import PASSES, Arrays, Shape, draw
from jax_persistent.cli.timing import (
    HOPELESS_SECONDS,
    SETTLE_SECONDS,
    Clock,
    Pace,
    round_robin,
    turn,
)

COUNT = "--xla_force_host_platform_device_count"
AXIS = "data"
MAPPED = ".shard_map"  # at the end of a peer's name: XLA doesn't partition it


def name_on(peer: str, devices: int) -> str:
    return f"{peer} on {devices}"


def measure(
    shape: Shape,
    peers: Sequence[str],
    layers: int,
    devices: Sequence[int],
    threads: int,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """The entry of a shape, whose batch is the global one; of the second pass only.

    Raises:
      RuntimeError: the process failed; it has said why.
    """
    asked = {"shape": dataclasses.asdict(shape), "peers": list(peers), "layers": layers}
    asked |= {"devices": list(devices), "threads": threads, "rounds": rounds, "seconds": seconds}
    flags = re.sub(rf"{COUNT}=\S*", "", os.environ.get("XLA_FLAGS", ""))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling_virtual", json.dumps(asked)],
        cwd=machine.ROOT,
        env=os.environ
        | {"XLA_FLAGS": f"{flags} {COUNT}={max(devices)}".strip(), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,  # progress and errors go where this process's go
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the run on virtual devices failed with {done.returncode}: see above")
    return json.loads(done.stdout.splitlines()[-1])


def stacked(peer: Any, layers: int, devices: int, mapped: bool = False) -> type[Any]:
    """A JAX peer's class for that many layers, each as wide as its input, on a mesh.

    Either XLA partitions the step, or (`mapped`) it is written for one device, in `jax.shard_map`.
    """
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.make_mesh((devices,), (AXIS,), devices=jax.devices()[:devices])
    whole, rows = PartitionSpec(), PartitionSpec(None, AXIS)  # weights; [T,B,I] and [T,B,H]
    operands, results = (whole, rows, rows), (rows, (whole, rows))
    put = partial(NamedSharding, mesh)

    class Stack(peer):
        def __init__(self, shape: Shape, arrays: Arrays, threads: int) -> None:
            super().__init__(shape, arrays, threads)
            step: Any = self._pull
            if mapped:
                # The states that a scan begins with are the same everywhere: not so its others.
                step = jax.shard_map(
                    self._own_rows, mesh=mesh, in_specs=operands, out_specs=results, check_vma=False
                )
            self._backward = jax.jit(step, out_shardings=jax.tree.map(put, results))

        def outputs(self) -> np.ndarray:
            return np.asarray(self.backward()[0], np.float32)

        def _own_rows(self, weights: list[Any], x: Any, cotangent: Any) -> Any:
            outputs, (gradients, x_gradient) = self._pull(weights, x, cotangent)
            return outputs, (jax.lax.psum(gradients, AXIS), x_gradient)

        def _pack(self, arrays: Arrays) -> list[Any]:
            more = (draw(self.shape, seed) for seed in range(1, layers))
            return [peer._pack(self, each) for each in (arrays, *more)]

        def _on_device(self, array: Any) -> Any:
            here = super()._on_device(array)
            return jax.device_put(here, put(rows if here.ndim == 3 else whole))

        def _apply(self, weights: list[Any], x: Any) -> Any:
            for each in weights:
                x = peer._apply(self, each, x)
            return x

        def _unpack(self, gradients: list[Any]) -> dict[str, Any]:
            found = (peer._unpack(self, each) for each in gradients)
            return {f"{k} {i}": v for i, each in enumerate(found) for k, v in each.items()}

    return Stack


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """In the process that has the virtual devices."""
    shape, layers, threads = Shape(**asked["shape"]), asked["layers"], asked["threads"]
    began, load, arrays = time.perf_counter(), machine.load(), draw(shape)
    wide = dataclasses.replace(shape, dtype="float32")
    expected = results_of(stacked(_load("flax"), layers, 1)(wide, arrays, threads))
    programs = [(name, count) for name in asked["peers"] for count in asked["devices"]]
    peers = {}
    with tqdm(programs, desc="virtual devices", unit="program") as bar:
        for name, count in bar:
            bar.set_postfix_str(name_on(name, count))
            peer_class = stacked(_load(name), layers, count, name.endswith(MAPPED))
            peers[name_on(name, count)] = peer = peer_class(shape, arrays, threads)
            compare(shape, name_on(name, count), peer, expected)
    left = asked["seconds"] - (time.perf_counter() - began)
    with tqdm(total=len(peers) * asked["rounds"], desc="virtual devices", unit="turn") as bar:

        def watched(call: Any, clock: Clock) -> float:
            seconds = turn(call, clock)
            bar.update()
            return seconds

        calls = {name: peer.backward for name, peer in peers.items()}
        pace = Pace(watched, SETTLE_SECONDS, HOPELESS_SECONDS)
        times = round_robin(calls, asked["rounds"], left, pace=pace)
    return (
        asked["shape"]
        | {"pass": PASSES[-1], "load": load, "refused": {}, "layers": layers}
        | {"devices": asked["devices"], "names": asked["peers"]}
        | {"peers": {name: spread(found) for name, found in times.items()}}
    )


def _load(name: str) -> Any:
    return SOURCES[name.removesuffix(MAPPED)].load()


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
