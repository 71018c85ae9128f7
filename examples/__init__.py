# SPDX-License-Identifier: Apache-2.0
"""Real programs on real data; run one with `python -m examples.<name>`."""
