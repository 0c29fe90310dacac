#!/usr/bin/env bash
# A long run on one machine. What it prints is kept in the workdir's log.txt as well, and after a
# crash (a driver that fell over, a machine short of memory) it goes on from the last checkpoint.
#
#   launch/train.sh configs/ilsvrc2012.py runs/ilsvrc2012 [--config.seed=1 ...]
#
# SIGTERM or Ctrl-C saves and stops (exit code 75). A mistake in the command (2) is not tried again.
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
  echo "launch: exit code $code, try $try of $tries" | tee -a "$workdir/log.txt" >&2
  [ "$try" = "$tries" ] || sleep "$pause"
done
exit "$code"
