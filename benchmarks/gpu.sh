#!/usr/bin/env bash
# Runs all benchmarks for one NVIDIA GPU, in less than eight minutes.
#
#     benchmarks/gpu.sh [FOLDER]
#
# The results are written to FOLDER, by default benchmarks/results/<date>_<device>: NAME.txt, the
# output, and NAME.json for each part. The most important parts come first. Each part has its own
# time limit, and if it fails the next one runs all the same; at the end the failed parts are
# listed, and the exit code is 1 if there are any. The variable PYTHON names the interpreter
# (python); JAX must find the GPU, and PyTorch, where it is installed with CUDA, is timed too.

set -euo pipefail

folder=${1:-}
[[ -z $folder ]] || folder=$(realpath -m -- "$folder")
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python}
failed=()

device=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1) || true
if [[ -z $device ]]; then
  echo 'gpu.sh: nvidia-smi reports no GPU' >&2
  exit 1
fi
slug=$(tr '[:upper:]' '[:lower:]' <<<"$device" | tr -cs 'a-z0-9' '_')
folder=${folder:-benchmarks/results/$(date +%F)_${slug%_}}
mkdir -p -- "$folder"

export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
export PYTHONUNBUFFERED=1                  # keeps the output of a part that is stopped
export XLA_PYTHON_CLIENT_MEM_FRACTION=0.55 # leaves the rest to PyTorch

# part SECONDS NAME COMMAND...: runs a command and copies its output to NAME.txt.
part() {
  local seconds=$1 name=$2 code=0
  shift 2
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

normalization() { # SECONDS NAME FLAGS...
  local seconds=$1 name=$2
  shift 2
  part "$seconds" "$name" "$python" benchmarks/normalization.py --out="$folder/$name.json" "$@"
}

step() { # SECONDS NAME FLAGS...
  local seconds=$1 name=$2
  shift 2
  part "$seconds" "$name" "$python" benchmarks/step.py --out="$folder/$name.json" --devices=1 \
    --what=forward,gradient,step --forms=unrolled,blocks,grouped \
    --torch=eager,channels_last,compiled "$@"
}

tuning() { # SECONDS NAME FLAGS...
  local seconds=$1 name=$2
  shift 2
  part "$seconds" "$name" "$python" benchmarks/tune_normalization.py --out="$folder/$name.json" "$@"
}

# The limits sum to 470 s.
part 5 gpu bash -c about_gpu
normalization 50 kernels --check
step 135 step_bfloat16_1024 --batch=1024 --dtype=bfloat16
step 105 step_float32_128 --batch=128 --dtype=float32
normalization 65 normalization_1024 --batch=1024
normalization 50 normalization_128 --batch=128
tuning 60 tuning --batch=128 --repeats=5

printf '\n%s s in all; results are in %s\n' "$SECONDS" "$folder"
if ((${#failed[@]})); then
  echo "failed (124 and 137 are time limits): ${failed[*]}"
  exit 1
fi
