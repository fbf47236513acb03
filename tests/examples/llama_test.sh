#!/bin/sh
# usage: llama_test.sh LLAMA_BINARY
# The example engine against reference perplexities (computed with numpy) and its exit codes.
# NYBBLE_SHARED is the folder that holds models/; without it the test is skipped (77).
set -u
program=$1
if [ -z "${NYBBLE_SHARED:-}" ]; then
  echo "skipped: NYBBLE_SHARED is not set (folder with models/mini, booklm and stories260k)"
  exit 77
fi
models=$NYBBLE_SHARED/models
prefix='llama: '
. "$(dirname "$0")/../support/cli_helpers.sh"

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
expect_exit 3 'config.json' perplexity --model "$scratch/nowhere" --text "$mini_text"
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
