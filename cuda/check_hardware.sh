#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All that needs a GPU, in one command of under ten minutes: build, tests, sanitizers, benchmark.
#
#   cuda/check_hardware.sh                         # everything; results in build/gpu-results, or $OUT
#   cuda/check_hardware.sh --stages build,tests    # some of it
#   cuda/check_hardware.sh --rehearse              # each stage's stand-in, on a machine without a GPU
#
# Needs what a GPU machine has: CUDA 13, Python 3.12 with jax, cmake, ninja, nanobind, pytest, torch.
# Wheels that it lacks can be carried in a folder (--wheels DIR, or $WHEELS; .whl). Each stage has a
# limit of its own and no stage stops the next ones; the exit status is 1 if any failed. Where the
# checkout comes without its .git, JAX_PERSISTENT_COMMIT says what was measured.
set -uo pipefail
cd "$(dirname "$0")/.."

stages=facts,wheels,build,info,tests,capture,memcheck,racecheck,benchmark,ncu,flashrnn
wheels=${WHEELS:-.whl} out=${OUT:-build/gpu-results} seconds=570 rehearse=
while [[ $# -gt 0 ]]; do
  case $1 in
    --rehearse) rehearse=1 ;;
    --stages) stages=$2; shift ;;
    --wheels) wheels=$2; shift ;;
    --out) out=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    *) sed -n '3,13s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
  shift
done

PATH=$PATH:/usr/local/cuda/bin
for folder in /opt/nvidia/nsight-compute/*/; do PATH=$PATH:$folder; done
python=${PYTHON:-$([[ $rehearse && -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/logs" "$out"
out=$(realpath "$out")
: >"$work/stages.tsv"
failed=0
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
# Several processes share the GPU's memory.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

# note NAME STATUS SECONDS DETAIL: a line of the table, and everything so far to $out.
note() {
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" | tee -a "$work/stages.tsv"
  tar -czf "$out/logs.tar.gz" -C "$work" logs
  "$python" - "$work/stages.tsv" "$work/logs/facts.log" "$out/hardware.json" <<'PYTHON'
import json, pathlib, sys
rows, facts, to = map(pathlib.Path, sys.argv[1:])
names = ("stage", "status", "seconds", "detail")
stages = [dict(zip(names, row.split("\t"), strict=True)) for row in rows.read_text().splitlines()]
seen = facts.read_text().splitlines() if facts.exists() else []
to.write_text(json.dumps({"stages": stages, "machine": seen}, indent=1) + "\n")
PYTHON
}

# stage NAME LIMIT RESERVED COMMAND...: runs it for LIMIT seconds at most and so that RESERVED are
# left for what comes after; its last line that says anything becomes its detail.
stage() {
  local name=$1 limit=$2 left=$((seconds - SECONDS - $3)) began=$SECONDS status detail code
  shift 3
  local log=$work/logs/$name.log
  if ((left < 10)); then
    note "$name" "NO TIME" 0 "$((seconds - SECONDS)) s are left"
    failed=1
    return 1
  fi
  ((limit = left < limit ? left : limit))
  echo "--- $name (at most $limit s): $*"
  LIMIT=$limit timeout --kill-after=5 "$limit" "$@" >"$log" 2>&1
  code=$?
  case $code in
    0) status=ok ;;
    124 | 137) status=TIMEOUT failed=1 ;;
    *) status="FAILED ($code)" failed=1 ;;
  esac
  detail=$(grep -v '^[[:space:]]*$' "$log" | tail -n 1 | tr '\t' ' ' | cut -c1-160)
  [[ $status == ok ]] || tail -n 25 "$log"
  note "$name" "$status" "$((SECONDS - began))" "$detail"
  [[ $status == ok ]]
}
wanted() { [[ ,$stages, == *,$1,* ]]; }
skip() { wanted "$1" && note "$1" skipped 0 "$2"; }

facts() {
  [[ $rehearse ]] || nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,memory.total --format=csv || return
  if command -v nvcc; then nvcc --version | tail -n 2; fi
  "$python" -c '
import sys, jax
print("Python", sys.version)
print("jax", jax.__version__, jax.devices())
assert sys.argv[1] or jax.default_backend() == "gpu", "jax sees no GPU"' "$rehearse"
}

install_wheels() {
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$work/site" "$wheels"/*.whl && ls "$work/site"
}

build() {
  if [[ $rehearse ]] && "$python" -c 'import jax_persistent._native'; then
    echo "rehearsed: the module is there"
    return
  fi
  nproc
  "$python" -m pip install -v --no-build-isolation --no-deps --no-cache-dir --editable .
}

tests() {
  local options=(-q -W default -p no:cacheprovider --durations=8 --junitxml "$out/tests.xml")
  if [[ $rehearse ]]; then
    JAX_PERSISTENT_REHEARSE=1 "$python" -m pytest tests/cuda/test_gpu.py "${options[@]}" \
      -k "there_is or nan"
    return
  fi
  "$python" -c 'import xdist' && options+=(-n 4 --dist loadgroup)
  # Hundreds of small programs: what the products around the kernels cost is of no interest.
  XLA_FLAGS=--xla_gpu_autotune_level=0 JAX_PERSISTENT_REQUIRE_GPU=1 \
    "$python" -m pytest tests/cuda/test_gpu.py "${options[@]}"
}

capture() {
  nvcc -std=c++20 -arch=sm_90 tests/cuda/capture.cu -o "$work/capture" || return
  if [[ $rehearse ]]; then echo "rehearsed: it compiles"; else "$work/capture"; fi
}

# sanitize TOOL EXCHANGES: each allocation by itself, so that a step past one is seen; few kernels
# besides ours, and only ours looked at.
sanitize() {
  local calls=("$python" -m tests.cuda.small_calls --exchanges "$2")
  if [[ $rehearse ]]; then
    "${calls[@]}" --cells lstm --dtypes float32 --sizes 3,2,5
    return
  fi
  XLA_PYTHON_CLIENT_ALLOCATOR=platform XLA_FLAGS="--xla_gpu_autotune_level=0 --xla_gpu_enable_command_buffer=" \
    compute-sanitizer --tool "$1" --error-exitcode 9 --kernel-name kernel_substring=ward_ \
    "${calls[@]}"
}
memcheck() { sanitize memcheck grid,grid-barrier,cluster; }
racecheck() { sanitize racecheck grid,cluster; }

# The shape in work when the budget ends is finished: some time is kept for it.
benchmark() {
  local options=(--quick --budget $((LIMIT > 90 ? LIMIT - 40 : LIMIT / 2)))
  [[ $rehearse ]] && options=(--dry-run --rounds 1 --cells elman --dtypes bfloat16 --hidden 256
    --batch 4 --exchange auto --peers cudnn)
  XLA_PYTHON_CLIENT_PREALLOCATE=true "$python" -m benchmarks.gpu "${options[@]}" \
    --output "$work/benchmark.json" && echo "see benchmark.json"
}

flashrnn() {
  XLA_PYTHON_CLIENT_PREALLOCATE=true "$python" -m benchmarks.gpu --cells lstm --dtypes bfloat16 \
    --hidden 768 --batch 16 --exchange auto --peers cudnn,cudnn-float16,flashrnn \
    --output "$work/benchmark-flashrnn.json" && echo "see benchmark-flashrnn.json"
}

profile() {
  ncu --clock-control none --target-processes all -k regex:ward_ -c 4 \
    --section SpeedOfLight --section WarpStateStats --section SchedulerStats \
    --section MemoryWorkloadAnalysis --section LaunchStats --section SourceCounters \
    "$python" -m tests.cuda.small_calls --unchecked --cells lstm --dtypes bfloat16 \
    --exchanges grid,cluster --sizes 256,8,512
}

# timeout runs programs, not functions.
export -f facts install_wheels build tests capture sanitize memcheck racecheck benchmark flashrnn profile
export python work out wheels rehearse
run() { stage "$1" "$2" "$3" bash -c "${4:-$1}"; }

wanted facts && run facts 60 0
if wanted wheels; then
  if compgen -G "$wheels/*.whl" >/dev/null; then
    run wheels 60 0 install_wheels
  else
    skip wheels "no wheels in $wheels"
  fi
fi
export PYTHONPATH=$PYTHONPATH:$work/site
wanted build && run build 330 200
wanted info && run info 40 0 '"$python" -m jax_persistent info'
wanted tests && run tests 200 130
wanted capture && run capture 40 110
if command -v compute-sanitizer >/dev/null || [[ $rehearse ]]; then
  wanted memcheck && run memcheck 60 110
  wanted racecheck && run racecheck 60 110
else
  skip memcheck "no compute-sanitizer"
  skip racecheck "no compute-sanitizer"
fi
wanted benchmark && run benchmark 190 5
[[ -f $work/benchmark.json ]] && cp "$work/benchmark.json" "$out/"
# What is nice to have, if time is left.
if [[ $rehearse ]]; then
  skip ncu "rehearsed: nothing to do without a GPU"
  skip flashrnn "rehearsed: nothing to do without a GPU"
else
  if ! command -v ncu >/dev/null; then
    skip ncu "no ncu"
  elif ((seconds - SECONDS < 40)); then
    skip ncu "no time left"
  else
    wanted ncu && run ncu 60 5 profile
    [[ -f $work/logs/ncu.log ]] && cp "$work/logs/ncu.log" "$out/"
  fi
  if ! "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("flashrnn") is None)'; then
    skip flashrnn "no flashrnn: carry its wheel"
  elif ((seconds - SECONDS < 120)); then
    skip flashrnn "no time left: --stages wheels,build,flashrnn"
  else
    wanted flashrnn && run flashrnn 500 5
    [[ -f $work/benchmark-flashrnn.json ]] && cp "$work/benchmark-flashrnn.json" "$out/"
  fi
fi

if [[ -f $work/benchmark.json ]]; then
  echo
  "$python" -m benchmarks.gpu --table "$work/benchmark.json"
fi
echo
column -t -s $'\t' "$work/stages.tsv" 2>/dev/null || cat "$work/stages.tsv"
echo "$SECONDS s; results in $out"
exit "$failed"
