# SPDX-License-Identifier: Apache-2.0
"""Small calls of the kernels, checked: what tools that make a GPU a hundred times slower are given.

compute-sanitizer python -m tests.cuda.small_calls
python -m tests.cuda.small_calls --cells lstm --exchanges grid --sizes 1024,8,1024 --repeats 3
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_persistent as jp

GATES = {"lstm": 4, "gru": 3, "elman": 1}
# Relative to the size of the reference's, in float32.
BOUNDS = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.08}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cuda.small_calls", description=__doc__)
    parser.add_argument("--cells", default="lstm,gru,elman")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--exchanges", default="grid,grid-barrier,cluster")
    parser.add_argument("--sizes", default="3,11,37", help="T,B,H")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--unchecked", action="store_true", help="only run: for a profiler")
    options = parser.parse_args(arguments)
    steps, batch, hidden = map(int, options.sizes.split(","))
    failures = 0
    for cell in options.cells.split(","):
        for dtype in options.dtypes.split(","):
            operands = draw(cell, steps, batch, hidden, dtype)
            expected = None if options.unchecked else reference(cell, operands)
            for exchange in options.exchanges.split(","):
                os.environ["JAX_PERSISTENT_CUDA_EXCHANGE"] = exchange
                program = pulled(cell, "native").lower(*operands).compile()
                worst = 0.0
                for _ in range(options.repeats):
                    got = jax.block_until_ready(program(*operands))
                    if expected is not None:
                        worst = max(worst, error(got, expected))
                good = worst <= BOUNDS[dtype]
                failures += not good
                verdict = "ok" if good else f"expected at most {BOUNDS[dtype]}"
                print(f"{cell} {dtype} {exchange} {options.sizes}: error {worst:.2g}, {verdict}")
    return 1 if failures else 0


def draw(cell: str, steps: int, batch: int, hidden: int, dtype: str) -> list[Any]:
    """x [T,B,H], both kernels, and the outputs' cotangent."""
    random = np.random.default_rng(5)
    width, scale = GATES[cell] * hidden, hidden**-0.5
    sizes = [(steps, batch, hidden), (hidden, width), (hidden, width), (steps, batch, hidden)]
    scales = (1.0, scale, scale, 1.0)
    return [
        jnp.asarray(scale * random.standard_normal(size, np.float32), dtype)
        for size, scale in zip(sizes, scales, strict=True)
    ]


def pulled(cell: str, backend: str) -> Any:
    """The outputs and all gradients, as a function of `draw`'s arrays."""
    function: Any = {"lstm": jp.lstm, "gru": jp.gru, "elman": jp.elman}[cell]

    def both(x, kernel, recurrent, cotangent):
        def outputs(*operands):
            return function(*operands, time_major=True, backend=backend)[0]

        value, pull = jax.vjp(outputs, x, kernel, recurrent)
        return value, *pull(cotangent)

    def precise(*operands):
        with jax.default_matmul_precision("highest"):
            return both(*operands)

    return jax.jit(precise if backend == "reference" else both)


def reference(cell: str, operands: list[Any]) -> list[np.ndarray]:
    wide = [operand.astype(jnp.float32) for operand in operands]
    return [np.asarray(each) for each in pulled(cell, "reference")(*wide)]


def error(got: Any, expected: list[np.ndarray]) -> float:
    """The largest of the arrays' relative errors; infinite for a NaN."""
    found = [
        float(np.linalg.norm(np.asarray(a, np.float32) - b) / np.linalg.norm(b))
        for a, b in zip(got, expected, strict=True)
    ]
    return float("inf") if np.isnan(found).any() else max(found)


if __name__ == "__main__":
    sys.exit(main())
