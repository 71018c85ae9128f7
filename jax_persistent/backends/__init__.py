# SPDX-License-Identifier: Apache-2.0
"""What runs a problem: the reference, which says what it means, and a file for each platform."""
