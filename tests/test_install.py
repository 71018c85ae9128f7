# SPDX-License-Identifier: Apache-2.0
"""The installed package: its native module, what it says of itself, and how it fails."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import jax_persistent
from jax_persistent import cli as command
from jax_persistent import compat
from jax_persistent.cli import info
from jax_persistent.ffi import registration

MODULE = "jax_persistent._native"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def forget_native() -> Iterator[None]:
    """Lets a test load the native module anew, and the next one too."""
    registration.native_module.cache_clear()
    yield
    registration.native_module.cache_clear()


def fake_native(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    monkeypatch.setitem(sys.modules, MODULE, module)
    monkeypatch.delattr(jax_persistent, "_native", raising=False)
    if module is not None:
        monkeypatch.setattr(jax_persistent, "_native", module, raising=False)


def test_native_module_is_built_from_these_sources() -> None:
    newer = info.newer_source(registration.native_module())
    assert newer is None, f"the native module is older than {newer}: run `make setup`"


def test_a_newer_source_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, sources = tmp_path / "jax_persistent", tmp_path / "native"
    for folder in (package, sources):
        folder.mkdir()
    built, source = package / "_native.so", sources / "kernel.h"
    for path in (built, source, sources / "notes.txt"):
        path.touch()
    monkeypatch.setattr(jax_persistent, "__file__", str(package / "__init__.py"))
    module = ModuleType(MODULE)
    module.__file__ = str(built)
    ages = {"older": -10.0, "newer": 10.0}
    for age, seconds in ages.items():
        moment = built.stat().st_mtime + seconds
        os.utime(source, (moment, moment))
        assert info.newer_source(module) == (source if age == "newer" else None)


def test_info_names_versions_and_kernels() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jax_persistent", "info"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if "  " in line)
    assert lines["jax_persistent"] == jax_persistent.__version__ == version("jax-persistent")
    for package in ("jax", "jaxlib", "flax"):
        assert lines[package] == version(package)
    assert "_native" in done.stdout
    assert (
        f"XLA FFI {'.'.join(map(str, registration.native_module().ffi_version()))}" in done.stdout
    )
    assert registration.native_module().cpu_isa() in done.stdout
    assert "no NVIDIA driver (" in lines["GPUs"]
    assert re.match(r"1[23]\.\d+, .*libnvrtc", lines["NVRTC"])


def test_a_reader_may_stop_early() -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does when it has its lines
    command = [sys.executable, "-m", "jax_persistent", "info"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_nvrtc_is_found_where_the_wheels_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of CUDA 13 and 12, side by side in two folders of packages: the newest first."""
    files = {
        "site/nvidia/cuda_nvrtc/lib": ("libnvrtc.so.12", "libnvrtc.alt.so.12"),
        "user/nvidia/cu13/lib": ("libnvrtc.so.13", "libnvrtc-builtins.so.13.5"),
        "site/nvidia/cuda_runtime/lib": ("libcudart.so.12",),
    }
    for folder, names in files.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / folder / name).touch()
    places = [str(tmp_path / name / "nvidia") for name in ("site", "user")]
    spec = SimpleNamespace(submodule_search_locations=places)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    assert [Path(file).relative_to(tmp_path).as_posix() for file in compat.nvrtc_files()] == [
        "user/nvidia/cu13/lib/libnvrtc.so.13",
        "site/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
    ]


@pytest.mark.parametrize("architecture", ["sm_75", "sm_1", "gpu"])
def test_warm_needs_an_architecture_with_kernels(
    architecture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["warm", "--cell", "gru", "--architecture", architecture]) == 1
    assert architecture in capsys.readouterr().err


@pytest.mark.parametrize(
    ("library", "says"),
    [("/nowhere/libnvrtc.so", "cannot open shared object file"), ("libm.so.6", "has no function")],
)
def test_warm_without_a_compiler_says_how_to_mend_it(library: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jax_persistent", "warm", "--architecture", "sm_90"],
        env={**os.environ, "JAX_PERSISTENT_LIBNVRTC": library, "JAX_PERSISTENT_CACHE_DIR": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("no NVRTC to compile the kernels with: ")
    assert says in done.stderr
    assert "pip: jax-persistent[cuda13] or jax-persistent[cuda12]" in done.stderr


def test_warm_without_a_gpu_asks_for_an_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["warm"]) == 1
    assert "--architecture sm_90" in capsys.readouterr().err


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["inform"])
    assert "invalid choice: 'inform'" in capsys.readouterr().err


@pytest.mark.usefixtures("forget_native")
def test_a_missing_module_says_how_to_mend_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_native(monkeypatch, None)
    with pytest.raises(ImportError, match=r"can't be loaded: .*_native.*pip install"):
        registration.native_module()
    assert command.main(["info"]) == 1
    assert "pip install" in capsys.readouterr().err


@pytest.mark.usefixtures("forget_native")
@pytest.mark.parametrize(
    ("built", "runs"), [((0, 4), (0, 3)), ((1, 0), (0, 4)), ((0, 3), (1, 0)), ((2, 0), (1, 9))]
)
def test_another_ffi_version_is_refused(
    monkeypatch: pytest.MonkeyPatch, built: tuple[int, int], runs: tuple[int, int]
) -> None:
    fake_native(monkeypatch, SimpleNamespace(ffi_version=lambda: built))
    monkeypatch.setattr(compat, "runtime_ffi_version", lambda: runs)
    says = rf"against XLA FFI {built[0]}\.{built[1]}, but jaxlib .* has {runs[0]}\.{runs[1]}\. Re"
    with pytest.raises(ImportError, match=says):
        registration.native_module()


@pytest.mark.usefixtures("forget_native")
@pytest.mark.parametrize(("built", "runs"), [((0, 3), (0, 3)), ((0, 3), (0, 4)), ((0, 3), None)])
def test_an_older_minor_version_is_taken(
    monkeypatch: pytest.MonkeyPatch, built: tuple[int, int], runs: tuple[int, int] | None
) -> None:
    module = SimpleNamespace(search_for=lambda *_: None, ffi_version=lambda: built, targets=dict)
    fake_native(monkeypatch, module)
    monkeypatch.setattr(compat, "runtime_ffi_version", lambda: runs)
    assert registration.native_module() is module


def test_runtime_version_is_read_from_jaxlib() -> None:
    found = compat.runtime_ffi_version()
    assert found is not None
    assert found >= tuple(registration.native_module().ffi_version())


@pytest.mark.parametrize(
    ("tag", "says"),
    [
        ("v1.2.0", None),
        ("v1.2.1", "expected v1.2.0, as pyproject.toml has it; got v1.2.1"),
        ("1.2.0", "expected v1.2.0"),
    ],
)
def test_a_tag_is_the_version(tag: str, says: str | None) -> None:
    problem = runpy.run_path(str(ROOT / ".ci" / "check_tag.py"))["problem"]
    found = problem(tag, "1.2.0", "## [1.2.0] - 2026-11-26")
    assert found is None if says is None else says in found
    assert "expected a section '## [1.2.0]'" in problem("v1.2.0", "1.2.0", "## [Unreleased]")
