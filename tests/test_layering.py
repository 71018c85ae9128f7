"""Imports and includes point only downwards; versions and private parts of jax have one home."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "jax_persistent"

# Higher imports lower, or its own layer. The package's own __init__ is the public face of `ops`.
LAYERS = {
    "__main__": 5,
    "": 4,
    "linen": 4,
    "nnx": 4,
    "pipeline": 4,
    "flax_cells": 3,
    "ops": 2,
    "ffi": 1,
    "_native": 0,
    "compat": 0,
    "notices": 0,
}

# What users import, besides the package itself.
PUBLIC = ("linen", "nnx", "pipeline")

# The same for native/ and cuda/: kernels follow plans; plans and kernels know the cells' shapes.
# GPU kernels are given a call in the form in which the CPU's are: native/cpu/job.h, and no more.
NATIVE = {
    "native/module.cc": 5,
    "native/ffi": 4,
    "cuda": 3,
    "native/cpu": 2,
    "native/plan": 1,
    "native/cells": 0,
}
ONLY = {
    ("cuda", "native/cpu"): {"job.h"},
    ("native/ffi", "cuda"): {"gpu.h"},
    ("native/module.cc", "cuda"): set(),
}
SOURCES = (".cc", ".cpp", ".h", ".hpp", ".cuh", ".cu", ".inc", ".in")
TOOLKIT = re.compile(r"cuda[_/.]|cooperative_groups|mma\.h|nvrtc|cublas|cudnn|device_")
TOOLKIT_HOMES = ("cuda/arch_device.cuh", "cuda/gpu.cc")
TWIN = re.compile(r"cuda/(arch_(host|device)\b|host/)")


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def native_files(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return sorted(path for path in found if path.suffix in SOURCES)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """Every module a file names in an import, relative ones resolved, `from a import b` as a.b."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def layer_of(module: str) -> str | None:
    """The layer that a dotted name of this package belongs to; None for other packages."""
    head, *rest = module.split(".")
    if head != PACKAGE:
        return None
    return rest[0] if rest and rest[0] in LAYERS else ""


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def native_folder(path: Path) -> str:
    """The part of native/ and cuda/ that a source belongs to: a key of NATIVE."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] == "cuda" else "/".join(parts[:2])


def included(include: str, source: Path) -> Path | None:
    """This project's source that an include means; None for other libraries."""
    found = ((base / include).resolve() for base in (source.parent, ROOT / "native", ROOT))
    folders = ROOT / "native", ROOT / "cuda"
    return next(
        (p for p in found if p.is_file() and any(p.is_relative_to(f) for f in folders)), None
    )


def test_every_module_has_a_layer() -> None:
    top = {path.relative_to(ROOT / PACKAGE).parts[0] for path in python_files(PACKAGE)}
    assert {name.removesuffix(".py") for name in top} - {"__init__"} <= set(LAYERS)


@pytest.mark.parametrize("path", python_files(PACKAGE), ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    inside = path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")
    own = "" if inside == "__init__" else inside
    for module in imports(path):
        layer = layer_of(module)
        if layer is None:
            continue
        assert layer == own or LAYERS[layer] < LAYERS[own], f"{own or PACKAGE} imports {module}"


@pytest.mark.parametrize("path", python_files(PACKAGE), ids=name_of)
def test_versions_and_private_jax_live_in_compat(path: Path) -> None:
    if path.name == "compat.py":
        return
    private = [m for m in imports(path) if m.startswith(("jax._src", "jaxlib."))]
    assert not private, f"{private}: anything private to jax belongs in compat.py"
    text = path.read_text()
    assert "jax._src" not in text
    branch = re.search(r"jax\.__version|jax\.version|flax\.__version|version_info", text)
    assert branch is None, f"{branch and branch.group()}: branches on a version belong in compat.py"


@pytest.mark.parametrize(
    "path", [ROOT / PACKAGE / f"{name}.py" for name in ("linen", "nnx", "flax_cells")], ids=name_of
)
def test_flax_layers_name_no_ffi(path: Path) -> None:
    assert not [module for module in imports(path) if "ffi" in module.split(".")]


@pytest.mark.parametrize("path", python_files("examples"), ids=name_of)
def test_examples_use_the_public_package(path: Path) -> None:
    public = {PACKAGE, *(f"{PACKAGE}.{name}" for name in PUBLIC)}
    for module in imports(path):
        if module.split(".")[0] != PACKAGE:
            continue
        parts = module.split(".")
        home = ".".join(parts[:2]) if ".".join(parts[:2]) in public else PACKAGE
        depth = len(parts) - len(home.split("."))
        assert depth <= 1, f"{module} is not public"
        assert not any(part.startswith("_") for part in parts), f"{module} is private"
        assert layer_of(module) in ("", *PUBLIC), f"{module} is not public"


@pytest.mark.parametrize("path", native_files("native", "cuda"), ids=name_of)
def test_native_includes_point_downwards(path: Path) -> None:
    own = native_folder(path)
    for include in includes(path):
        target = included(include, path)
        if target is not None and (folder := native_folder(target)) != own:
            assert NATIVE[folder] < NATIVE[own], f"{own} includes {include}"
            allowed = ONLY.get((own, folder), {target.name})
            assert target.name in allowed, f"{own} includes {include}, not {allowed}"
        if include.startswith("xla/"):
            assert own == "native/ffi", f"{include}: XLA's headers belong in native/ffi"
        if include.startswith("nanobind/"):
            assert own == "native/module.cc", f"{include}: nanobind belongs in module.cc"
        if target is None and TOOLKIT.search(include):
            assert name_of(path) in TOOLKIT_HOMES, f"the CUDA toolkit's {include}"


@pytest.mark.parametrize("path", native_files("cuda"), ids=name_of)
def test_kernels_know_no_machine(path: Path) -> None:
    """They see the GPU and its twin on the CPU through arch.h alone."""
    name = name_of(path)
    twins = [include for include in includes(path) if TWIN.match(include)]
    if name == "cuda/arch.h":
        assert twins == ["cuda/arch_device.cuh", "cuda/arch_host.h"]
    elif not name.startswith(("cuda/arch_host", "cuda/host/")):
        assert twins == []


def test_this_test_sees_the_sources() -> None:
    assert len(python_files(PACKAGE)) > 5
    assert any("xla/ffi/api/ffi.h" in includes(path) for path in native_files("native/ffi"))
    for home in TOOLKIT_HOMES:
        assert any(TOOLKIT.search(include) for include in includes(ROOT / home))
