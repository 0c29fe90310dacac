#!/usr/bin/env bash
# Starts a long run on one machine. The output is also written to log.txt in the workdir. After a
# crash (a failure of the driver, or too little memory) the run is resumed from its last checkpoint.
#
#   launch/train.sh configs/ilsvrc2012.py runs/ilsvrc2012 [--config.seed=1 ...]
#   PROCESSES=8 launch/train.sh configs/ilsvrc2012.py runs/ilsvrc2012
#
# The second command starts several processes with launch/local.sh, and after a crash all of them
# again, since the others end with the one that has crashed.
#
# SIGTERM, SIGHUP, SIGUSR1 and Ctrl-C are forwarded: the run saves and stops with exit code 75, and
# the same command resumes it. The code is 75, too, if a signal arrives while Python starts or
# between two attempts, when there is nothing to save. A second Ctrl-C ends the run at once, and so
# does a first one while Python starts (130). Not tried again are mistakes (2), a missing Python
# (126, 127), and a run that a signal stopped. Environment variables: TRIES, attempts in all (5);
# PAUSE, seconds between them (30); PROCESSES, their number (1); PYTHON, the interpreter (python).
set -uo pipefail
[ $# -ge 2 ] || { echo "usage: $0 CONFIG WORKDIR [FLAGS]" >&2; exit 2; }
config=$1 workdir=$2
shift 2
tries=${TRIES:-5} pause=${PAUSE:-30} python=${PYTHON:-python}
case $tries in
'' | *[!0-9]*) echo "$0: TRIES=$tries must be a number" >&2; exit 2 ;;
esac

command=("$python" -m alexnet_jax.main)
case ${PROCESSES:-1} in
1) ;;
*) command=(bash -- "$(dirname -- "$0")/local.sh" "$PROCESSES") ;;
esac

stop='' interrupted='' child='' sent='' code=0
# shellcheck disable=SC2329 # the traps call it
forward() {
  stop=$1 interrupted=1
  [ -z "$child" ] || send "$1"
}
send() {
  sent=1
  kill -s "$1" "$child" 2>/dev/null
  # A signal that arrives before bash has replaced its new process by the command may be lost.
  if [ $((SECONDS - started)) -le 1 ]; then
    { sleep 0.5; kill -s TERM "$child"; } >/dev/null 2>&1 3>&- &
  fi
}
for name in TERM INT HUP USR1; do
  # shellcheck disable=SC2064 # the name has another value later
  trap "forward $name" "$name" # what was ignored at the start, as by nohup, stays ignored
done

# Runs a command in the background, because bash handles signals during `wait` alone. Its exit code
# is in `code`; it is 75 where a signal has arrived before.
run() {
  [ -z "$stop" ] || { code=75; return; }
  set -m # without job control, bash lets commands in the background ignore Ctrl-C
  "$@" </dev/null 3>&- &
  set +m
  interrupted='' sent='' started=$SECONDS child=$!
  if [ -n "$stop" ] && [ -z "$sent" ]; then # it arrived before `child` was set
    send "$stop"
  fi
  wait "$child"
  code=$?
  while [ -n "$interrupted" ]; do # a signal ended the wait, not necessarily the command
    interrupted=''
    wait "$child" 2>/dev/null
    again=$?
    [ "$again" = 127 ] || code=$again # 127: the wait before had the code
  done
  child=''
}

case $workdir in
*://*) exec "$python" -m alexnet_jax.main --config="$config" --workdir="$workdir" "$@" ;; # refused
esac
mkdir -p -- "$workdir" || exit 2
# tee reads on, whatever signals come and even if nobody reads what it prints.
exec 3> >(trap '' TERM INT HUP USR1 PIPE; exec tee -a -- "$workdir/log.txt")
tee=$!
for ((try = 1; try <= 10#$tries; try++)); do
  run "${command[@]}" --config="$config" --workdir="$workdir" "$@" >&3 2>&1
  case $code in
  0 | 2 | 75 | 126 | 127 | 130) break ;;
  esac
  if [ -n "$stop" ]; then
    case $code in 129 | 138 | 143) code=75 ;; esac # it had nothing to save yet
    break
  fi
  echo "launch: exit code $code, attempt $try of $tries" | tee -a -- "$workdir/log.txt" >&2
  [ "$try" = "$tries" ] || { last=$code; run sleep "$pause"; code=$last; }
done
exec 3>&- # tee ends with its input, which processes that a crash has left behind may hold open
for ((i = 0; i < 20; i++)); do
  kill -0 "$tee" 2>/dev/null || break
  sleep 0.1
done
exit "$code"
