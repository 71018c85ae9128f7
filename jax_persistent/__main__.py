# SPDX-License-Identifier: Apache-2.0
"""`python -m jax_persistent`: what is installed here, kernels compiled ahead, weights converted.

info      what is installed here, and whether it works
warm      fills the cache of GPU kernels, for programs that start later
convert   weights in a safetensors file, from one framework's layout to another's
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import jax

import jax_persistent
from jax_persistent import compat
from jax_persistent.backends import cuda
from jax_persistent.cells import CELLS
from jax_persistent.ffi.registration import native_module
from jax_persistent.weights import files

_PACKAGES = ("jax", "jaxlib", "flax")
_SOURCES = (".cc", ".h", ".cuh", ".in", ".def", ".cmake")


def newer_source(module: ModuleType) -> Path | None:
    """A native source of this checkout that the built module is older than; None if it is current.

    An installed package has no sources beside it, and is always current.
    """
    root = Path(jax_persistent.__file__).parents[1]
    folders = (root / "native", root / "cuda")
    sources = [p for f in folders for p in f.rglob("*") if p.suffix in _SOURCES]
    newest = max(sources, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None or module.__file__ is None:
        return None
    return newest if newest.stat().st_mtime > Path(module.__file__).stat().st_mtime else None


def describe_environment() -> Iterator[tuple[str, str]]:
    yield "jax_persistent", jax_persistent.__version__
    for package in _PACKAGES:
        yield package, version(package)
    yield "python", platform.python_version()
    yield "platform", f"{platform.system()} {platform.machine()}"
    yield "devices", ", ".join(str(device) for device in jax.devices())
    found = compat.runtime_ffi_version()
    yield "XLA FFI of jaxlib", "unknown" if found is None else "{}.{}".format(*found)


def describe_native(module: ModuleType) -> Iterator[tuple[str, str]]:
    yield "native module", str(module.__file__)
    yield "built against", "XLA FFI {}.{}".format(*module.ffi_version())
    facts = module.facts("cpu")
    yield "CPU kernels", f"{module.cpu_isa()}, {facts['lanes']} float32 lanes"
    yield "CPU threads", str(facts["threads"])
    yield "CPU caches", f"L2 {facts['l2_bytes'] >> 10} KiB a core, L3 {facts['l3_bytes'] >> 10} KiB"
    yield from module.report("CUDA")


def info() -> int:
    """Prints what is here; the exit status is 1 if the native module can't be used as it is."""
    for name, value in describe_environment():
        print(f"{name:18} {value}")
    try:
        module = native_module()
        described = list(describe_native(module))
    except (ImportError, RuntimeError) as error:
        print(f"{'native module':18} {error}", file=sys.stderr)
        return 1
    for name, value in described:
        print(f"{name:18} {value}")
    newer = newer_source(module)
    if newer is not None:
        print(f"{'native module':18} older than {newer}: run `make setup`", file=sys.stderr)
        return 1
    return 0


def warm(options: argparse.Namespace) -> int:
    """Compiles GPU kernels into the cache on disk; needs NVRTC and no GPU."""
    architectures = options.architecture or sorted(
        {f"sm_{device.compute_capability.replace('.', '')}" for device in cuda.devices()}
    )
    if not architectures:
        print("no GPU is here: name an architecture, as in --architecture sm_90", file=sys.stderr)
        return 1
    for chosen in itertools.product(options.cell, options.dtype, architectures):
        began = time.perf_counter()
        try:
            done = cuda.compile_ahead(CELLS[chosen[0]], *chosen[1:])
        except (ImportError, RuntimeError, ValueError) as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{' '.join(chosen):32} {done} kernels, {time.perf_counter() - began:.1f} s")
    return 0


def convert(options: argparse.Namespace) -> int:
    """Writes weights in another layout."""
    sizes = {n: getattr(options, n) for n in ("input_size", "hidden_size", "num_layers")}
    given = {name: size for name, size in sizes.items() if size is not None}
    if options.bidirectional:
        given["bidirectional"] = True
    if (options.given == "cudnn") != ({"input_size", "hidden_size"} <= given.keys()):
        print(
            "--input-size and --hidden-size are for --from cudnn, which needs both", file=sys.stderr
        )
        return 1
    paths = options.source, options.target, options.given, options.wanted
    try:
        written = files.convert(*paths, options.prefix, **given)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.target}: {', '.join(written)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jax_persistent",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="versions, kernels, caches")
    warmed = commands.add_parser("warm", help="compile GPU kernels ahead")
    known = {"cell": tuple(CELLS), "dtype": cuda.CudaBackend.dtypes}
    for name, choices in known.items():
        warmed.add_argument(f"--{name}", nargs="+", choices=choices, default=choices)
    warmed.add_argument("--architecture", nargs="+", help="sm_90 and the like; default: those here")
    converted = commands.add_parser("convert", help="weights in another framework's layout")
    converted.add_argument("source", help="a safetensors file")
    converted.add_argument("target", help="the safetensors file to write")
    for name, into in (("--from", "given"), ("--to", "wanted")):
        converted.add_argument(name, dest=into, required=True, choices=tuple(files.LAYOUTS))
    converted.add_argument("--prefix", default="", help="of the names in the source: encoder.rnn.")
    for name in ("--input-size", "--hidden-size", "--num-layers"):
        converted.add_argument(name, type=int, help="of a cuDNN vector, which does not say")
    converted.add_argument("--bidirectional", action="store_true", help="likewise")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "info":
        return info()
    return {"warm": warm, "convert": convert}[options.command](options)


if __name__ == "__main__":
    sys.exit(main())
