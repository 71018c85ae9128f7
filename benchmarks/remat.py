# SPDX-License-Identifier: Apache-2.0
"""What `jax.checkpoint` saves, and costs: a stack of layers, forward and backward.

    python -m benchmarks.remat
    python -m benchmarks.remat --help

The layers are one `jax.lax.scan` over their weights. Plainly, the backward pass reads what every
layer's forward pass saved; under `jax.checkpoint` each layer is run again from its inputs, which
are all that is kept, and its first run saves nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from benchmarks.machine import RESULTS
from benchmarks.measure import spread
from benchmarks.options import positive
from benchmarks.peers_jax import Ours
from benchmarks.problem import GATES, Shape, draw
from jax_persistent.cli.timing import round_robin
from jax_persistent.ffi.registration import native_module

PLAIN, AGAIN = "saved", "run again"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.remat")
    parser.add_argument("--cell", choices=GATES, default="lstm")
    parser.add_argument("--layers", type=positive, default=4)
    parser.add_argument("--steps", type=positive, default=128, metavar="T")
    parser.add_argument("--batch", type=positive, default=16, metavar="B")
    parser.add_argument("--hidden", type=positive, default=512, metavar="H")
    parser.add_argument("--rounds", type=positive, default=7)
    parser.add_argument("--output", type=Path, help="the results file")
    options = parser.parse_args(arguments)
    shape = Shape(
        options.cell, options.steps, options.batch, options.hidden, options.hidden, "float32"
    )
    facts = machine.describe(native_module().cpu_isa())
    results = {"machine": facts} | measure(shape, options.layers, options.rounds)
    print(report(results))
    path = options.output or RESULTS / f"remat-{facts['date'][:10]}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"results: {path}")
    return results


def measure(shape: Shape, layers: int, rounds: int) -> dict[str, Any]:
    """Temporary memory as XLA plans it, and times, of both ways."""
    found: dict[str, Any] = {"shape": f"{shape}", "layers": layers, "ways": {}}
    calls, results = {}, []
    for way in (PLAIN, AGAIN):
        program, operands = _stack(shape, layers, again=way == AGAIN)
        compiled = program.lower(*operands).compile()
        planned = compiled.memory_analysis()
        found["ways"][way] = {"temporary_bytes": planned.temp_size_in_bytes}
        calls[way] = lambda run=compiled, given=operands: jax.block_until_ready(run(*given))
        results.append(calls[way]())
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * float(abs(one).max()))
    for way, seconds in round_robin(calls, rounds, seconds=60.0).items():
        found["ways"][way] |= spread(seconds)
    return found


def _stack(shape: Shape, layers: int, *, again: bool) -> tuple[Any, tuple[Any, ...]]:
    arrays = [draw(shape, seed) for seed in range(layers)]
    peer = Ours(shape, arrays[0], 0)
    weights = jax.tree.map(lambda *each: jnp.stack(each), *map(peer._pack, arrays))
    layer = jax.checkpoint(peer._apply, prevent_cse=False) if again else peer._apply

    def apply(weights: Any, x: Any) -> Any:
        return jax.lax.scan(lambda x, each: (layer(each, x), None), x, weights)[0]

    def pull(weights: Any, x: Any, cotangent: Any) -> Any:
        return jax.vjp(apply, weights, x)[1](cotangent)

    return jax.jit(pull), (weights, jnp.asarray(arrays[0].x), jnp.asarray(arrays[0].cotangent))


def report(results: dict[str, Any]) -> str:
    lines = [f"{results['layers']} layers of {results['shape']}, forward and backward:"]
    for way, found in results["ways"].items():
        megabytes, time = found["temporary_bytes"] / 2**20, found["median_ms"]
        lines.append(f"  {way}: {megabytes:.1f} MiB of temporary arrays, {time:.1f} ms")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
