#!/usr/bin/env bash
# Runs on one NVIDIA GPU what only a GPU can tell, in less than half an hour.
#
#     benchmarks/gpu.sh [FOLDER]
#     benchmarks/gpu.sh --dry [FOLDER]
#
# The results are written to FOLDER, by default benchmarks/results/<date>_<device>: NAME.txt, the
# output, and NAME.json for each part. The most important parts come first. Each part has its own
# time limit, and if it fails the next one runs all the same; at the end the failed parts are
# listed, and the exit code is 1 if there are any. The variable PYTHON names the interpreter
# (python); JAX must find the GPU, and PyTorch, where it is installed with CUDA, is timed too.
# SCALE=2 doubles all limits, for a slow machine. PARTS='step_* loop' runs the parts that match one of
# these patterns.
#
# --dry needs no GPU: it compiles for the GPU named by the variable DEVICE (h100), without running
# them, the programs that the parts would run: the kernels, the training step at both batches in
# both dtypes, with each of XLA's options, deterministic and in full precision, and the evaluation.
# Not among them are PyTorch's, the small ones of device_check.py, other forms of the towers, and
# the trials of tune_normalization.py. The compilers must be installed: python
# benchmarks/compile_for.py --install. It prints a line for each program, writes NAME.txt and NAME/
# (the report, HLO and PTX) to FOLDER, by default build/gpu_dry, and fails if one does not compile.

set -euo pipefail

dry=
if [[ ${1:-} == --dry ]]; then
  dry=1
  shift
fi
folder=${1:-}
[[ -z $folder ]] || folder=$(realpath -m -- "$folder")
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python}
failed=()

# Options of XLA that may make the step on one GPU faster. All exist in JAX 0.10.2 and 0.12.0, and
# --dry compiles the step with each. JAX_OPTIMIZATION_LEVEL=O1 is not among them: it hides the
# latency of collectives, which one GPU does not have. Nor is
# xla_gpu_experimental_enable_triton_heroless_priority_fusion: it makes 529 launches of 116 (counted
# with JAX 0.12.0 for an H100, a quarter of the maps and units).
options=(
  # No CUDA graphs: they save launches, but each step has to update them.
  xla_gpu_enable_command_buffer=
  # Products by cuBLAS alone, without Triton, and then by cuBLASLt, which adds the bias.
  xla_gpu_enable_triton_gemm=false
  'xla_gpu_enable_triton_gemm=false;xla_gpu_enable_cublaslt=true'
  # Products with what precedes and follows them, by cuDNN.
  xla_gpu_cudnn_gemm_fusion_level=2
)

has_mosaic_gpu() { "$python" -c 'import jax, sys; sys.exit(jax.__version_info__ < (0, 12))'; }

# Compiles one program: NAME FLAGS...
compile() {
  local name=$1 start=$SECONDS code=0
  shift
  set -- benchmarks/compile_for.py --device="${DEVICE:-h100}" --out="$folder/$name" --rows=0 "$@"
  "$python" "$@" >"$folder/$name.txt" 2>&1 || code=$?
  if ((code)); then
    failed+=("$name ($code)")
    printf '%s does not compile: %s\n' "$name" "$(tail -n 1 -- "$folder/$name.txt")"
  else
    printf '%s: compiled in %s s\n' "$name" "$((SECONDS - start))"
  fi
}

compile_all() {
  local dtype batch text
  for dtype in bfloat16 float32; do
    compile "kernels_$dtype" --what=kernels --dtype="$dtype"
    if has_mosaic_gpu; then
      compile "mosaic_gpu_$dtype" --what=kernels --dtype="$dtype" --implementation=mosaic_gpu
    fi
    for batch in 1024 128; do
      compile "step_${dtype}_$batch" --batch="$batch" --dtype="$dtype"
    done
    compile "evaluation_$dtype" --what=evaluation --dtype="$dtype"
  done
  compile step_highest --config.model.precision=highest
  compile step_deterministic --dtype=bfloat16 --config.deterministic=true
  for text in "${options[@]}"; do
    compile "step_${text//[^a-z0-9_]/_}" --dtype=bfloat16 --options="$text"
  done
}

if [[ $dry ]]; then
  folder=${folder:-build/gpu_dry}
  mkdir -p -- "$folder"
  compile_all
  printf '%s s in all; the reports are in %s\n' "$SECONDS" "$folder"
  if ((${#failed[@]})); then
    echo "failed: ${failed[*]}"
    exit 1
  fi
  exit 0
fi

device=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1) || true
if [[ -z $device ]]; then
  echo 'gpu.sh: nvidia-smi reports no GPU; --dry compiles all programs without one' >&2
  exit 1
fi
slug=$(tr '[:upper:]' '[:lower:]' <<<"$device" | tr -cs 'a-z0-9' '_')
folder=${folder:-benchmarks/results/$(date +%F)_${slug%_}}
mkdir -p -- "$folder"

export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
export PYTHONUNBUFFERED=1                  # keeps the output of a part that is stopped
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.55 # leaves the rest to PyTorch
# Algorithms that were chosen by timing them are used by the next parts too: this saves time, and
# their programs differ only in what is compared.
measured=$(mktemp -d)
trap 'rm -rf -- "$measured"' EXIT
export XLA_FLAGS="${XLA_FLAGS:-} --xla_gpu_per_fusion_autotune_cache_dir=$measured"

# Succeeds if the part belongs to those that the variable PARTS names, which may be patterns.
is_wanted() {
  local pattern
  set -f
  for pattern in ${PARTS:-*}; do
    # shellcheck disable=SC2053 # the right side is a pattern
    [[ $1 == $pattern ]] && { set +f; return 0; }
  done
  set +f
  return 1
}

# part SECONDS NAME COMMAND...: runs a command and copies its output to NAME.txt.
part() {
  local seconds=$(($1 * ${SCALE:-1})) name=$2 code=0
  shift 2
  is_wanted "$name" || return 0
  printf '\n== %s, after %s s, for at most %s s: %s\n' "$name" "$SECONDS" "$seconds" "$*"
  timeout --kill-after=5 "$seconds" "$@" 2>&1 | tee -- "$folder/$name.txt" || code=$?
  if ((code)); then
    echo "== $name failed: exit code $code"
    failed+=("$name ($code)")
  fi
}

# Prints selected fields: the full table of nvidia-smi lists the processes of other users.
about_gpu() {
  local fields=name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.memory
  nvidia-smi --query-gpu="$fields,temperature.gpu,utilization.gpu,mig.mode.current" --format=csv
}
export -f about_gpu

program() { # SECONDS NAME PROGRAM FLAGS...
  local seconds=$1 name=$2 file=$3
  shift 3
  part "$seconds" "$name" "$python" "benchmarks/$file.py" --out="$folder/$name.json" "$@"
}

step() { # SECONDS NAME FLAGS...
  local seconds=$1 name=$2
  shift 2
  program "$seconds" "$name" step --devices=1 --what=step --repeats=15 "$@"
}

normalization() { # SECONDS NAME FLAGS...
  local seconds=$1 name=$2
  shift 2
  program "$seconds" "$name" normalization "$@"
}

# The limits allow for compilation: on an H100 the step takes 38 to 47 s (JAX 0.11.2), most of it to time
# algorithms and to compile the kernels, and PyTorch's takes more than 50 s.
part 4 gpu bash -c about_gpu
step 85 step_bfloat16_1024 --batch=1024 --dtype=bfloat16 --torch=eager
step 70 step_bfloat16_128 --batch=128 --dtype=bfloat16 --torch=eager
step 70 step_float32_1024 --batch=1024 --torch=eager
step 70 step_float32_128 --batch=128 --torch=eager
program 110 resident resident --batch=1024 --dtype=bfloat16
program 150 checks device_check
normalization 150 kernels --check --kernels=pallas
normalization 75 normalization_1024 --batch=1024 --dtype=bfloat16 --nocheck_first \
  --kernels=pallas --repeats=5
normalization 60 normalization_128 --batch=128 --dtype=bfloat16 --nocheck_first \
  --kernels=pallas --repeats=5 --notorch
program 60 loop loop --steps=500 --repeats=3
step 70 deterministic --batch=128 --dtype=bfloat16 --torch=none --deterministic
step 70 highest --batch=128 --precision=highest --torch=none
step 240 options --batch=128 --dtype=bfloat16 --torch=none "${options[@]/#/--options=}"
step 150 compiled --batch=1024 --dtype=bfloat16 --torch=compiled
program 20 tuning tune_normalization --dtype=bfloat16 --layers=conv1 --repeats=3
step 140 forms --batch=1024 --dtype=bfloat16 --forms=blocks,grouped --torch=none
# Last, because its kernels are the newest: one that fails may leave the GPU unusable for a while.
if has_mosaic_gpu; then
  normalization 30 mosaic_gpu --batch=128 --kernels=mosaic_gpu --dtype=bfloat16 --repeats=5 --notorch
else
  echo 'this version of JAX has no Mosaic GPU kernels for response normalization'
fi

printf '\n%s s in all; results are in %s\n' "$SECONDS" "$folder"
if ((${#failed[@]})); then
  echo "failed (124 and 137 are time limits): ${failed[*]}"
  exit 1
fi
