# SPDX-License-Identifier: Apache-2.0
"""Pure functions on arrays: the public operations, their checks, derivatives and batching."""
