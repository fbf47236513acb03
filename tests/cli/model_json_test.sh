#!/bin/sh
# usage: model_json_test.sh NYBBLE_BINARY
# config.json and the index of shards as Python's json module writes and reads them: every command
# that opens a checkpoint takes them, and what becomes of config.json is its text plus what is new.
set -u
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
prefix='nybble: '
tests=$(cd "$(dirname "$0")/.." && pwd)
. "$tests/support/cli_helpers.sh"
. "$tests/support/safetensors.sh"
cd "$scratch" || exit 1

# expect_done ARGUMENTS...: success.
expect_done() {
  if "$program" "$@" >out 2>&1; then echo "ok: $*"; else fail "$* ($(cat out))"; fi
}

# 64 x 64 values of f32.
values=$(awk 'BEGIN { for (i = 0; i < 4096; ++i) printf "\\000\\000\\%03o\\%03o", (i * 37) % 256, 61 + 128 * (i % 2) }')
mkdir model
safetensors model/one.safetensors a.weight F32 '64, 64' "$values"
index='{"weight_map": {"a.weight": "two.safetensors", "a.weight": "one.safetensors"}, "metadata": {"x": NaN}}'

# try NAME TEXT HEAD TAIL: a model with TEXT as its config.json; HEAD and TAIL are around what
# quantizing adds.
try() {
  rm -rf made converted back
  printf "$2" >model/config.json
  printf '\n %s' "$index" >model/model.safetensors.index.json
  printf "$3" >head
  printf "$4" >tail
  expect_done quantize model --format int4:group=32 --layout gptq --out made
  head -c "$(wc -c <head)" made/config.json | cmp - head || fail "$1: the head of config.json"
  tail -c "$(wc -c <tail)" made/config.json | cmp - tail || fail "$1: the tail of config.json"
  grep -q '"quantization_config": *{' made/config.json || fail "$1: no quantization_config"
  for command in inspect check; do
    expect_done $command model
    expect_done $command made
  done
  expect_done diff made model --tolerance-db 10
  expect_done report made --original model --out page.html
  expect_done convert made --layout nybble --out converted
  cmp model/config.json converted/config.json || fail "$1: converted to layout nybble"
  expect_done convert converted --layout gptq --out back
  cmp made/config.json back/config.json || fail "$1: converted back"
}
try infinity '{"time_step_limit": [0.0, Infinity]}' '{"time_step_limit": [0.0, Infinity], "q' '}}'
try nan '{"a": NaN, "b": -Infinity}' '{"a": NaN, "b": -Infinity, "q' '}}'
try large '{"a": 1e400}' '{"a": 1e400, "q' '}}'
try blanks '\n {"a": 1}' '\n {"a": 1, "q' '}}'
try twice '{"a": 1, "a": 2}\n' '{"a": 1, "a": 2, "q' '}}\n'
try surrogate '{"a": "\\ud83d"}' '{"a": "\\ud83d", "q' '}}'
try indented '{\n  "a": NaN,\n  "b": 1\n}\n' '{\n  "a": NaN,\n  "b": 1,\n  "q' '\n  }\n}\n'

expect_exit 3 'is quantized already' quantize made --format int4 --out none
printf '{"a": nan}' >model/config.json
expect_exit 3 'damaged JSON at byte 8' quantize model --format int4 --out none
rm model/config.json
for side in quantize_config.json hf_quant_config.json; do
  printf '\n{"desc_act": NaN, "bits": 4, "bits": 4}' >made/$side
  expect_done inspect made
  rm made/$side
done
finish
