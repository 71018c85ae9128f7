# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training state, in `checkpoints` below a run's output.

Every host takes part in saving and in restoring, on a folder that they share. What is saved names
no device: a run goes on on any number of hosts and devices.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import jax
import orbax.checkpoint as ocp

State = TypeVar("State", bound=tuple)  # a NamedTuple of trees of arrays


def open_checkpoints(output: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager((output / "checkpoints").resolve(), options=options)


def save(checkpoints: ocp.CheckpointManager, step: int, state: State) -> None:
    checkpoints.save(step, args=ocp.args.StandardSave(state._asdict()))


def restore(
    checkpoints: ocp.CheckpointManager, like: State, sharding: jax.sharding.Sharding | None = None
) -> tuple[State, int]:
    """The newest checkpoint, of the structure `like` (arrays or shapes), and its step.

    Every array gets the sharding or, without one, is on this process's first device.
    Raises FileNotFoundError where there is no checkpoint.
    """
    step = checkpoints.latest_step()
    if step is None:
        raise FileNotFoundError(
            f"no checkpoint in {checkpoints.directory}; start without --resume, or give the "
            "--output of a run that saved one"
        )
    place = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), like._asdict()
    )
    return type(like)(**checkpoints.restore(step, args=ocp.args.StandardRestore(wanted))), step
