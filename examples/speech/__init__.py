# SPDX-License-Identifier: Apache-2.0
"""Speech to text: a convolution front end and persistent bidirectional LSTMs, trained with CTC."""
