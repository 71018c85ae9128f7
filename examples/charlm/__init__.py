# SPDX-License-Identifier: Apache-2.0
"""A character model of enwik8: the smallest whole example."""
