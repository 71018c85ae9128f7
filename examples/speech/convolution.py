# SPDX-License-Identifier: Apache-2.0
"""`conv_general_dilated`'s results for a strided convolution, in the way that XLA's CPU runs fast.

By itself XLA multiplies by the zeros that the strides put between the gradients of the outputs:
three of four products where both are 2. And 16 channels of output or fewer, of one channel of
input, take four times as long as 32 do.

Shapes: x [B,T,M,C], kernel [t,m,C,D], outputs [B,T',M',D].
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

FAST_CHANNELS = 32
_convolve = partial(jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
_Pairs = tuple[tuple[int, int], tuple[int, int]]


def strided(x, kernel, strides, padding, *, lhs_dilation, rhs_dilation, feature_group_count, **_):
    """For flax's `nn.Conv(conv_general_dilated=strided)`, which passes these arguments.

    Raises:
      ValueError: dilations or groups are asked for, or a stride is longer than the kernel.
    """
    asked = {*lhs_dilation, *rhs_dilation, feature_group_count}
    if asked != {1} or any(s > n for s, n in zip(strides, kernel.shape[:2], strict=True)):
        raise ValueError("strided: expected no dilation, no groups, and strides within the kernel")
    return _strided(x, kernel, tuple(strides), tuple(map(tuple, padding)))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _strided(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], padding: _Pairs):
    channels = kernel.shape[-1]
    if x.shape[-1] == 1 and channels < FAST_CHANNELS:
        kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, FAST_CHANNELS - channels)))
    return _convolve(x, kernel, strides, padding)[..., :channels]


def _forward(x, kernel, strides, padding):
    return _strided(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, saved, d_y):
    x, kernel = saved
    of_kernel = jax.linear_transpose(lambda k: _convolve(x, k, strides, padding), kernel)
    return _of_input(d_y, kernel, strides, padding, x.shape), *of_kernel(d_y)


_strided.defvjp(_forward, _backward)


def _of_input(d_y, kernel, strides, padding, shape) -> jax.Array:
    """The gradient of x: one convolution of stride 1 for each phase (p, q), which is x[p::s, q::s].

    Tap (p + left) % s + n*s of the kernel meets x[i*s + p] in the output i + (p + left)//s - n.
    """
    (s_time, s_mels), (left, low) = strides, (pads[0] for pads in padding)
    rows = [-(-size // s) for size, s in zip(shape[1:3], strides, strict=True)]

    def pads(phase: int, stride: int, before: int, taps: int, given: int, wanted: int):
        last = (phase + before) // stride
        return taps - 1 - last, wanted - given + last

    def phase(p: int, q: int) -> jax.Array:
        taps = kernel[(p + left) % s_time :: s_time, (q + low) % s_mels :: s_mels]
        t, m = taps.shape[:2]
        padded = (
            pads(p, s_time, left, t, d_y.shape[1], rows[0]),
            pads(q, s_mels, low, m, d_y.shape[2], rows[1]),
        )
        return _convolve(d_y, taps[::-1, ::-1].swapaxes(2, 3), (1, 1), padded)

    phases = [jnp.stack([phase(p, q) for q in range(s_mels)], 3) for p in range(s_time)]
    whole = jnp.stack(phases, 2).reshape(shape[0], rows[0] * s_time, rows[1] * s_mels, shape[3])
    return whole[:, : shape[1], : shape[2]]
