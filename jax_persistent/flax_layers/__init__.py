# SPDX-License-Identifier: Apache-2.0
"""What the layers for flax.linen and flax.nnx have in common."""
