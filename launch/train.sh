#!/usr/bin/env bash
# Starts a long run on one machine. The output is also written to log.txt in the workdir. After a
# crash (a failure of the driver, or too little memory) the run is resumed from its last checkpoint.
#
#   launch/train.sh configs/ilsvrc2012.py runs/ilsvrc2012 [--config.seed=1 ...]
#
# SIGTERM or Ctrl-C saves and stops the run (exit code 75). A mistake in the command (exit code 2) is
# not retried. Environment variables: TRIES, attempts in all (5); PAUSE, seconds between them (30);
# PYTHON, the interpreter (python).
set -uo pipefail
[ $# -ge 2 ] || { echo "usage: $0 CONFIG WORKDIR [FLAGS]" >&2; exit 2; }
config=$1 workdir=$2
shift 2
tries=${TRIES:-5} pause=${PAUSE:-30} python=${PYTHON:-python}

mkdir -p "$workdir" || exit 2
child=
trap '[ -n "$child" ] && kill -TERM "$child" 2>/dev/null' TERM INT
for ((try = 1; try <= tries; try++)); do
  "$python" -m alexnet_jax.main --config="$config" --workdir="$workdir" "$@" \
    > >(tee -a "$workdir/log.txt") 2>&1 &
  child=$!
  wait "$child"
  code=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the run
    wait "$child"
    code=$?
  done
  case $code in 0 | 2 | 75 | 130) exit "$code" ;; esac
  echo "launch: exit code $code, attempt $try of $tries" | tee -a "$workdir/log.txt" >&2
  [ "$try" = "$tries" ] || sleep "$pause"
done
exit "$code"
