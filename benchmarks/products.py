# SPDX-License-Identifier: Apache-2.0
"""The products around a recurrence of T=128: XLA's, and our call's (`jax_persistent.product`).

    python -m benchmarks.products             # all cores, about a minute

Of B rows and H features and units, four gates: of x with its matrix, of the gates' gradients with
the same transposed, and of both, which is the matrix's gradient. In turns, medians of the rounds'
own ratios.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from benchmarks import machine
from benchmarks.options import numbers, positive
from benchmarks.rows import measured

STEPS, GATES = 128, 4
BATCH, HIDDEN = [1, 4, 16], [32, 64, 128, 256, 512]
PRODUCTS = {"x": (False, False), "d_x": (False, True), "d_kernel": (True, False)}  # transposed


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.products")
    parser.add_argument("--batch", type=numbers, default=BATCH, metavar="B")
    parser.add_argument("--hidden", type=numbers, default=HIDDEN, metavar="H")
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument("--threads", type=positive, help="cores; all by default")
    parser.add_argument("--output", type=Path, help="the results file")
    options = parser.parse_args(arguments)
    threads = machine.limit_cores(options.threads)  # before XLA starts

    rows = (
        timed(name, STEPS * batch, hidden, options.rounds)
        for hidden, batch, name in itertools.product(options.hidden, options.batch, PRODUCTS)
    )
    line = "{product:8} {sizes} xla {xla_us} us, over ours {xla_over_ours}".format_map
    return measured("products", rows, line, means, options.output, threads=threads)


def means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    ratios = [row["xla_over_ours"] for row in rows]
    return {"xla_over_ours": round(geometric_mean(ratios), 3), "least": min(ratios)}


def timed(name: str, vectors: int, hidden: int, rounds: int) -> dict[str, Any]:
    """Microseconds of a product, and XLA's time over ours."""
    import jax
    import numpy as np

    from benchmarks.measure import round_robin
    from jax_persistent.ffi.call import product_call

    columns = GATES * hidden
    sizes = {
        "x": (vectors, hidden, columns),
        "d_x": (vectors, columns, hidden),
        "d_kernel": (hidden, vectors, columns),
    }[name]
    m, k, n = sizes
    transposed = PRODUCTS[name]
    draw = np.random.default_rng(0).standard_normal
    left = jax.numpy.asarray(draw((k, m) if transposed[0] else (m, k)), "float32")
    right = jax.numpy.asarray(draw((n, k) if transposed[1] else (k, n)), "float32")
    contracted = (0 if transposed[0] else 1,), (1 if transposed[1] else 0,)
    how = dict(zip(("left_transposed", "right_transposed"), transposed, strict=True))
    ways = {
        "xla": jax.jit(partial(jax.lax.dot_general, dimension_numbers=(contracted, ((), ())))),
        "ours": jax.jit(partial(product_call, **how)),
    }
    found = {way: np.asarray(run(left, right)) for way, run in ways.items()}
    np.testing.assert_allclose(found["ours"], found["xla"], atol=1e-4 * math.sqrt(k))

    def call(run: Any) -> Any:
        return lambda: jax.block_until_ready(run(left, right))

    seconds = round_robin({way: call(run) for way, run in ways.items()}, rounds, math.inf)
    over = [x / o for x, o in zip(seconds["xla"], seconds["ours"], strict=True)]
    return {
        "product": name,
        "sizes": sizes,
        **{f"{way}_us": round(1e6 * median(times), 1) for way, times in seconds.items()},
        "xla_over_ours": round(median(over), 3),
    }


if __name__ == "__main__":
    main()
