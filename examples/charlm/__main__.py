# SPDX-License-Identifier: Apache-2.0
"""Trains the character model: `python -m examples.charlm --help`."""

import sys

from examples.charlm.charlm import main

main(sys.argv[1:])
