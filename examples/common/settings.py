# SPDX-License-Identifier: Apache-2.0
"""The settings of a run: a frozen dataclass whose fields are also flags of the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field. A number has to be more than 0 or, where it is given, at least `least`."""
    limits = {"least": least, "below": below, "choices": choices}
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class RunSettings:
    """Base of such dataclasses. A value out of range is a ValueError."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            wanted = _violated(getattr(self, item.name), item.metadata)
            if wanted:
                got = getattr(self, item.name)
                raise ValueError(f"{item.name}: expected {wanted}, got {got}")

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))


Chosen = TypeVar("Chosen", bound=RunSettings)


def _violated(value: Any, limits: Mapping[str, Any]) -> str:
    """What a value should be, where it isn't."""
    if isinstance(value, str):
        return "" if value in limits["choices"] else " or ".join(limits["choices"])
    if limits["least"] is None:
        if value <= 0:
            return "more than 0"
    elif value < limits["least"]:
        return f"at least {limits['least']}"
    if limits["below"] is not None and value >= limits["below"]:
        return f"less than {limits['below']}"
    return ""


def add_flags(parser: argparse.ArgumentParser, presets: Mapping[str, RunSettings]) -> None:
    """A flag for each field, and `--preset` (the first one) for those that are left out."""
    first = next(iter(presets))
    parser.add_argument(
        "--preset", choices=presets, default=first, help="defaults of the options below"
    )
    for item in dataclasses.fields(presets[first]):
        defaults = ", ".join(f"{name} {getattr(each, item.name)}" for name, each in presets.items())
        parser.add_argument(
            f"--{item.name.replace('_', '-')}",
            type=type(item.default),
            help=f"{item.metadata['help']} ({defaults})",
        )


def from_flags(
    options: argparse.Namespace, presets: Mapping[str, Chosen], *, earlier: bool
) -> Chosen:
    """The preset with the flags that were given or, of an `earlier` run, those in --output.

    Raises ValueError where a flag would change an earlier run, FileNotFoundError without one.
    """
    preset = presets[options.preset]
    given = {
        item.name: getattr(options, item.name)
        for item in dataclasses.fields(preset)
        if getattr(options, item.name) is not None
    }
    if not earlier:
        return dataclasses.replace(preset, **given)
    path = options.output / "settings.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no run to go on from: expected {path}; give the --output of an earlier run"
        )
    settings = type(preset).load(path)
    for name, value in given.items():
        if getattr(settings, name) != value:
            raise ValueError(
                f"--{name.replace('_', '-')}: the run in {options.output} has "
                f"{getattr(settings, name)}, got {value}; leave the flag out, or start another run"
            )
    return settings
