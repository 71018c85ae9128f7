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
}

# What users import, besides the package itself.
PUBLIC = ("linen", "nnx", "pipeline")

# The same for native/: kernels follow plans, and plans and kernels know the cells' shapes.
NATIVE = {"module": 4, "ffi": 3, "cpu": 2, "plan": 1, "cells": 0}
SOURCES = (".cc", ".cpp", ".h", ".hpp", ".cuh", ".cu", ".inc")
CUDA_HEADER = re.compile(r"cuda|cooperative_groups|mma\.h|nvrtc|cublas|cudnn")


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


def folder_of(include: str, source: Path) -> str | None:
    """The native folder an include lands in; None for other libraries."""
    for base in (source.parent, ROOT / "native", ROOT):
        target = (base / include).resolve()
        if target.is_file() and target.is_relative_to(ROOT / "native"):
            inside = target.relative_to(ROOT / "native")
            return inside.parts[0] if len(inside.parts) > 1 else "module"
    return None


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


@pytest.mark.parametrize("path", native_files("native"), ids=name_of)
def test_native_includes_point_downwards(path: Path) -> None:
    inside = path.relative_to(ROOT / "native")
    own = inside.parts[0] if len(inside.parts) > 1 else "module"
    for include in includes(path):
        folder = folder_of(include, path)
        if folder not in (None, own):
            assert NATIVE[folder] < NATIVE[own], f"native/{own} includes {include}"
        assert not CUDA_HEADER.search(include), f"native/ includes the CUDA header {include}"
        if include.startswith("xla/"):
            assert own == "ffi", f"{include}: XLA's headers belong in native/ffi"
        if include.startswith("nanobind/"):
            assert own == "module", f"{include}: nanobind belongs in module.cc"


def test_this_test_sees_the_sources() -> None:
    assert len(python_files(PACKAGE)) > 5
    assert any("xla/ffi/api/ffi.h" in includes(path) for path in native_files("native/ffi"))
