#!/bin/sh
# usage: checkpoint_test.sh NYBBLE_BINARY MODEL_DIR
# nybble inspect, check, diff and convert from outside: exit codes, messages, JSON keys, on the demo
# model, on what quantize makes of it, and on checkpoints made with printf.
set -u
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
model=$(cd "$2" && pwd)
prefix='nybble: '
tests=$(cd "$(dirname "$0")/.." && pwd)
. "$tests/support/cli_helpers.sh"
. "$tests/support/safetensors.sh"
cd "$scratch" || exit 1

# expect_printed CODE PATTERN... -- ARGUMENTS...: that exit code, nothing on stderr, each PATTERN on
# stdout.
expect_printed() {
  code=$1
  shift
  patterns=$scratch/patterns
  : >"$patterns"
  while [ "$1" != -- ]; do
    printf '%s\n' "$1" >>"$patterns"
    shift
  done
  shift
  "$program" "$@" >"$scratch/out" 2>"$scratch/err"
  got=$?
  [ "$got" -eq "$code" ] || fail "exit code $got, expected $code: $*"
  [ -s "$scratch/err" ] && fail "stderr, expected nothing: $*"
  while IFS= read -r pattern; do
    grep -q -F -e "$pattern" "$scratch/out" || fail "no '$pattern' in $(cat "$scratch/out"): $*"
  done <"$patterns"
  echo "ok: $*"
}

one='\000\000\200\077'
two='\000\000\000\100'
nan='\000\000\300\177'
minus_inf='\000\000\200\377'
safetensors good.safetensors a.weight F32 '2, 2' "$one$two$one$two" norm F32 2 "$one$one" \
  position I32 2 "$one$two"
safetensors other.safetensors a F32 '2, 2' "$one$two$one$one" norm F32 2 "$one$one" \
  position I32 2 "$one$two"
safetensors bad.safetensors a.weight F32 '2, 2' "$one$two$nan$minus_inf" norm F32 2 "$one$one"
safetensors short.safetensors a.weight F32 '2, 2' "$one$two"
# A name that would move the cursor; JSON has the escape character as \u001b.
safetensors escape.safetensors 'a\u001b[2Jb' F32 1 "$nan"

# --- inspect
expect_output '"layers":[]' '"name":"model.norm.weight","type":"BF16","shape":[128]' '"totals":{' \
  '"tensors":38' '"values":885888' '"file_bytes":' -- inspect "$model" --json
expect_output '"nan":1,"inf":1,' '"negative":1' '"min":1.0,"max":2.0' -- \
  inspect bad.safetensors --json
expect_output '"type":"I32","shape":[2],"values":null' -- inspect good.safetensors --json
expect_printed 0 'no quantized layers' 'a.weight  F32   2 x 2    1    2    0    0' \
  'position  I32   2        -    -    -    -' '3 other tensors: 8 values' '0 NaN, 0 Inf' -- \
  inspect good.safetensors
expect_printed 0 '4 from 1 to 2; 1 nan, 1 inf, 0 zero' '1 other tensors' -- \
  inspect bad.safetensors --layer 'a.*'
expect_printed 0 'a\x1b[2Jb' -- inspect escape.safetensors
"$program" inspect "$model" --threads 1 --json >one
"$program" inspect "$model" --threads 3 --json >three
expect_same 'inspect with three threads' "$(cat three)" "$(cat one)"
expect_exit 2 'nothing.*matches none of the 0 layers and 3 tensors' \
  inspect good.safetensors --layer nothing
expect_exit 2 'no_such' inspect good.safetensors --layout no_such
expect_exit 3 'missing' inspect missing
expect_exit 3 'short.safetensors.*a.weight' inspect short.safetensors

# An index beside a single file is not read, which is said once; the other half of a model is missed.
mkdir both part
cp good.safetensors both/model.safetensors
printf damaged >both/model.safetensors.index.json
for command in inspect check 'quantize --format int4 --rule a=int4 --dry-run'; do
  # shellcheck disable=SC2086  # several words
  "$program" ${command%% *} both ${command#"${command%% *}"} >out 2>err ||
    fail "$command beside an index: $(cat err)"
  expect_same "warning of $command" "$(cat err)" 'nybble: warning: both/model.safetensors.index.json is ignored: model.safetensors is beside it'
done
cp good.safetensors part/model-00001-of-00002.safetensors
expect_exit 3 'model-00001-of-00002.safetensors: a part of a model that no index names' inspect part

# --- check
expect_output '"findings":[]' '"errors":0' '"good":true' -- check "$model" --json
expect_printed 0 'good: 0 quantized layers and 38 other tensors checked: 0 errors' -- check "$model"
expect_printed 1 'error: a.weight: value[1, 0] is nan, expected a finite number (the first of 2)' \
  'bad: 0 quantized layers and 2 other tensors checked: 1 errors' -- check bad.safetensors
expect_printed 1 '"severity":"error","name":"a.weight","place":"value[1, 0]","found":"nan"' \
  '"count":2' '"good":false' -- check bad.safetensors --json
expect_printed 0 'good: 0 quantized layers and 2 other tensors checked: 0 errors' \
  'not checked: 1 tensors of type I32: values of this type cannot be read as floats' -- \
  check good.safetensors
expect_output '"not_checked":[{"type":"I32","tensors":1,"reason":"' -- check good.safetensors --json
expect_printed 1 'a\x1b[2Jb' -- check escape.safetensors
expect_exit 3 'short.safetensors.*a.weight' check short.safetensors
expect_exit 2 'path' check

# --- diff
expect_printed 0 '38 compared: 38 identical' -- diff "$model" "$model"
expect_output '"good":true' '"identical":true' '"sqnr_db":null' -- diff "$model" "$model" --json
expect_printed 1 'a.weight' '10.00' '3 compared: 2 identical, 0 more with the same values' -- \
  diff good.safetensors other.safetensors
expect_printed 0 '0 below 9 dB' -- diff good.safetensors other.safetensors --tolerance-db 9
expect_printed 1 '1 below 11 dB' -- diff good.safetensors other.safetensors --tolerance-db 11
expect_printed 0 '1 compared: 1 identical' -- diff good.safetensors other.safetensors --layer norm
expect_printed 1 'only in the first' '"reason":"only in the first"' -- \
  diff good.safetensors bad.safetensors --json
# +0 and -0 are equal, and zeros are like zeros.
minus_zero='\000\000\000\200'
zero='\000\000\000\000'
safetensors plus.safetensors a F32 2 "$zero$zero" b F32 2 "$one$zero"
safetensors minus.safetensors a F32 2 "$minus_zero$zero" b F32 2 "$one$minus_zero"
expect_printed 0 'equal but for signs of zeros' '1.000000' \
  '2 compared: 0 identical, 0 more with the same values, 2 more equal but for signs of zeros' -- \
  diff plus.safetensors minus.safetensors
grep -q nan "$scratch/out" && fail "nan in $(cat "$scratch/out")"
expect_printed 0 '"good":true' '"identical":false,"same_values":false,"equal":true' \
  '"cosine":1.0' -- diff plus.safetensors minus.safetensors --json
# NaN is never good enough.
expect_printed 1 '"max_error":null' -- \
  diff good.safetensors bad.safetensors --json --tolerance-db -1000 --layer 'a*'
expect_exit 2 'nothing' diff good.safetensors other.safetensors --layer nothing
expect_exit 3 'missing' diff good.safetensors missing
expect_exit 2 'B' diff good.safetensors

# --- quantized
"$program" quantize "$model" --format int4:group=64 --out int4 >out || fail 'quantize to int4'
"$program" quantize "$model" --format nvfp4 --layout modelopt_nvfp4 --out nvfp4 >out ||
  fail 'quantize to nvfp4'
expect_output '"layout":"nybble","format":"int4:group=64","shape":[128,384]' '"layers":28' \
  '"bits_per_weight":4.25' '"zero_points":null' '"octaves":{' -- inspect int4 --json
expect_printed 0 'layout       modelopt_nvfp4' 'tensor scale' '14:     -4 ###' \
  'scales by their power of two' '1 quantized layers: 49152 weights, 4.500 bits each' -- \
  inspect nvfp4 --layer '*.0.mlp.down_proj'
expect_printed 0 'good: 28 quantized layers and 10 other tensors checked: 0 errors, 0 warnings' -- \
  check int4 --strict
# Each has a scale of its own.
expect_printed 0 'note: model.layers.0.self_attn.k_proj: tensor scale is ' ' of model.layers.0.mlp' \
  '0 errors, 0 warnings, 8 notes' -- check nvfp4
expect_printed 1 '38 compared: 10 identical, 0 more' -- diff "$model" int4
expect_printed 0 '0 below 15 dB' -- diff "$model" int4 --tolerance-db 15
# Relative to the original, whichever is first.
"$program" diff "$model" int4 --json >out
"$program" diff int4 "$model" --json >err
expect_same 'diff the other way' "$(tr ',' '\n' <out | grep sqnr)" "$(tr ',' '\n' <err | grep sqnr)"

# What a reader would take for damage: told from what can be read, the layout named.
mkdir nan
codes='\042\042\042\042\042\042\042\042\042\042\042\042\042\042\042\042'
safetensors nan/model.safetensors up_proj.weight_packed U8 '2, 16' "$codes$codes" \
  up_proj.weight_scale U8 '2, 1' '\377\001'
printf '{"hidden_size": 64}' >nan/config.json
expect_printed 1 'error: up_proj: number of inputs is 32, expected 64, as the model' \
  'error: up_proj: scales[0, 0] is nan, expected a finite number' \
  'warning: up_proj: scales[1, 0] is 2^-126, expected 2^-27 to 2^13' '2 errors, 1 warnings' -- \
  check nan --layout compressed_tensors_mxfp4

# --- convert
expect_output '"layout":"gptq","layers":28,"tensors":10' -- \
  convert int4 --layout gptq --out gptq --json
expect_printed 0 '28 layers in layout nybble' -- convert gptq --layout nybble --out back
cmp int4/model.safetensors back/model.safetensors && echo 'ok: there and back'
expect_printed 0 '38 compared: 38 identical' -- diff int4 gptq
grep -q '"quant_method": "gptq"' gptq/config.json || fail 'quantization_config of gptq'
expect_printed 0 'layout gguf' -- convert nvfp4 --layout gguf --out nvfp4.gguf
expect_printed 0 '38 compared: 38 identical' -- diff nvfp4 nvfp4.gguf
expect_exit 2 'int5' convert int4 --layout awq_gemm --requantize int5 --out no
expect_exit 2 'layers.0.*nf4' convert int4 --layout bitsandbytes --out no
expect_exit 2 'unknown layout.*no_such' convert int4 --layout no_such --out no
expect_exit 2 'no quantized layers' convert "$model" --layout gptq --out no
expect_exit 2 'gptq' convert int4 --layout gptq_v2 --out gptq
expect_exit 2 'nvfp4.gguf: is there already' convert nvfp4 --layout gguf --out nvfp4.gguf
# What the system refuses is bad input, too.
expect_exit 3 'good.safetensors: Not a directory' \
  convert int4 --layout gptq --out good.safetensors
expect_exit 3 'good.safetensors/below: Not a directory' \
  quantize "$model" --format int4 --out good.safetensors/below
expect_exit 3 '/proc/new: ' quantize "$model" --format int4 --out /proc/new
[ -e no ] && fail 'something was written in spite of an error'
expect_printed 0 'layout bitsandbytes' -- \
  convert int4 --layout bitsandbytes --requantize nf4/rtn --out nf4
expect_printed 0 '0 below 15 dB' -- diff int4 nf4 --tolerance-db 15

finish
