# SPDX-License-Identifier: Apache-2.0
"""Any step function as a program: traced, hoisted, differentiated, encoded."""
