# SPDX-License-Identifier: Apache-2.0
"""The recogniser's convolution against XLA's, and what it refuses."""

from __future__ import annotations

from functools import partial
from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.speech.convolution import strided

PADDINGS = ((0, 0), (0, 0)), ((1, 0), (0, 2)), ((2, 1), (3, 3))
SIZES, STRIDES = ((11, 9), (5, 4), (3, 3)), ((2, 2), (1, 3), (3, 2))
CASES = list(product((12, 13), (9, 10), SIZES, STRIDES, PADDINGS))


@pytest.mark.parametrize(("first", "channels"), [(0, (1, 3)), (1, (2, 5)), (2, (1, 40))])
def test_values_and_gradients_are_those_of_xla(first, channels):
    for frames, mels, size, strides, padding in CASES[first::13]:
        keys = jax.random.split(jax.random.key(frames + mels), 2)
        x = jax.random.normal(keys[0], (2, frames, mels, channels[0]))
        of = partial(
            nn.Conv, channels[1], size, strides, padding, bias_init=nn.initializers.normal()
        )
        variables = of().init(keys[1], x)

        def loss(convolve, variables, x, of=of):
            y = of(conv_general_dilated=convolve).apply(variables, x)
            return jnp.sin(y).sum(), y

        found, wanted = (
            jax.value_and_grad(partial(loss, way), (0, 1), has_aux=True)(variables, x)
            for way in (strided, None)
        )
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5), found, wanted)


@pytest.mark.parametrize(
    "asked", [{"input_dilation": 2}, {"kernel_dilation": 2}, {"feature_group_count": 2}]
)
def test_dilations_and_groups_are_refused(asked):
    convolution = nn.Conv(4, (3, 3), strides=2, conv_general_dilated=strided, **asked)
    with pytest.raises(ValueError, match="no dilation, no groups"):
        convolution.init(jax.random.key(0), jnp.ones((1, 9, 9, 2)))


def test_a_stride_past_the_kernel_is_refused():
    convolution = nn.Conv(4, (2, 3), strides=3, conv_general_dilated=strided)
    with pytest.raises(ValueError, match="strides within the kernel"):
        convolution.init(jax.random.key(0), jnp.ones((1, 9, 9, 2)))
