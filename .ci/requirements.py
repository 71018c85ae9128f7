# SPDX-License-Identifier: Apache-2.0
"""Prints what a development environment needs besides the package: all that pyproject.toml names.

With the tools that build the package among them, pip need not make an environment for each build.
There jaxlib is the one that the package runs with, and not the oldest, which wheels are built with.
"""

import tomllib

with open("pyproject.toml", "rb") as file:
    settings = tomllib.load(file)
project = settings["project"]
wanted = [*settings["build-system"]["requires"], *project["dependencies"]]
for extra in ("docs", "equinox", "examples", "haiku", "keras", "dev"):
    wanted += project["optional-dependencies"][extra]
print(*(one for one in wanted if not one.startswith(("jaxlib==", project["name"]))), sep="\n")
