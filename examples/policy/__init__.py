# SPDX-License-Identifier: Apache-2.0
"""Recurrent proximal policy optimisation on tasks that need memory."""
