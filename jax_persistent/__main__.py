# SPDX-License-Identifier: Apache-2.0
"""`python -m jax_persistent`."""

import sys

from jax_persistent.cli import main

if __name__ == "__main__":
    sys.exit(main())
