# SPDX-License-Identifier: Apache-2.0
"""What `explain` returns: the recurrences of a call, and its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from jax_persistent.backends.base import Plan


@dataclass(frozen=True)
class Recurrence:
    """One recurrence of a call, in one pass.

    Attributes:
      name: what its kernel is called in profiles, such as "lstm 256 forward"; "lax.scan" for one
        that is written as such, or became one while the call was traced.
      plan: how it runs, in the words of `jp.plan`; for a "lax.scan" how `jp.scan` would run it.
      sizes: by letter: T steps, B rows of a group, H units, I features, N groups (of weights).
      dtype: of its sequences and matrices.
      line: the line of the user's source that it comes from, "train.py:31 (loss)"; None if none is
        known.
      inside: the loops, branches and meshes around it, the outermost first.
      count: how many such there are.
    """

    name: str
    plan: Plan
    sizes: dict[str, Any]
    dtype: str
    line: str | None = None
    inside: tuple[str, ...] = ()
    count: int = 1

    @property
    def on_kernel(self) -> bool:
        return self.plan.backend == "native" and self.name != "lax.scan"

    def __str__(self) -> str:
        sizes = ", ".join(f"{letter} = {size}" for letter, size in self.sizes.items())
        head = f"{self.name}: {'kernel' if self.on_kernel else 'scan'}. {sizes}, {self.dtype}"
        head += f", {self.count} times" * (self.count > 1)
        head += "".join(f", in {place}" for place in self.inside)
        head += f"; {self.line}" if self.line else ""
        text = self.plan.reason
        if self.name == "lax.scan" and self.plan.backend == "native":
            text = f"jax_persistent.scan in its place would be a kernel: {text}"
        return "\n".join([head, *(f"    {line}" for line in text.splitlines())])


@dataclass(frozen=True)
class Explanation:
    """How the recurrences of a call run; `print` it.

    Attributes:
      device: what they are explained for: a platform, or an architecture such as "sm_90".
      recurrences: in the order of the program.
      notices: what the layers and functions said while they were traced, such as why a layer is a
        scan of its cell's calls.
      devices: how many devices the arguments are spread over.
    """

    device: str
    recurrences: tuple[Recurrence, ...]
    notices: tuple[str, ...] = ()
    devices: int = 1

    @property
    def on_kernels(self) -> tuple[Recurrence, ...]:
        return tuple(each for each in self.recurrences if each.on_kernel)

    @property
    def as_scans(self) -> tuple[Recurrence, ...]:
        return tuple(each for each in self.recurrences if not each.on_kernel)

    @property
    def backend(self) -> str:
        """ "native" if all recurrences run on a kernel, "reference" if none does, else "mixed"."""
        if not self.on_kernels:
            return "reference"
        return "mixed" if self.as_scans else "native"

    @property
    def reason(self) -> str:
        """What the plans say, those of scans alone if there are any."""
        return "\n".join(each.plan.reason for each in self.as_scans or self.recurrences)

    def __str__(self) -> str:
        total, native = (sum(r.count for r in each) for each in (self.recurrences, self.on_kernels))
        if not total:
            text = "no recurrence in this call"
        else:
            text = f"{total} recurrence{'s' * (total > 1)}, {native} on a kernel"
        text = f"{self.backend} on {self.device}: {text}"
        if self.devices > 1:
            text += (
                f"\nThe arguments are on {self.devices} devices: each gets its part of groups and "
                "rows, and a plan for that, when XLA splits the program; below is the whole"
            )
        parts = [text, *map(str, self.recurrences)]
        if self.notices:
            parts.append(
                "\n".join(["Said while it was traced:", *(f"    {n}" for n in self.notices)])
            )
        return "\n\n".join(parts)

    __repr__ = __str__


def name_of(device: jax.Device | str) -> str:
    return device if isinstance(device, str) else device.platform
