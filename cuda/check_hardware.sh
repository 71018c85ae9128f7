#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All that needs a GPU, in two calls of at most nine minutes:
#
#   cuda/check_hardware.sh 1                  # facts, build, info, latency, tests, capture
#   cuda/check_hardware.sh 2                  # benchmark, ncu, memcheck, racecheck, racecheck_cluster
#   cuda/check_hardware.sh latency,capture    # some of it
#
# Results: build/gpu-results, or $OUT. It needs Python >= 3.11 with jax, scikit-build-core, nanobind,
# cmake, ninja and pytest; with pytest-xdist tests share the cores out. A folder named by $WHEELS, or
# .whl, has wheels of what is lacking. $PYTHON names another python3, JAX_PERSISTENT_REPEATS a number
# of runs of the tests that look for races. Where the checkout comes without its .git,
# JAX_PERSISTENT_COMMIT says what was measured. No stage stops the next ones; the exit status is 1 if
# any failed. tests/cuda/test_check_hardware.py rehearses both calls on the software GPU.
set -uo pipefail
cd "$(dirname "$0")/.."

rehearse=${JAX_PERSISTENT_REHEARSE:-}
slowness=${rehearse:+10}  # a rehearsal may share its machine
slowness=${slowness:-1} seconds=${JAX_PERSISTENT_SECONDS:-${rehearse:+5}530}
case $* in
  1) stages=facts,wheels,build,info,latency,tests,capture ;;
  2) stages=wheels,build,benchmark,ncu,memcheck,racecheck,racecheck_cluster ;;
  *[!a-z,_]* | "") sed -n '3,14s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  *) stages=$1 ;;
esac

PATH=$PATH:/usr/local/cuda/bin
for folder in /opt/nvidia/nsight-compute/*/; do PATH=$PATH:$folder; done
name=${1//,/-} python=${PYTHON:-python3} wheels=${WHEELS:-.whl} out=${OUT:-build/gpu-results}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/logs" "$out"
out=$(realpath "$out")
failed=0
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD:$work/site${PYTHONPATH:+:$PYTHONPATH}
# Several processes share the GPU's memory.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

# note STAGE STATUS SECONDS DETAIL: a line of the table, and all that is known so far to $out.
note() {
  printf '%s\t%s\t%s\t%s\n' "$@" | tee -a "$work/stages.tsv"
  tar -czf "$out/logs-$name.tar.gz" -C "$work" logs
  "$python" - "$work/stages.tsv" "$work/logs/facts.log" "$out/hardware-$name.json" <<'PYTHON'
import json, pathlib, sys
rows, facts, to = map(pathlib.Path, sys.argv[1:])
names = ("stage", "status", "seconds", "detail")
stages = [dict(zip(names, row.split("\t"), strict=True)) for row in rows.read_text().splitlines()]
seen = facts.read_text().splitlines() if facts.exists() else []
to.write_text(json.dumps({"stages": stages, "machine": seen}, indent=1) + "\n")
PYTHON
}

# run STAGE LIMIT RESERVED: for LIMIT seconds at most, and so that RESERVED are left for what comes
# after. The last line that it prints becomes its detail.
run() {
  local stage=$1 left=$((seconds - SECONDS - $3)) began=$SECONDS status=ok code
  [[ ,$stages, == *,$stage,* ]] || return
  local limit=$((slowness * $2)) log=$work/logs/$stage.log
  ((limit = left < limit ? left : limit))
  if ((limit < 10)); then
    note "$stage" "NO TIME" 0 "$((seconds - SECONDS)) s are left"
    failed=1
    return
  fi
  echo "--- $stage (at most $limit s)"
  LIMIT=$limit timeout --kill-after=5 "$limit" bash -uo pipefail -c "$stage" >"$log" 2>&1
  code=$?
  case $code in
    0) ;;
    77) status=skipped ;;
    124 | 137) status=TIMEOUT failed=1 ;;
    *) status="FAILED ($code)" failed=1 ;;
  esac
  ((code == 0 || code == 77)) || tail -n 25 "$log"
  note "$stage" "$status" "$((SECONDS - began))" \
    "$(grep -v '^[[:space:]]*$' "$log" | tail -n 1 | tr '\t' ' ' | cut -c1-160)"
}

# needs TOOL: a stage whose tool is not there is skipped.
needs() { type -P "$1" >/dev/null || { echo "no $1"; exit 77; }; }

facts() {
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,memory.total --format=csv || return
  if command -v nvcc; then nvcc --version | tail -n 2; fi
  "$python" -c '
import sys, jax
print("Python", sys.version)
print("jax", jax.__version__, jax.devices())
assert sys.argv[1] or jax.default_backend() == "gpu", "jax sees no GPU"' "$rehearse"
}

wheels() {
  compgen -G "$wheels/*.whl" >/dev/null || { echo "no wheels in $wheels"; exit 77; }
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$work/site" "$wheels"/*.whl && ls "$work/site"
}

build() {
  "$python" -m jax_persistent info && return  # the other call has built it, on this machine
  "$python" -m pip install -v --no-build-isolation --no-deps --no-cache-dir --editable .
}

info() { "$python" -m jax_persistent info; }

latency() { "$python" -m benchmarks.latency | tee "$out/latency.jsonl"; }

tests() {
  local options=(-q -W default -p no:cacheprovider --durations=8 --junitxml "$out/tests.xml")
  if [[ ! $rehearse ]]; then
    export JAX_PERSISTENT_REQUIRE_GPU=1
    # Hundreds of small programs: what the products around the kernels cost is of no interest.
    export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_autotune_level=0"
    "$python" -c 'import xdist' && options+=(-n 8 --dist loadgroup)
  fi
  "$python" -m pytest tests/cuda/test_gpu.py "${options[@]}"
}

capture() {
  needs nvcc
  nvcc -std=c++20 -arch=sm_90 tests/cuda/capture.cu -o "$work/capture" && "$work/capture"
}

# The shape in work when the budget ends is finished: some time is kept for it.
benchmark() {
  local options=(--quick --budget $((LIMIT > 90 ? LIMIT - 40 : LIMIT / 2)))
  [[ $rehearse ]] && options=(--dry-run --rounds 1 --cells elman --dtypes bfloat16 --hidden 256
    --batch 4 --exchange auto --peers cudnn)
  XLA_PYTHON_CLIENT_PREALLOCATE=true "$python" -m benchmarks.gpu "${options[@]}" \
    --output "$work/benchmark.json"
  local code=$?
  cp "$work/benchmark.json" "$out" && return $code
}

# calls OPTIONS...: small calls of LSTM kernels, under a tool that $tool has. Its filters see only
# kernels that are called forward_ or backward_ something: ours.
calls() {
  local options=(--cells lstm "$@")
  [[ $rehearse ]] && options+=(--dtypes float32 --sizes 3,2,5)
  "${tool[@]}" "$python" -m tests.cuda.small_calls "${options[@]}"
}

ncu() {
  needs ncu
  local tool=(command ncu --clock-control none --target-processes all -k regex:ward_ -c 4
    --section SpeedOfLight --section WarpStateStats --section SchedulerStats
    --section MemoryWorkloadAnalysis --section LaunchStats --section SourceCounters)
  calls --unchecked --dtypes bfloat16 --exchanges grid,cluster --sizes 256,8,512 | tee "$out/ncu.log"
}

# Each allocation by itself, so that a step past one is seen. What XLA tries and does without, such
# as peer access, is no error.
sanitize() {
  needs compute-sanitizer
  export XLA_PYTHON_CLIENT_ALLOCATOR=platform
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_autotune_level=0 --xla_gpu_enable_command_buffer="
  local tool=(compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 9
    --kernel-name kernel_substring=ward_)
  calls --exchanges "$2"
}
memcheck() { sanitize memcheck grid,grid-barrier,cluster; }
racecheck() { sanitize racecheck grid; }
# For information: the tool may not know of bytes that arrive at another block's barrier.
racecheck_cluster() {
  sanitize racecheck cluster || { echo "found something: see the log"; exit 77; }
}

# timeout runs programs, not functions.
export -f needs facts wheels build info latency tests capture benchmark calls ncu sanitize \
  memcheck racecheck racecheck_cluster
export python work out wheels rehearse

run facts 60 0
run wheels 60 0
run build 180 200
run info 40 0
run latency 60 0
run tests 400 50
run capture 50 0
run benchmark 200 210
run ncu 60 150
run memcheck 110 80
run racecheck 60 35
run racecheck_cluster 60 0

[[ -f $work/logs/benchmark.log ]] && cat "$work/logs/benchmark.log"
echo
column -t -s $'\t' "$work/stages.tsv" 2>/dev/null || cat "$work/stages.tsv"
echo "$SECONDS s; results in $out"
exit "$failed"
