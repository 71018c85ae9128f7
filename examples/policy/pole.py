# SPDX-License-Identifier: Apache-2.0
"""Balancing a pole on a cart whose velocities are hidden.

The task of Barto, Sutton and Anderson, "Neuronlike adaptive elements that can solve difficult
learning control problems", 1983, without friction; there all four variables are observed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

GRAVITY = 9.8  # m/s^2
CART = 1.0  # kg
POLE = 0.1  # kg
HALF_LENGTH = 0.5  # m, from the pivot to the pole's centre of mass
FORCE = 10.0  # N
SECONDS = 0.02  # a step
TRACK = 2.4  # m to each side
TILT = math.radians(12)


class PoleState(NamedTuple):
    position: Array  # of the cart, m
    velocity: Array
    angle: Array  # of the pole from upright, rad
    angular_velocity: Array
    time: Array  # steps


def accelerations(state: PoleState, force: Array) -> tuple[Array, Array]:
    """Of the cart and, angular, of the pole."""
    total = CART + POLE
    sine, cosine = jnp.sin(state.angle), jnp.cos(state.angle)
    swing = (force + POLE * HALF_LENGTH * state.angular_velocity**2 * sine) / total
    angular = (GRAVITY * sine - swing * cosine) / (HALF_LENGTH * (4 / 3 - POLE * cosine**2 / total))
    return swing - POLE * HALF_LENGTH * angular * cosine / total, angular


@dataclass(frozen=True)
class Pole:
    """Action 1 pushes the cart to the right, 0 to the left, always with the same force.

    An episode ends when the cart leaves its track, the pole leans too far, or at the limit. The
    return is the share of the limit that was reached.
    """

    limit: int
    actions: ClassVar[int] = 2
    features: ClassVar[int] = 2

    def reset(self, key: Array) -> PoleState:
        motion = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return PoleState(*motion, time=jnp.zeros((), jnp.int32))

    def observe(self, state: PoleState) -> Array:
        return jnp.stack([state.position / TRACK, state.angle / TILT])

    def step(self, state: PoleState, action: Array, key: Array) -> tuple[PoleState, Array, Array]:
        del key
        acceleration, angular = accelerations(state, jnp.where(action == 1, FORCE, -FORCE))
        after = PoleState(
            state.position + SECONDS * state.velocity,
            state.velocity + SECONDS * acceleration,
            state.angle + SECONDS * state.angular_velocity,
            state.angular_velocity + SECONDS * angular,
            state.time + 1,
        )
        failed = (jnp.abs(after.position) > TRACK) | (jnp.abs(after.angle) > TILT)
        reward = jnp.where(failed, 0.0, 1 / self.limit)
        return after, reward, failed | (after.time == self.limit)
