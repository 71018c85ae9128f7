# SPDX-License-Identifier: Apache-2.0
"""A host that agrees with the others on its first argument and that stops, at DIES_AT 0, at once.

A stopped process is like a machine that has left the network: no connection breaks.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np

from examples.common import hosts

parser = argparse.ArgumentParser()
parser.add_argument("--folders", nargs="+", type=Path)  # of each host
parser.add_argument("--values", nargs="+")
parser.add_argument("--heartbeat", type=int, default=hosts.HEARTBEAT)
hosts.add_options(parser)
options = parser.parse_args()
hosts.HEARTBEAT = options.heartbeat
hosts.join(options)
if os.environ["DIES_AT"] == "0":
    time.sleep(2)  # as the coordinator, it may still have to tell the other that it has joined
    os.kill(os.getpid(), signal.SIGSTOP)
try:
    hosts.agree("values", options.values[options.host])
    hosts.share(options.folders[options.host])
except ValueError as error:
    sys.exit(f"error: {error}")
mesh = hosts.make_mesh(6, options.devices)
rows = hosts.split(mesh, {"x": np.arange(12.0, dtype=np.float32).reshape(6, 2)})
ones = hosts.copy(mesh, [np.ones(2, np.float32)])
total = jax.jit(lambda rows, ones: (rows["x"] * ones[0]).sum(0), out_shardings=ones[0].sharding)
hosts.say(f"rows of host 0: {[shard.data.tolist() for shard in rows['x'].addressable_shards]}")
found = total(rows, ones)
hosts.leave()
print(f"sum {hosts.local(found).tolist()}")
