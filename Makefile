# make setup   creates .venv and installs the package in it, ready for work
# make train   learns to translate English to Chinese; ARGS="--preset long" passes options on
# make train-speech  learns to write down spoken English, likewise
# make train-policy  learns tasks that need memory; TASKS=pole picks one of recall and pole
# make test    everything that is checked: style, types, native tests, Python tests
# make lint, make native-test, make pytest   its parts
# make docs    the book, from docs/, in build/book; part of lint
# make native-test-neon   the CPU kernels for AArch64, in an emulator; part of native-test where
#                         there are a cross compiler and qemu
# make wheels  the sdist and manylinux wheels for x86-64 and AArch64 in dist/, without a container;
#              PYTHONS names one Python 3.11 and one later one
# make test-wheels  tries them in fresh environments, with the oldest and the newest jax
# make format  puts the sources in the style that `make lint` asks for
#
# PYTHON=python3.12 picks the interpreter of a new .venv, JAX=0.10.0 its jax instead of the newest one,
# WERROR=ON makes every compiler warning an error, JOBS=2 limits the processes that build and test.
# ccache is used where it is installed.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
WERROR ?= OFF
JAX ?=
JOBS ?= 2
# Processes of one target; `make test` runs several targets at a time.
each ?= $(JOBS)
bin := .venv/bin
module := build/module
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check
export CMAKE_CXX_COMPILER_LAUNCHER ?= $(shell command -v ccache)
# Bytecode is kept in .venv, whatever the caller's shell says, as containers' do: without it each
# process that imports jax and flax takes 3 seconds for it instead of 1, and the tests start many.
unexport PYTHONDONTWRITEBYTECODE
folders := $(wildcard native cuda tests/native tests/cuda examples/c)
native_sources := $(shell find $(folders) -name "*.c" -o -name "*.cc" -o -name "*.h" -o -name "*.cuh")
built_from := pyproject.toml CMakeLists.txt $(shell find native cuda jax_persistent -name "*.cmake" \
  -o -name "*.def" -o -name "*.in" -o -name "*.map" -o -name CMakeLists.txt) \
  $(filter-out tests/% examples/%,$(native_sources))

# Both are needed; on AArch64 itself the plain native tests are those for NEON.
neon_tools := $(and $(shell command -v aarch64-linux-gnu-g++),$(shell command -v qemu-aarch64))
neon_install := apt install g++-aarch64-linux-gnu qemu-user

.PHONY: setup train train-speech train-policy test lint docs native-test pytest format neon-tools neon-unchecked
setup: .venv/installed

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is not Python 3.11 or later; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, pathlib, sysconfig; pathlib.Path(sysconfig.get_path("include"), "Python.h").stat()' || { \
	  echo "make: $(PYTHON) lacks venv or its C headers (Debian: apt install python3-venv python3-dev)" >&2; exit 1; }
	@command -v c++ g++ clang++ >/dev/null || { \
	  echo "make: no C++ compiler (Debian: apt install g++)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# Nothing is compiled to bytecode before it is imported: half of it never is.
.venv/requirements: .venv/bin/python .ci/requirements.py pyproject.toml
	@$(bin)/python .ci/requirements.py > $@.new
	$(pip) --no-compile --requirement $@.new $(if $(JAX),jax==$(JAX) jaxlib==$(JAX))
	@mv $@.new $@

# An editable install does not notice by itself that a native source has changed. What has not changed
# is not compiled again.
.venv/installed: .venv/requirements $(built_from)
	CMAKE_BUILD_PARALLEL_LEVEL=$(each) $(pip) --no-build-isolation --no-deps --editable . \
	  --config-settings=build-dir=$(module) \
	  --config-settings=cmake.define.JAX_PERSISTENT_TESTS=ON \
	  --config-settings=cmake.define.JAX_PERSISTENT_WERROR=$(WERROR)
	$(bin)/python -m jax_persistent info
	@touch $@

train train-speech train-policy: ARGS ?= --overwrite
TASKS ?= recall pole
train: setup
	$(bin)/python -m examples.translate $(ARGS)
train-speech: setup
	$(bin)/python -m examples.speech $(ARGS)
train-policy: setup
	for task in $(TASKS); do $(bin)/python -m examples.policy --preset $$task $(ARGS); done

# First what keeps a core busy each, side by side: each prints when it is done. Those that come last
# use all cores, so that none idles beside them. Then the Python tests, which share the cores out
# among themselves.
test: .venv/requirements
	@$(MAKE) -j $(JOBS) --output-sync=target each=$$((($(JOBS) + 1) / 2)) setup lint native-test
	@$(MAKE) pytest

lint: .venv/requirements docs
	$(bin)/ruff check --quiet
	$(bin)/ruff format --quiet --check --diff
	@echo "clang-format on $(words $(native_sources)) files"
	@$(bin)/clang-format --dry-run -Werror $(native_sources)
	$(bin)/mypy

# Warnings are errors: a link to nothing, a page that is not in mkdocs.yml. The variable silences a
# note on the future of the theme.
docs: .venv/requirements
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --quiet

format: .venv/requirements
	$(bin)/ruff check --quiet --fix
	$(bin)/ruff format
	$(bin)/clang-format -i $(native_sources)

# The shipped code as it is, and twice under sanitizers, which cannot be combined.
native-test: native-test-address native-test-thread native-test-plain
ifneq ($(neon_tools),)
native-test: native-test-neon
else ifeq ($(filter aarch64 arm64,$(shell uname -m)),)
native-test: neon-unchecked
endif
native-test-address: sanitizers := address,undefined
native-test-thread: sanitizers := thread
native-test-neon: toolchain := -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/tests/native/aarch64.cmake
native-test-neon: neon-tools
native-test-plain native-test-neon: override each = $(JOBS)
neon-tools:
	@$(if $(neon_tools),:,echo "make: no cross compiler and emulator for AArch64 (Debian: $(neon_install))" >&2; exit 1)
neon-unchecked:
	@echo "native tests: neon NOT CHECKED, no cross compiler and emulator (Debian: $(neon_install))"
# The shipped code as it is, in the tree where the module is built.
native-test-plain: setup
	@echo "native tests: plain"
	@$(bin)/cmake --build $(module) --target native_tests -j $(each) -- --quiet
	@$(bin)/ctest --test-dir $(module) -j $(each) --output-on-failure
native-test-%: .venv/requirements
	@echo "native tests: $*"
	@$(bin)/cmake -S . -B build/native/$* -G Ninja --log-level=WARNING \
	  -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(bin)/ninja -DPython_EXECUTABLE=$(CURDIR)/$(bin)/python \
	  -DJAX_PERSISTENT_TESTS=ON -DJAX_PERSISTENT_MODULE=OFF -DJAX_PERSISTENT_WERROR=ON \
	  -DJAX_PERSISTENT_SANITIZE=$(sanitizers) $(toolchain)
	@$(bin)/cmake --build build/native/$* --target native_tests -j $(each) -- --quiet
	@UBSAN_OPTIONS=print_stacktrace=1 $(bin)/ctest --test-dir build/native/$* -j $(each) --output-on-failure

PYTHONS ?= python3.11 python3.12 python3.13 python3.14
.PHONY: wheels test-wheels
wheels: .venv/bin/python
	$(bin)/python .ci/wheels.py --output dist $(PYTHONS)
test-wheels:
	$(bin)/python .ci/test_wheels.py dist $(PYTHONS)

# What the Python tests take for a GPU.
.PHONY: software-gpu
software-gpu: setup
	@$(bin)/cmake --build $(module) --target software_gpu -j $(JOBS) -- --quiet

# A file's tests stay on one worker, as they share what they train; conftest.py has the long ones first.
pytest: setup software-gpu
	$(bin)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 $(ARGS)
