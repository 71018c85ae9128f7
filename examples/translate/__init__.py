# SPDX-License-Identifier: Apache-2.0
"""English to Chinese: attention over persistent LSTMs."""
