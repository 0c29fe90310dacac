#!/usr/bin/env bash
# Runs N processes that train one net together on this machine: one or more GPUs for each, divided
# evenly, or CPU devices, to try several processes without a cluster.
#
#   launch/local.sh 2 --config=digits --workdir=runs/two_processes
#
# After a crash, launch/train.sh with PROCESSES=N starts all of them again.
#
# The output of process 0 is unchanged; what the others print goes to stderr. SIGTERM, SIGHUP,
# SIGUSR1 and Ctrl-C are forwarded to process 0 alone, and all processes agree to stop after the same
# step; a terminal's Ctrl-C does not reach them directly. When one process ends, the others
# end by themselves. Those that have not ended LIMIT seconds later (90) are killed. The exit code is
# that of the first process that failed, but 2 (a mistake) if any ended with that. The last line on
# stderr repeats the first error. PYTHON is the interpreter (python).
set -uo pipefail
case ${1:-} in
'' | *[!0-9]*) echo "usage: $0 N [FLAGS], with N processes of alexnet_jax.main" >&2; exit 2 ;;
esac
count=$((10#$1)) python=${PYTHON:-python} limit=${LIMIT:-90}
shift
case $count in
0) echo "$0: 0 processes cannot train: give 1 or more" >&2; exit 2 ;;
1) exec "$python" -m alexnet_jax.main --processes=1 "$@" ;;
esac

stop='' again='' sent='' first='' finished=0 is_taken=''
pids=() codes=()
# Sends a signal to process 0, or to those that are left when it has ended.
send() {
  local index
  for ((index = 0; index < ${#pids[@]}; index++)); do
    if [ -z "${codes[index]:-}" ]; then
      kill -s "$1" "${pids[index]}" 2>/dev/null
      [ "$index" != 0 ] || break
    fi
  done
}
# shellcheck disable=SC2329 # the traps call it
forward() {
  stop=$1
  [ -n "${pids[0]:-}" ] || return
  sent=1
  send "$1"
  # A signal that arrives before bash has replaced its new process by Python may be lost.
  [ $((SECONDS - started)) -gt 1 ] || again=3
}
for name in TERM INT HUP USR1; do
  # shellcheck disable=SC2064 # the name has another value later
  trap "forward $name" "$name" # what was ignored at the start, as by nohup, stays ignored
done

# What the processes print to stderr is kept for the last line. On a terminal, process 0 writes to it
# directly, for its progress line; its error is then found in the output of the others.
folder=$(mktemp -d) || exit 2
trap 'rm -rf -- "$folder"' EXIT
: >"$folder/errors"
exec 3> >(trap '' TERM INT HUP USR1 PIPE; exec tee -a -- "$folder/errors" >&2)
tee=$!

exec 5>&2 # also where bash must not print that a process was killed

is_listening() {
  (exec 4<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Chooses a port where nothing listens, among those that Linux does not give to clients.
choose_port() {
  local attempt
  for ((attempt = 0; attempt < 100; attempt++)); do
    port=$((61440 + RANDOM % 4096))
    is_listening "$port" || return 0
  done
}

start() { # the number of a process, then its flags
  local index=$1 errors=2
  shift
  [ "$index" = 0 ] && [ -t 2 ] || errors=3
  set -m # in process groups of their own, which a terminal's Ctrl-C does not reach
  if [ "$index" = 0 ]; then
    "$python" -m alexnet_jax.main "$@" </dev/null 2>&"$errors" 3>&- 5>&- &
  else
    "$python" -m alexnet_jax.main "$@" </dev/null >&3 2>&3 3>&- 5>&- &
  fi
  pids[index]=$!
  set +m
}

# Waits for the processes that have ended, and finds the first that failed.
collect() {
  local index code
  for ((index = 0; index < count; index++)); do
    if [ -z "${codes[index]:-}" ] && ! kill -0 "${pids[index]}" 2>/dev/null; then
      wait "${pids[index]}" 2>/dev/null
      code=$?
      codes[index]=$code finished=$((finished + 1))
      [ "$finished" != 1 ] || ended=$SECONDS
      if [ "$code" != 0 ] && [ -z "$first" ]; then
        first=$index
      fi
    fi
  done
}

end_all() { # kills what is left, with the processes that it has started
  local index
  for ((index = 0; index < count; index++)); do
    [ -n "${codes[index]:-}" ] || kill -s KILL -- "-${pids[index]}" 2>/dev/null
  done
}

# Runs the processes to their end.
run() {
  local index late=''
  choose_port
  pids=() codes=() sent='' first='' finished=0 is_taken='' started=$SECONDS
  for ((index = 0; index < count; index++)); do
    start "$index" --processes="$count" --process="$index" --coordinator="localhost:$port" "$@"
  done
  if [ -n "$stop" ] && [ -z "$sent" ]; then # it arrived before process 0 was started
    forward "$stop"
  fi
  while collect; [ "$finished" -lt "$count" ]; do
    sleep 0.2
    if [ -n "$again" ] && [ "$((again -= 1))" = 0 ]; then
      again=''
      send TERM
    fi
    if [ "${codes[0]:-}" = 2 ] && is_listening "$port"; then
      is_taken=1 # process 0 has ended, so this is another program
      end_all
    elif [ -n "$stop" ] && [ "${codes[0]:-0}" -gt 128 ]; then
      send TERM # process 0 ended before it could save and tell the others
    fi
    if [ "$finished" -gt 0 ] && [ $((SECONDS - ended)) -ge "$limit" ] && [ -z "$late" ]; then
      late=1
      echo "launch: $((count - finished)) of $count processes have not ended within $limit s" \
        'after the others, and are killed' >&5
      end_all
    fi
  done 2>/dev/null
}

# Prints the first error that the processes have printed, or how the first one ended.
describe_failure() {
  local line code
  code=${codes[first]}
  if [ "$code" -gt 128 ]; then
    echo "process $first was ended by SIG$(kill -l $((code - 128)))"
    return
  fi
  line=$(grep -m 1 -E '^alexnet_jax: process [0-9]+ ends with process [0-9]+: ' "$folder/errors")
  if [ -n "$line" ]; then
    echo "process ${line#* ends with process }"
    return
  fi
  line=$(grep -E "^alexnet_jax: process $first: " "$folder/errors" | tail -n 1)
  # Process 0, and all of them before they know their number, do not name themselves.
  [ -n "$line" ] ||
    line=$(grep -E '^alexnet_jax: ' "$folder/errors" | grep -vE '^[^:]*: process [0-9]' | tail -n 1)
  if [ -n "$line" ]; then
    echo "${line#alexnet_jax: }"
  else
    echo "process $first ended with exit code $code"
  fi
}

for ((attempt = 1; attempt <= 3; attempt++)); do
  [ -z "$stop" ] || exit 75
  run "$@"
  [ -n "$is_taken" ] && [ "$attempt" -lt 3 ] || break
  echo "launch: another program listens at port $port: trying another one" >&2
  : >"$folder/errors"
done
exec 3>&- # tee ends with its input, which processes that a crash has left behind may hold open
for ((i = 0; i < 20; i++)); do
  kill -0 "$tee" 2>/dev/null || break
  sleep 0.1
done

[ -n "$first" ] || exit 0
for ((index = 0; index < count; index++)); do
  if [ "${codes[index]}" = 2 ] && [ "${codes[first]}" != 2 ]; then
    first=$index
  fi
done
code=${codes[first]}
if [ -n "$stop" ]; then
  case $code in 129 | 138 | 143) code=75 ;; esac # nothing to save yet
fi
case $code in
75 | 130) ;;
*) echo "launch: exit code $code: $(describe_failure)" >&2 ;;
esac
exit "$code"
