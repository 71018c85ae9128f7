# SPDX-License-Identifier: Apache-2.0
"""The second start of a program finds what the first one compiled, however it is split."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

DEVICES = "--xla_force_host_platform_device_count=8"  # and what users have else
PROGRAMS = textwrap.dedent(
    """
    import json, sys
    from collections import Counter
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, PartitionSpec as P
    import jax_persistent as jp

    jax.config.update("jax_compilation_cache_dir", sys.argv[1])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    events = Counter()
    jax.monitoring.register_event_listener(lambda name, **_: events.update([name.split("/")[-1]]))

    draw = np.random.default_rng(5)
    x, w, r = (draw.standard_normal(s, np.float32) for s in ((16, 5, 3), (3, 18), (6, 18)))

    def loss(w, x, r, reverse=False):
        return jnp.sum(jp.gru(x, w, r, reverse=reverse, backend="native")[0][:, 0])

    def backwards(w, x, r):
        return loss(w, x, r, reverse=True)

    def step(function):
        return jax.jit(jax.value_and_grad(function))

    def on_devices(kind):
        return jax.make_mesh((8,), ("data",), axis_types=(kind,))

    def rows_of(mesh):
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, P("data")))

    auto, explicit = on_devices(AxisType.Auto), on_devices(AxisType.Explicit)

    def mapped(w, x, r):
        each = jax.shard_map(
            lambda *operands: loss(*operands)[None],
            mesh=auto, in_specs=(P(), P("data"), P()), out_specs=P("data"),
        )
        return jnp.sum(each(w, x, r))

    results = {
        "one device": step(loss)(w, x, r),
        "auto axes": step(loss)(w, rows_of(auto), r),
        "auto axes, reverse": step(backwards)(w, rows_of(auto), r),
        "explicit axes": step(loss)(w, rows_of(explicit), r),
        "shard_map": step(mapped)(w, rows_of(auto), r),
    }
    values = {name: float(value) for name, (value, _) in results.items()}
    found = {"hits": events["cache_hits"], "misses": events["cache_misses"], "values": values}
    print(json.dumps(found))
    """
)


def start(cache: Path) -> dict:
    environment = os.environ | {"XLA_FLAGS": DEVICES, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAMS, str(cache)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_the_second_start_compiles_nothing(tmp_path):
    first, second = start(tmp_path), start(tmp_path)
    assert first["hits"] == 0
    assert first["misses"] >= 5
    assert (second["hits"], second["misses"]) == (first["misses"], 0)
    assert second["values"] == first["values"]
    # Programs that differ only in what a kernel is told are not mistaken for each other.
    reverse = first["values"].pop("auto axes, reverse")
    forward = first["values"].pop("one device")
    assert abs(reverse - forward) > 0.1
    assert all(abs(value - forward) < 1e-3 for value in first["values"].values())
