#!/bin/sh
# usage: quantize_test.sh NYBBLE_BINARY MAKE_SPARSE_CHECKPOINT [LAYERS ROWS COLS SHARDS LIMIT_MIB KILLS]
# nybble quantize from outside: what it writes, that a dry run says so, rules, resuming after it was
# killed, the same bytes for any number of threads, interruption, and memory. The last six arguments
# are the size of the model that is made for the latter; CI's takes a few seconds, the large one is
#   quantize_test.sh NYBBLE MAKE_SPARSE_CHECKPOINT 73 14336 4096 16 1024 10
set -u
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
make_checkpoint=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
layers=${3:-16} rows=${4:-2048} cols=${5:-4096} shards=${6:-4} limit=${7:-128} kills=${8:-4}
unset NYBBLE_TARGET OMPI_COMM_WORLD_SIZE PMI_SIZE
prefix='nybble: '
model=$(cd "$(dirname "$0")/../../examples/llama/model" && pwd)
. "$(dirname "$0")/../support/cli_helpers.sh"
cd "$scratch" || exit 1

# sums FOLDER: a line a file, hidden ones too.
sums() {
  (cd "$1" && find . -type f | sort | xargs cksum)
}
# sizes FOLDER: what a dry run says of it in JSON.
sizes() {
  (cd "$1" && find . -type f -printf '{"name":"%f","bytes":%s}\n' | sort | paste -sd , -)
}
# planned: the same from the dry run in $scratch/out.
planned() {
  sed 's/.*"files":\[\([^]]*\)\].*/\1/' "$scratch/out" | sed 's/},{/}\n{/g' | sort | paste -sd , -
}
# numbers KEY FILE: the values of a key, a line each.
numbers() {
  tr '{,}' '\n\n\n' <"$2" | sed -n "s/^\"$1\"://p"
}
# quantize OUT ARGUMENTS...: must succeed; events in $scratch/events
quantize() {
  to=$1
  shift
  "$program" quantize "$@" --json --out "$to" >events 2>err || fail "quantize $*: $(cat err)"
}

# wait_for CONDITION: at most four seconds.
wait_for() {
  tries=0
  while ! eval "$1" && [ $tries -lt 200 ]; do
    sleep 0.02
    tries=$((tries + 1))
  done
}

# --- what is written, and that a dry run knows

for options in '--format int4' '--format nvfp4 --method clip:loss=plain' \
    '--format nvfp4:tensor=divisor' \
    '--format nf4:double=true --shard-size 100KB' \
    '--format amxfp4 --rule *.down_proj=int4:group=128,zero_point=true --rule *.o_proj=skip' \
    '--format mxfp4 --rule model.embed_tokens=nf4'; do
  rm -rf made
  set -f
  # shellcheck disable=SC2086  # options are several words
  expect_output '"exact":true' -- quantize "$model" $options --dry-run --json
  # shellcheck disable=SC2086
  quantize made "$model" $options
  set +f
  expect_same "sizes of $options" "$(planned)" "$(sizes made)"
  [ "$(numbers bytes events | tail -n 1)" = "$(du -ab made --max-depth=1 | awk '$2 != "made" { s += $1 } END { print s }')" ] ||
    fail "bytes of the done event: $options"
  cmp -s "$model/config.json" made/config.json || fail "config.json is not the same"
done
rm -rf made
expect_same 'files of a small model' "$("$program" quantize "$model" --format int4 --dry-run |
  sed -n 's/^\([^ ]*\): [0-9]* bytes$/\1/p' | paste -sd ' ' -)" 'README.md config.json model.safetensors'
"$program" quantize "$model" --format int4 --rule '*.o_proj=nf4/clip:loss=plain' --dry-run >table ||
  fail 'dry run'
grep -q 'o_proj.weight *128 x 128 *nf4 *clip:loss=plain *9[0-9]* ' table || fail "table: $(cat table)"
grep -q 'embed_tokens.weight *256 x 128 *copied: embedding *65536 *16.000$' table || fail 'embedding'
[ ! -e made ] || fail 'a dry run made something'
# The last line: what stays as it was, and why.
"$program" quantize "$model" --format int4 --rule '*.3.*=skip' --out made >out || fail 'quantize'
for file in out table2; do
  [ $file = out ] || "$program" quantize "$model" --format int4 --rule '*.3.*=skip' --dry-run >$file
  tail -n 1 $file | grep -q '; [0-9.]* % of the parameters stay as they were ([0-9.]* % rule, [0-9.]* % embedding, ' ||
    fail "last line: $(tail -n 1 $file)"
done
rm -rf made

# Where a method decides on transforms itself, a dry run gives a lower bound.
expect_output '"exact":false' -- quantize "$model" --format int4 --method hadamard --dry-run --json
least=$(planned | tr ',' '\n' | sed -n 's/"bytes":\([0-9]*\)}/\1/p' | sort -n | tail -n 1)
quantize made "$model" --format int4 --method hadamard
grep -q '"event":"start".*"exact":false' events || fail 'start event'
[ "$(wc -c <made/model.safetensors)" -gt "$least" ] || fail 'rotations take no room'
[ ! -e made/.nybble-parts ] || fail 'parts are left'
mv made rotated
quantize made "$model" --format int4 --method hadamard --threads 1
expect_same 'the same bytes with parts' "$(sums made)" "$(sums rotated)"
# A run that was killed while it cleaned up is done.
mkdir made/.nybble-parts && echo x >made/.nybble-parts/part-000000.safetensors
quantize made "$model" --format int4 --method hadamard --threads 1 --resume
expect_same 'files of a run that was killed at its end' "$(sums made)" "$(sums rotated)"
rm -rf made rotated

# Events: one a line, the same whatever the output is.
quantize made "$model" --format int4
expect_same events "$(sed -n 's/^{"event":"\([a-z]*\)".*/\1/p' events | uniq -c | tr -s ' ')" \
  "$(printf ' 1 start\n 38 tensor\n 1 done')"
expect_same 'copied tensors have no error' \
  "$(grep -c '"format":null,"method":null,.*"weight_sqnr_db":null' events)" 10
awk -F'"weight_sqnr_db":' '/"format":"int4"/ { split($2, a, ","); if (a[1] < 15 || a[1] > 25) exit 1 }' \
  events || fail 'SQNR of INT4'

# --- errors, before anything is done

expect_exit 2 'no such tensor' quantize "$model" --format int4 --rule 'no such tensor=skip' --out new
expect_exit 2 'matches no tensor that can be quantized' \
  quantize "$model" --format int4 --rule '*norm*=nf4' --out new
expect_exit 2 'GLOB=FORMAT' quantize "$model" --format int4 --rule '*' --out new
expect_exit 2 "'int5'" quantize "$model" --format int5 --out new
expect_exit 2 "'int5'" quantize "$model" --format int4 --rule '*.q_proj=int5' --out new
expect_exit 2 'needs calibration' quantize "$model" --format int4 --method awq --out new
expect_exit 2 'unknown layout' quantize "$model" --format int4 --layout nothing --out new
expect_exit 2 'layout gguf.*nybble convert --layout gguf.*llama quantize' \
  quantize "$model" --format int4 --layout gguf --out new
expect_exit 2 'out is required' quantize "$model" --format int4
for size in -1 0 99999999999999999999 2.5MB 20000000TB 5XB x ''; do
  expect_exit 2 "shard-size.*'$size': expected a whole number of bytes" \
    quantize "$model" --format int4 --shard-size "$size" --out new
done
for size in 100000 100kB '100 KB' 100k; do
  expect_same "files of --shard-size $size" "$("$program" quantize "$model" --format int4 \
    --dry-run --shard-size "$size" | grep -c '^model-.*bytes$')" 6
done
expect_exit 2 'holds a checkpoint already' quantize "$model" --format int4 --out made
expect_exit 3 'nybble convert' quantize made --format int4 --out new
printf 'GGUF\003\000\000\000\000\000' >model.gguf
expect_exit 3 'model.gguf: is a GGUF file, expected a safetensors file' \
  quantize model.gguf --format int4 --out new
expect_exit 3 'expected model.safetensors' quantize "$scratch" --format int4 --out new
echo '[{"match": "*"}]' >recipe.json
expect_exit 3 'rule 1: expected either' quantize "$model" --format int4 --recipe recipe.json --out new
OMPI_COMM_WORLD_SIZE=2 "$program" --version >/dev/null || fail 'a version needs no MPI'
[ ! -e new ] || fail 'an error left something'

# --- nowhere to write to: a line that is flushed, a few at the end, more than a buffer

if [ -e /dev/full ]; then
  for arguments in '--out full --json' '--dry-run' '--dry-run --json' '--out full2'; do
    # shellcheck disable=SC2086  # several words
    "$program" quantize "$model" --format int4 $arguments >/dev/full 2>err
    expect_same "exit code of $arguments" $? 3
    grep -q '^nybble: .*cannot write' err || fail "standard output: $(cat err)"
  done
  for command in formats kernels 'formats --json' --help --version; do
    # shellcheck disable=SC2086
    "$program" $command >/dev/full 2>err
    expect_same "exit code of $command" $? 3
  done
  rm -rf full full2
fi

# --- rules: the last one wins

cat >recipe.json <<'RECIPE'
[{"match": "*.mlp.*", "format": "nf4"},
 {"match": "model.layers.?.mlp.up_proj", "format": "mxfp4", "method": "clip:loss=plain"},
 {"match": "model.layers.[12].*", "skip": true}]
RECIPE
expect_output '"name":"model.layers.0.mlp.gate_proj.weight","type":"BF16","shape":[384,128],"format":"nf4"' \
  '"name":"model.layers.0.mlp.up_proj.weight","type":"BF16","shape":[384,128],"format":"mxfp4","method":"clip:loss=plain"' \
  '"name":"model.layers.1.mlp.up_proj.weight","type":"BF16","shape":[384,128],"format":null,"method":null,"copied_because":"rule"' \
  '"name":"model.layers.2.self_attn.q_proj.weight","type":"BF16","shape":[128,128],"format":"fp4"' \
  -- quantize "$model" --format int4 --recipe recipe.json --rule 'model.layers.2.*.q_proj=fp4' \
  --dry-run --json

# --- a large model in little memory

"$make_checkpoint" big "$layers" "$rows" "$cols" "$shards" || fail 'make_sparse_checkpoint'
weights=$((rows * cols))
shard_size=$((layers * weights / 6))
quantize plain big --format int4 --threads 1 --shard-size $shard_size
[ "$(ls plain | grep -c safetensors$)" -ge 3 ] || fail "shards of a large model: $(ls plain)"
quantize threads big --format int4 --threads 3 --shard-size $shard_size
expect_same 'the same bytes for 1 and 3 threads' "$(sums threads)" "$(sums plain)"
rm -rf threads

# limited OPTIONS: under a limit of address space.
limited() {
  (ulimit -v $((limit * 1024)) && exec "$program" quantize big --out limited --threads 2 --json \
    --shard-size $shard_size "$@") >events 2>err || fail "under $limit MiB: $* ($(cat err))"
}
limited --format int4
expect_same "the same bytes under $limit MiB" "$(sums limited)" "$(sums plain)"
echo "peak of int4: $(numbers peak_bytes events) bytes under $limit MiB"
rm -rf limited
# peak_below BYTES: what is held besides 64 MiB.
peak_below() {
  peak=$(numbers peak_bytes events)
  [ "$peak" -le $(($1 + 64 * 1048576)) ] || fail "peak of $2: $peak bytes, expected $1 and 64 MiB"
  echo "ok: peak of $2: $peak bytes, at most $(($1 + 64 * 1048576))"
}
quantize made2 big --format int4 --threads 2
peak_below $((weights * 15 / 8)) 'rtn, one pass'
rm -rf made2
quantize made2 big --format nvfp4 --threads 2
peak_below $((weights * 15 / 8)) 'rtn with a tensor scale'
rm -rf made2
if [ "$layers" -le 16 ]; then
  quantize made2 big --format int4 --method clip:loss=plain,grid=2 --threads 2
  peak_below $((weights * 4 + weights * 5 / 8)) 'clip'
  rm -rf made2
fi

# --- killed and resumed

# seconds an undisturbed run takes, in ms
begun=$(date +%s%N)
quantize timed big --format int4 --shard-size $shard_size
took=$((($(date +%s%N) - begun) / 1000000))
rm -rf timed
killed=0
seed=$(date +%N | sed 's/^0*//')
while [ "$killed" -lt "$kills" ]; do
  seed=$(((seed * 1103515245 + 12345) % 2147483648))
  wait_ms=$((seed / 1024 % took))
  (ulimit -v $((limit * 1024)) && exec "$program" quantize big --format int4 --out killed --resume \
    --shard-size $shard_size) >/dev/null 2>err &
  child=$!
  sleep "$(awk -v ms=$wait_ms 'BEGIN { print ms / 1000 }')"
  kill -9 $child 2>/dev/null
  wait $child 2>/dev/null
  killed=$((killed + 1))
  done_before=$(cat killed/.nybble-parts/journal-* 2>/dev/null | wc -l)
  echo "kill $killed after $wait_ms ms of about $took: $done_before of $((layers * 2)) tensors done"
  if [ -e killed/model.safetensors.index.json ] && [ ! -e killed/.nybble-parts ]; then
    echo "that run was done before it was killed"
    sums killed >sums.killed
    sums plain | cmp -s - sums.killed || fail 'bytes of a run that was killed at its end'
    rm -rf killed
  elif [ "$(ls killed 2>/dev/null | grep -c .)" -ne 0 ] && [ "$done_before" -lt $((layers * 2)) ]; then
    fail "half a checkpoint is visible: $(ls killed)"
  fi
done
quantize killed big --format int4 --resume --shard-size $shard_size
expect_same "the same bytes after $kills kills" "$(sums killed)" "$(sums plain)"
echo "resumed: $(numbers resumed events)"
rm -rf killed

# --- interrupted

"$program" quantize big --format int4 --out stopped --shard-size $shard_size >out 2>err &
child=$!
wait_for '[ -s stopped/.nybble-parts/journal-0 ]'
kill -INT $child
wait $child
code=$?
if [ $code -eq 0 ]; then
  echo 'it was done before it was interrupted'
else
  expect_same 'exit code of an interrupted run' $code 130
  grep -q '^nybble: interrupted: .*--resume continues$' err || fail "interrupted: $(cat err)"
  expect_same 'nothing is visible after an interruption' "$(ls stopped)" ''
  expect_same 'no temporary file is left' "$(find stopped -name '*.tmp-*')" ''
  expect_exit 2 'a run was begun there' quantize big --format int4 --out stopped
  expect_exit 2 'cannot resume, tensor .*: was "int4 rtn", is "nf4 rtn"' \
    quantize big --format nf4 --out stopped --resume --shard-size $shard_size
  expect_exit 2 'cannot resume, shard size' quantize big --format int4 --out stopped --resume
  quantize stopped big --format int4 --resume --shard-size $shard_size
  [ "$(numbers resumed events)" -gt 0 ] || fail 'nothing was resumed'
fi
expect_same 'the same bytes after an interruption' "$(sums stopped)" "$(sums plain)"
quantize stopped big --format int4 --resume --shard-size $shard_size
expect_same 'a finished run is not done again' "$(numbers resumed events)" $((layers * 2))
expect_same 'the error of a finished run is not known' "$(numbers weight_sqnr_db events)" null
"$program" quantize big --format int4 --out stopped --resume --shard-size $shard_size >out ||
  fail 'a finished run'
grep -q -e SQNR -e nan out && fail "an error that is not known: $(cat out)"

# nybble convert keeps nothing.
"$program" convert plain --layout gptq --out converted >out 2>err &
child=$!
wait_for '[ -n "$(ls -A converted 2>/dev/null)" ]'
kill -TERM $child
wait $child
code=$?
if [ $code -eq 0 ]; then
  echo 'it was converted before it was interrupted'
else
  expect_same 'exit code of an interrupted conversion' $code 130
  grep -q '^nybble: interrupted: converted was not written$' err || fail "interrupted: $(cat err)"
  expect_same 'nothing is left after an interrupted conversion' "$(ls -A converted)" ''
fi

finish
