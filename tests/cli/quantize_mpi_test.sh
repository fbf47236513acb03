#!/bin/sh
# usage: quantize_mpi_test.sh NYBBLE_BINARY
# nybble quantize as several processes: the same bytes as one, also where they are killed and
# resumed, and an error of one ends all. A program built without MPI must refuse to be several.
set -u
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
unset NYBBLE_TARGET OMPI_COMM_WORLD_SIZE PMI_SIZE
prefix='nybble: '
model=$(cd "$(dirname "$0")/../../examples/llama/model" && pwd)
. "$(dirname "$0")/../support/cli_helpers.sh"
cd "$scratch" || exit 1

if ! ldd "$program" 2>/dev/null | grep -q libmpi; then
  OMPI_COMM_WORLD_SIZE=2 "$program" quantize "$model" --format int4 --out made >out 2>err
  expect_same 'exit code of several processes without MPI' $? 2
  grep -q '^nybble: OMPI_COMM_WORLD_SIZE is 2, but this program was built without MPI' err ||
    fail "stderr: $(cat err)"
  [ ! -e made ] || fail 'it wrote something'
  finish
fi
if ! command -v mpirun >/dev/null 2>&1; then
  echo "skipped: $0: no mpirun"
  exit 77
fi
# Open MPI's words for: also as root, with more processes than cores.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_vader_single_copy_mechanism=none

sums() {
  (cd "$1" && find . -type f | sort | xargs cksum)
}
for method in rtn hadamard; do
  "$program" quantize "$model" --format int4 --method $method --shard-size 100KB --out one >out ||
    fail "one process, $method"
  mpirun -n 3 "$program" quantize "$model" --format int4 --method $method --shard-size 100KB \
    --threads 1 --json --out three >events 2>err || fail "three processes, $method: $(cat err)"
  expect_same "the same bytes for $method" "$(sums three)" "$(sums one)"
  expect_same "events for $method" "$(sed -n 's/.*"event":"\([a-z]*\)".*/\1/p' events | sort |
    uniq -c | tr -s ' ')" "$(printf ' 1 done\n 1 start\n 38 tensor')"
  grep -q '"event":"start".*"processes":3' events || fail 'start event'
  rm -rf one three
done

# An error of one, here of all, ends all, with its message and exit code.
mpirun -n 2 "$program" quantize "$model" --format int5 --out bad >out 2>err
expect_same 'exit code of an error' $? 2
grep -q "^nybble: process [01]: unknown format 'int5'" err || fail "stderr: $(cat err)"
# And one that the first process alone finds.
mkdir full && echo x >full/model.safetensors
mpirun -n 2 "$program" quantize "$model" --format int4 --out full >out 2>err
expect_same 'exit code of an error of the first' $? 2
grep -q '^nybble: process 0: full: holds a checkpoint already' err || fail "stderr: $(cat err)"

# Killed and resumed.
method=clip:loss=plain,grid=4000
"$program" quantize "$model" --format int4 --method $method --out one >out || fail 'one process'
for pause in 0.4 0.7 1.1; do
  mpirun -n 2 "$program" quantize "$model" --format int4 --method $method --threads 1 --out killed \
    --resume >out 2>err &
  child=$!
  sleep $pause
  kill -9 $child 2>/dev/null
  wait $child 2>/dev/null
  # mpirun's daemons end the others when it is gone; until then they hold the lock or do their work.
  tries=0
  while ps -eo args | grep -v grep | grep -q -- "--out killed --resume" && [ $tries -lt 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
  done
  echo "killed after $pause s: $(cat killed/.nybble-parts/journal-* 2>/dev/null | wc -l) of 38 done"
done
mpirun -n 2 "$program" quantize "$model" --format int4 --method $method --threads 1 --out killed \
  --resume --json >events 2>err || fail "resumed: $(cat err)"
expect_same 'the same bytes after kills' "$(sums killed)" "$(sums one)"
expect_same 'nothing is left' "$(ls -A killed | tr '\n' ' ')" 'README.md config.json model.safetensors '

finish
