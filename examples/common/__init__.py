# SPDX-License-Identifier: Apache-2.0
"""What the examples share: data fetched once, checked and cached."""
