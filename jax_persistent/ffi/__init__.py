# SPDX-License-Identifier: Apache-2.0
"""The seam to XLA: registration of the native targets, calls to them, their split over devices."""
