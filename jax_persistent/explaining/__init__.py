# SPDX-License-Identifier: Apache-2.0
"""What runs on a kernel in a call, where its weights live, what runs as a scan, and why."""
