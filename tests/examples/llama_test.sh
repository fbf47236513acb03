#!/bin/sh
# usage: llama_test.sh LLAMA_BINARY NYBBLE_BINARY
# The example engine: quantized checkpoints of the demo's model, in its own and in others' layouts
# (nybble convert), then perplexities computed with numpy and exit codes on other models. NYBBLE_SHARED is the folder that holds models/; without it the
# second part is skipped (77).
set -u
program=$1
nybble=$2
prefix='llama: '
. "$(dirname "$0")/../support/cli_helpers.sh"
root=$(dirname "$0")/../..
demo=$root/examples/llama/model
text=$scratch/text
head -c 4096 "$root/README.md" >"$text"
calibrated="--calibration-own-text --calibration-windows 12 --window 128"

# perplexity ARGUMENTS...: of $text, all digits
perplexity() {
  "$program" perplexity --text "$text" --json "$@" |
    sed -n 's/.*"perplexity": \(.*\),/\1/p'
}

# quantize OUT ARGUMENTS...
quantize() {
  out=$1
  shift
  # shellcheck disable=SC2086  # several options
  "$program" quantize --model "$demo" $calibrated --out "$scratch/$out" "$@" >/dev/null ||
    fail "quantize $*"
}

# expect_round_trip FORMAT METHOD PATH [OPTIONS...]: a checkpoint that two threads make like one
# does, and that computes what quantizing in memory does, to the last digit
expect_round_trip() {
  settings="--format $1 --method $2 --path $3"
  shift 3
  rm -rf "$scratch/one" "$scratch/two"
  # shellcheck disable=SC2086
  quantize one $settings "$@" --threads 1
  # shellcheck disable=SC2086
  quantize two $settings "$@" --threads 2
  for file in model.safetensors config.json; do
    cmp "$scratch/one/$file" "$scratch/two/$file" || fail "1 and 2 threads differ: $settings"
  done
  cmp "$scratch/one/config.json" "$demo/config.json" || fail "config.json was not copied"
  # shellcheck disable=SC2086
  in_memory=$(perplexity --model "$demo" $settings $calibrated "$@")
  loaded=$(perplexity --model "$scratch/one" --window 128)
  [ -n "$loaded" ] || fail "no perplexity: $settings"
  expect_same "$loaded, written, loaded and in memory: $settings $*" "$loaded" "$in_memory"
}

expect_round_trip int4 gptq a32
expect_round_trip int4:zero_point=true gptq a16
expect_round_trip nf4:double=true gptq a32
expect_round_trip fp4:scale=bf16 awq+gptq:static_groups=false a32
expect_round_trip nvfp4 smoothquant+hadamard+gptq a4
expect_round_trip amxfp4 smoothquant+rtn a4 --activations mxfp4
expect_round_trip mxfp4 gptq a8 --calibrate-full-precision
expect_round_trip int4 qep+gptq a4
expect_round_trip int4:group=row rtn a8

# expect_imported FORMAT METHOD LAYOUT...: converted to other tools' layouts, and written as GGUF
# where that has the format, the checkpoint computes the same, to the last digit.
expect_imported() {
  settings="--format $1 --method $2 --path a8"
  shift 2
  rm -rf "$scratch/one"
  # shellcheck disable=SC2086
  quantize one $settings
  expected=$(perplexity --model "$scratch/one" --window 128)
  for layout in "$@"; do
    rm -rf "$scratch/two" "$scratch/two.gguf"
    if [ "$layout" = gguf ]; then
      # shellcheck disable=SC2086
      quantize two.gguf $settings
      got=$(perplexity --model "$scratch/two.gguf" --window 128)
    else
      "$nybble" convert "$scratch/one" --layout "$layout" --drop-details --out "$scratch/two" \
        >/dev/null || fail "convert to $layout"
      got=$(perplexity --model "$scratch/two" --window 128)
    fi
    expect_same "$expected from $layout: $settings" "$got" "$expected"
  done
}

expect_imported int4 rtn gptq gptq_v2 awq_gemm awq_gemv compressed_tensors gguf
expect_imported int4:group=128,zero_point=true gptq:channel_scale=false gptq awq_gemm
expect_imported int4 gptq:channel_scale=false,static_groups=false gptq gptq_v2 compressed_tensors
expect_imported mxfp4 rtn compressed_tensors_mxfp4 gguf
expect_imported nvfp4 gptq:channel_scale=false modelopt_nvfp4 gguf
expect_imported nf4 rtn bitsandbytes
expect_imported iq4_nl rtn gguf

# Whatever was not quantized is stored as it was: here tensors in bf16, and metadata.
"$program" quantize --model "$demo" --format int4 --out "$scratch/rtn" >"$scratch/out" || fail "rtn"
header=$(head -c 40000 "$scratch/rtn/model.safetensors" | tr -d '\000')
case $header in
  *'"model.embed_tokens.weight":{"dtype":"BF16"'*) echo "ok: embeddings in bf16" ;;
  *) fail "embeddings are not in bf16" ;;
esac

# kl METHOD: the divergence from f32 on text that the f32 model writes, with int4 weights
kl() {
  # shellcheck disable=SC2086
  "$program" compare --model "$demo" $calibrated --sample 2048 --rows "int4:group=128/a32/$1" \
    --json | sed -n 's/.*"kl_divergence": \(.*\),/\1/p' | tail -n 1
}
rtn=$(kl rtn)
for method in gptq awq+gptq; do
  got=$(kl "$method")
  if awk -v a="$got" -v b="$rtn" 'BEGIN { exit !(a > 0 && a < 0.6 * b) }'; then
    echo "ok: $method diverges by $got, rtn by $rtn"
  else
    fail "$method diverges by '$got', rtn by '$rtn'"
  fi
done

# Commas inside formats and methods end no row, and both separators do.
rows="amxfp4:scale=e8m0,search=mse/a16/gptq:damp=0.01,refine=cd,int4/a8;nf4/a32/hadamard+rtn"
# shellcheck disable=SC2086
got=$("$program" compare --model "$demo" $calibrated --sample 256 --rows "$rows" --json |
  sed -n 's/.*"\(format\|method\|path\)": "\(.*\)",/\2/p' | tr '\n' ' ')
expect_same "rows" "$got" \
  "f32 f32 f32 amxfp4:scale=e8m0,search=mse gptq:damp=0.01,refine=cd a16 int4 rtn a8 nf4 hadamard+rtn a32 "

expect_exit 2 'needs calibration' quantize --model "$demo" --format int4 --method gptq \
  --out "$scratch/none"
expect_exit 2 'needs calibration' compare --model "$demo" --rows int4/a8/gptq
expect_exit 2 'needs calibration' perplexity --model "$demo" --text "$text" --format int4 \
  --method awq+rtn
expect_exit 2 'method needs --format' perplexity --model "$demo" --text "$text" --method gptq
expect_exit 2 "unknown step 'gtpq'" quantize --model "$demo" --format int4 --method gtpq \
  --out "$scratch/none"
expect_exit 2 'format is required' quantize --model "$demo" --out "$scratch/none"
expect_exit 3 'nothing.txt' quantize --model "$demo" --format int4 --method gptq \
  --calibration-text "$scratch/nothing.txt" --out "$scratch/none"
expect_exit 2 'positions' quantize --model "$demo" --format int4 --method gptq --window 512 \
  --calibration-text "$text" --out "$scratch/none"
expect_exit 3 'at least one window' quantize --model "$demo" --format int4 --method gptq \
  --calibration-text "$scratch/out" --out "$scratch/none"
[ ! -e "$scratch/none/model.safetensors" ] || fail "a checkpoint in spite of an error"
expect_exit 2 'the model that is read' quantize --model "$demo" --format int4 --out "$demo"
mkdir "$scratch/linked"
ln -s "$demo/model.safetensors" "$scratch/linked/model.safetensors"
expect_exit 2 'the model that is read' quantize --model "$demo" --format int4 --out "$scratch/linked"
expect_exit 2 'quantized already' quantize --model "$scratch/rtn" --format int4 --out "$scratch/none"
expect_exit 2 'quantized already' perplexity --model "$scratch/rtn" --text "$text" --format int4
expect_exit 2 'quantized already' compare --model "$scratch/rtn"
: >"$scratch/file"
expect_exit 3 'file/out' quantize --model "$demo" --format int4 --out "$scratch/file/out"

# Damaged checkpoints, each made from a good one: of this model, with all that a layer can have.
quantize good --format int4:zero_point=true --method smoothquant+hadamard+gptq --path a8
layer=model.layers.1.mlp.up_proj.weight
# expect_damage PATTERN SED_SCRIPT: of the header, whose length must stay
expect_damage() {
  rm -rf "$scratch/damaged"
  mkdir "$scratch/damaged"
  cp "$scratch/good/config.json" "$scratch/damaged/config.json"
  LC_ALL=C sed "$2" "$scratch/good/model.safetensors" >"$scratch/damaged/model.safetensors"
  ! cmp -s "$scratch/good/model.safetensors" "$scratch/damaged/model.safetensors" ||
    fail "nothing was damaged: $2"
  expect_exit 3 "$1" perplexity --model "$scratch/damaged" --text "$text"
}
expect_damage "no tensor $layer" "s/$layer.codes/$layer.c0des/"
expect_damage "no tensor \"$layer.scales\"" "s/$layer.scales/$layer.sca1es/"
expect_damage "\"$layer.zero_points\" is I8 .*expected U8" \
  "s/\($layer.zero_points\":{\"dtype\":\"\)U8/\1I8/"
expect_damage "\"$layer.shape\" is \[384, 128\], expected that of codes \[64, 384\]" \
  "s/\($layer.codes[^[]*\)\[384,64\]/\1[64,384]/"
expect_damage "\"$layer.hadamard_signs\" is without" "s/$layer.hadamard_block/$layer.hadamard_b1ock/"
expect_damage "${layer%.weight}\": hadamard: block 120" "s/\($layer.hadamard_block\":\"\)128/\1120/"
expect_damage "nybble.format: .*jnt4" 's/\(nybble.format":"\)int4/\1jnt4/'
expect_damage "nybble.path: .*b8" 's/\(nybble.path":"\)a8/\1b8/'
expect_damage 'version "2"' 's/\(nybble.version":"\)1/\12/'
# What a sign or a zero point cannot be: bytes of the first tensor of that kind, at its place.
expect_bad_bytes() {
  rm -rf "$scratch/damaged"
  cp -r "$scratch/good" "$scratch/damaged"
  file=$scratch/damaged/model.safetensors
  length=$(od -A n -t u4 -N 4 "$file" | tr -d ' ')
  begin=$(head -c "$((8 + length))" "$file" | tail -c +9 |
    sed "s/.*\"$layer.$1\":{[^}]*\"data_offsets\":\[\([0-9]*\),.*/\1/")
  printf '\377\377\377\177' |
    dd of="$file" bs=1 seek="$((8 + length + begin))" conv=notrunc 2>/dev/null
  expect_exit 3 "\"$layer.$1\" is .*expected $2" perplexity --model "$scratch/damaged" --text "$text"
}
expect_bad_bytes zero_points 'numbers from 0 to 15'
expect_bad_bytes channel_scale 'finite numbers'
expect_bad_bytes hadamard_signs '1 and -1'

if [ -z "${NYBBLE_SHARED:-}" ]; then
  [ "$failures" -eq 0 ] || finish
  echo "skipped: the rest, NYBBLE_SHARED is not set (folder with models/mini, booklm and stories260k)"
  exit 77
fi
models=$NYBBLE_SHARED/models

# expect_perplexity EXPECTED ARGUMENTS...: within 0.1 %
expect_perplexity() {
  expected=$1
  shift
  got=$("$program" perplexity "$@" | awk '$1 == "perplexity" { print $2 }')
  if awk -v got="$got" -v expected="$expected" \
      'BEGIN { d = got / expected - 1; exit !(d * d < 1e-6) }'; then
    echo "ok: $got ($expected)"
  else
    fail "perplexity '$got', expected $expected: $*"
  fi
}

# A copy of mini whose config.json went through a sed script.
edited_model() {
  rm -rf "$scratch/model"
  mkdir "$scratch/model"
  sed "$1" "$models/mini/config.json" >"$scratch/model/config.json"
  ln -s "$models/mini/model.safetensors" "$scratch/model/model.safetensors"
}

mini_text=$models/mini/heldout.txt
expect_perplexity 3.80412 --model "$models/mini" --text "$mini_text"
expect_perplexity 3.9774 --model "$models/stories260k" \
  --tokens "$models/stories260k/tinystories_eval.u16"
expect_perplexity 78.460 --model "$models/booklm" --tokens "$models/booklm/heldout_books.u16" \
  --max-tokens 24480

# Weights in int4, computed in f32: measured with numpy (group 32, f32 scales) as 3.8247.
expect_perplexity 3.8247 --model "$models/mini" --text "$mini_text" --format int4 --path a32
# The 4-bit KV cache: what a naive attention over its dequantized contents gives.
expect_perplexity 3.8400 --model "$models/mini" --text "$mini_text" --kv int4
expect_perplexity 3.8357 --model "$models/mini" --text "$mini_text" --kv amxfp4

# What the cache remembers is what reading the text anew would give: continuing a text greedily and
# starting from a longer piece of it meet.
generate() {
  "$program" generate --model "$models/mini" --temperature 0 --prompt "$1" --tokens "$2" 2>/dev/null
}
whole=$(generate "The man " 60)
middle=$(printf '%s' "$whole" | cut -c1-31)x
if [ "$(generate "${middle%x}" 37)" = "$whole" ]; then
  echo "ok: $whole"
else
  fail "decoding and prefill disagree: '$whole' against '$(generate "${middle%x}" 37)'"
fi

expect_exit 2 'model is required' perplexity --text "$mini_text"
expect_exit 2 'no-such-option' perplexity --model "$models/mini" --no-such-option
expect_exit 2 'int5' perplexity --model "$models/mini" --text "$mini_text" --format int5
expect_exit 2 'a9' perplexity --model "$models/mini" --text "$mini_text" --format int4 --path a9
expect_exit 2 '--tokens and --text' perplexity --model "$models/mini"
expect_exit 2 '--text needs' perplexity --model "$models/stories260k" --text "$mini_text"
expect_exit 2 'positions' perplexity --model "$models/mini" --text "$mini_text" --window 512
expect_exit 2 'format/path' compare --model "$models/mini" --rows int4
expect_exit 3 'nowhere' perplexity --model "$scratch/nowhere" --text "$mini_text"
expect_exit 3 'nothing.txt' perplexity --model "$models/mini" --text "$scratch/nothing.txt"
expect_exit 3 'vocabulary' perplexity --model "$models/mini" \
  --tokens "$models/booklm/heldout_books.u16"

edited_model '/hidden_size/d'
expect_exit 3 'hidden_size' generate --model "$scratch/model"
edited_model 's/"num_key_value_heads": 4/"num_key_value_heads": 3/'
expect_exit 3 'does not divide' generate --model "$scratch/model"
edited_model 's/"intermediate_size": 384/"intermediate_size": 256/'
expect_exit 3 'gate_proj.weight has shape \[384, 128\], expected \[256, 128\]' \
  generate --model "$scratch/model"
edited_model 's/"num_hidden_layers": 4/"num_hidden_layers": 5/'
expect_exit 3 'no tensor model.layers.4' generate --model "$scratch/model"
edited_model 's/"tie_word_embeddings": true/"tie_word_embeddings": false/'
expect_exit 3 'no tensor lm_head.weight' generate --model "$scratch/model"

finish
