# SPDX-License-Identifier: Apache-2.0
"""The house's rules, read from the sources: what may import what, and what has one home only.

A test lists every violation of its rule in one message.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "jax_persistent"

# From top to bottom: a layer imports those below it, and itself, but not those beside it. "" is the
# package's own __init__, the public face of what is below it.
PYTHON_LAYERS = (
    ("__main__",),
    ("cli",),
    ("equinox", "haiku", "keras", "linen", "nnx", "pipeline"),
    ("",),
    (
        "c_library",
        "explaining",
        "flax_layers",
        "functions",
        "linen_cells",
        "nnx_cells",
        "streaming",
    ),
    ("fallback",),
    ("programs",),
    ("ops",),
    ("backends",),
    ("ffi",),
    ("problem",),
    ("cells",),
    ("compat", "masks", "rehosted", "weights", "_native"),
    ("jax_private",),
    ("notices",),
)
# The same for includes: folders, and single sources beside them.
NATIVE_LAYERS = (
    ("native/module.cc",),
    ("native/xla/", "native/c/"),
    ("native/backends.cc",),
    ("native/backends.h", "cuda/", "native/cpu/"),
    ("native/backend.h",),
    ("native/problem/", "native/programs/"),
    ("native/cells/",),
    ("native/huge_pages.cc",),
    ("native/portable.h", "native/huge_pages.h"),
)
# What users import, besides the package itself.
PUBLIC = ("cells", "equinox", "haiku", "keras", "linen", "nnx", "pipeline", "weights")

NATIVE_SUFFIXES = (".c", ".cc", ".h", ".cuh", ".cu", ".def", ".in")
# Headers of other libraries, and the only sources that include them.
HOMES = {
    r"xla/": ("native/xla/",),
    r"nanobind/": ("native/module.cc",),
    # No toolkit is needed to build: what is called of CUDA is declared in cuda/driver_api.h.
    r"cuda[_/.]|cooperative_groups|mma\.h|nvrtc|cublas|cudnn|device_": (),
    r"dlfcn": ("cuda/library.cc",),
}
# What the kernels know of the machine that runs them, a GPU or the emulator of one.
MACHINES = ("cuda/arch_device.cuh", "cuda/emulator/")
DOOR = "cuda/arch.h"

FOLDERS = ("jax_persistent", "native", "cuda", "tests", "examples", "benchmarks")
LICENCE = "SPDX-License-Identifier: Apache-2.0"


def files(*places: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The sources in these folders of the project, or these sources."""
    found = (p for place in places for p in (ROOT / place, *(ROOT / place).rglob("*")))
    return sorted(path for path in found if path.suffix in suffixes and path.is_file())


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files(*folders: str) -> list[Path]:
    return files(*folders, suffixes=(".py",))


def native_files(*places: str) -> list[Path]:
    return files(*places, suffixes=NATIVE_SUFFIXES)


def none_of(violations: Iterable[str]) -> None:
    found = sorted(set(violations))
    if found:
        pytest.fail("\n".join(found), pytrace=False)


# --- Python


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


PYTHON_DEPTH = {name: depth for depth, names in enumerate(PYTHON_LAYERS) for name in names}


def layer_of(module: str) -> str | None:
    """The layer that a dotted name of this package belongs to; None for other packages."""
    head, *rest = module.split(".")
    if head != PACKAGE:
        return None
    return rest[0] if rest and rest[0] in PYTHON_DEPTH else ""


def own_layer(path: Path) -> str:
    inside = path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")
    return "" if inside == "__init__" else inside


def test_every_python_module_has_a_layer() -> None:
    found = {own_layer(path) for path in python_files(PACKAGE)}
    assert found == set(PYTHON_DEPTH) - {"_native"}  # _native is built


def test_python_imports_point_downwards() -> None:
    none_of(
        f"{name_of(path)} imports {module}"
        for path in python_files(PACKAGE)
        for module in imports(path)
        if (layer := layer_of(module)) is not None
        and layer != (own := own_layer(path))
        and PYTHON_DEPTH[layer] <= PYTHON_DEPTH.get(own, -1)
    )


def test_versions_and_private_jax_live_in_compat() -> None:
    branch = re.compile(r"jax\._src|jax\.__version|jax\.version|flax\.__version|version_info")

    def private(path: Path) -> Iterator[str]:
        yield from (module for module in imports(path) if module.startswith(("jax._src", "jaxlib")))
        yield from branch.findall(path.read_text())

    none_of(
        f"{name_of(path)} names {name}, which belongs in compat.py or jax_private.py"
        for path in python_files(PACKAGE)
        if own_layer(path) not in ("compat", "jax_private")
        for name in private(path)
    )


def test_layers_for_flax_know_no_ffi() -> None:
    """They are ordinary callers of the functions on arrays."""
    none_of(
        f"{name_of(path)} imports {module}"
        for path in python_files(PACKAGE)
        if own_layer(path) in ("linen", "nnx", "flax_layers", "linen_cells", "nnx_cells")
        for module in imports(path)
        if layer_of(module) in ("backends", "ffi", "_native")
    )


def is_public(module: str) -> bool:
    """The package, one of PUBLIC, or a name in one of them."""
    inside = module.split(".")[1:]
    if any(part.startswith("_") for part in inside):
        return False
    if inside and inside[0] in PUBLIC:
        return len(inside) <= 2
    return len(inside) <= 1 and layer_of(module) == ""


def test_examples_use_the_public_package() -> None:
    none_of(
        f"{name_of(path)} imports {module}, which is not public"
        for path in python_files("examples")
        for module in imports(path)
        if layer_of(module) is not None and not is_public(module)
    )


# --- C++ and CUDA


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


def is_in(name: str, places: Sequence[str]) -> bool:
    """Whether a path from the root is one of the places, or in one of the folders among them."""
    folders = tuple(place for place in places if place.endswith("/"))
    return name in places or name.startswith(folders)


NATIVE_DEPTH = {place: depth for depth, places in enumerate(NATIVE_LAYERS) for place in places}


def place_of(name: str) -> str | None:
    """The entry of NATIVE_LAYERS that a source's path from the root belongs to."""
    return next((place for place in NATIVE_DEPTH if is_in(name, [place])), None)


def ours(include: str) -> str | None:
    """The same for what an include names; None for other libraries."""
    return place_of(include) if (ROOT / include).is_file() else None


def test_every_native_source_has_a_layer() -> None:
    names = [name_of(path) for path in native_files("native", "cuda")]
    none_of(f"{name} is in no layer" for name in names if place_of(name) is None)
    unused = set(NATIVE_DEPTH) - {place_of(name) for name in names}
    assert not unused, f"layers without a source: {unused}"


def test_native_includes_are_written_from_the_root() -> None:
    """So that a line says which folder it needs, and the next test sees every arrow."""
    none_of(
        f"{name_of(path)} includes {include}; expected the path from the project's root"
        for path in native_files("native", "cuda")
        for include in includes(path)
        if not (ROOT / include).is_file() and (path.parent / include).is_file()
    )


def test_native_includes_point_downwards() -> None:
    none_of(
        f"{name_of(path)} includes {include}"
        for path in native_files("native", "cuda")
        for include in includes(path)
        if (target := ours(include)) is not None
        and target != (own := place_of(name_of(path)))
        and NATIVE_DEPTH[target] <= NATIVE_DEPTH.get(own or "", -1)
    )


def test_native_names_cuda_in_one_place() -> None:
    names = re.compile(r'"cuda/[^"]*"|<cuda/[^>]*>|\b(?:jp::)?cuda::\w+|\bJP_WITH_CUDA\b')
    none_of(
        f"{name_of(path)} names {name}"
        for path in native_files("native")
        if name_of(path) != "native/backends.cc"
        for name in names.findall(path.read_text())
    )


def test_the_c_interface_is_for_c() -> None:
    """Its header includes what every C compiler has, and nothing of ours."""
    header = ROOT / "native/c/jax_persistent.h"
    assert includes(header) == ["stdbool.h", "stddef.h", "stdint.h"]


def test_headers_of_other_libraries_have_their_homes() -> None:
    none_of(
        f"{name_of(path)} includes {include}, which belongs in {' and '.join(homes)}"
        for path in native_files("native", "cuda")
        for include in includes(path)
        if ours(include) is None
        for pattern, homes in HOMES.items()
        if re.match(pattern, include) and not is_in(name_of(path), homes)
    )


def test_kernels_know_no_machine() -> None:
    """They see a GPU, and the emulator of one, through arch.h alone."""
    machines = {
        name_of(path): [include for include in includes(path) if is_in(include, MACHINES)]
        for path in native_files("cuda")
    }
    assert machines.pop(DOOR) == ["cuda/arch_device.cuh", "cuda/emulator/arch_emulator.h"]
    none_of(
        f"{name} includes {include}, not {DOOR}"
        for name, included in machines.items()
        if not is_in(name, MACHINES)
        for include in included
    )


# --- every source


def is_described(path: Path) -> bool:
    """A line of its own about what is in the file, after the licence's and before any code."""
    lines = path.read_text().splitlines()
    start = 1 if lines and lines[0].startswith("#!") else 0
    if len(lines) <= start or LICENCE not in lines[start]:
        return False
    if path.suffix == ".py":
        return bool(ast.get_docstring(ast.parse(path.read_text())))
    comment = re.match(r"(//|#)\s*\S", lines[start + 1]) if len(lines) > start + 1 else None
    return comment is not None and not re.match(r"#\s*(include|pragma|if|define)", lines[start + 1])


def test_each_source_says_what_is_in_it() -> None:
    """Its first line is the licence's, the next one says what the file is for."""
    sources = files(*FOLDERS, suffixes=(*NATIVE_SUFFIXES, ".py", ".cmake", ".sh"))
    sources += [ROOT / "CMakeLists.txt"]
    sources += [path for f in ("native", "tests") for path in (ROOT / f).rglob("CMakeLists.txt")]
    lacking = [name_of(p) for p in sources if p.read_text().strip() and not is_described(p)]
    if lacking:
        expected = f"expected '{LICENCE}' first, then a line that says what is in the file:"
        pytest.fail("\n".join([expected, *lacking]), pytrace=False)


def test_contributing_lists_the_folders_that_exist() -> None:
    """Its table of rooms: what is named there exists, and every folder is named."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = re.search(r"^## Where things live\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    listed, folder = set(), ""
    for name in re.findall(r"`([^`]+)`", "".join(re.findall(r"^\|([^|]*)\|", section[1], re.M))):
        if "/" in name:
            folder = name[: name.rstrip("/").rfind("/") + 1]
            listed.add(name)
        else:  # `a/b.py`, `c.py`: both in a/
            listed.add(folder + name)
    none_of(f"CONTRIBUTING lists {name}" for name in listed if not (ROOT / name).exists())

    def rooms(folder: str) -> set[str]:
        sources = files(folder, suffixes=(*NATIVE_SUFFIXES, ".py"))
        inside = (path.relative_to(ROOT / folder).parts for path in sources)
        return {f"{folder}/{first}/" for first, *rest in inside if rest}

    expected = {"cuda/", "tests/", "examples/", "benchmarks/", *rooms("native"), *rooms(PACKAGE)}
    none_of(f"CONTRIBUTING does not list {name}" for name in expected - listed)


def test_these_rules_see_the_sources() -> None:
    """A rule that looks in the wrong place would pass."""
    assert len(python_files(PACKAGE)) > 20
    assert len(python_files("examples")) > 20
    for pattern, homes in HOMES.items():
        for home in homes:
            found = [include for path in native_files(home) for include in includes(path)]
            assert any(re.match(pattern, include) for include in found), (home, pattern)
    layers = {f"{PACKAGE}.ffi.call.x": "ffi", f"{PACKAGE}.lstm": "", "jax.numpy": None}
    assert {module: layer_of(module) for module in layers} == layers
    public = {"": True, ".lstm": True, ".linen.RNN": True, ".nnx": True}
    public |= {".ops": False, ".ops.lstm": False, "._native": False, ".linen.a.b": False}
    assert {rest: is_public(f"{PACKAGE}{rest}") for rest in public} == public
    places = {"native/cpu/team.h": "native/cpu/", "native/backends.h": "native/backends.h"}
    places |= {"native/new.cc": None}
    assert {name: place_of(name) for name in places} == places
