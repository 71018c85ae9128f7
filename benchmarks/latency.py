# SPDX-License-Identifier: Apache-2.0
"""Times the five doubtful figures of cycles.py's model on a GPU: a line of JSON for each launch."""

import json
from pathlib import Path
from statistics import median

from benchmarks.cycles import exchange_cycles
from benchmarks.gpu_layout import H100
from jax_persistent.ffi.registration import native_module


def main() -> None:
    native, source = native_module(), Path(__file__).with_suffix(".cu").read_text()
    processors = native.facts("CUDA")["processors"]
    trip, arrived, load = exchange_cycles("grid"), exchange_cycles("cluster"), H100.l2_far_trip
    figures = {
        "store to poll, 1 poller": (trip, "trip", 2, 32, 1),
        f"store to poll, {8 * processors} pollers": (trip, "trip", processors, 256, 1),
        "1 load from L2": (load, "load_1", 1, 32, 1),
        "4 loads from L2 at once": (load, "load_4", 1, 32, 1),
    }
    for n in (4, 16):
        assumed = arrived + n * 1024 / H100.dsmem_bytes
        figures[f"st.async, 1 KiB from each of {n} blocks"] = (assumed, "arrival", n, 256, n)
    for what, (assumed, kernel, *sizes) in figures.items():
        runs = [native.run_source("CUDA", kernel, source, *sizes, 1 << 16) for _ in range(5)]
        measured = median(words[0] for words in runs)  # cycles
        print(json.dumps({"what": what, "assumed": round(assumed), "measured": measured}))


if __name__ == "__main__":
    main()
