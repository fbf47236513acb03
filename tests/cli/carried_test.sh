#!/bin/sh
# usage: carried_test.sh NYBBLE_BINARY
# What nybble carries along without computing with it, from outside: tensors of types that are only
# copied, files that belong to a model, blocks of GGUF that are not decoded; and parts of a GGUF file.
set -u
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
prefix='nybble: '
tests=$(cd "$(dirname "$0")/.." && pwd)
. "$tests/support/cli_helpers.sh"
. "$tests/support/safetensors.sh"
cd "$scratch" || exit 1

# run ARGUMENTS...: must succeed; what it prints is in out
run() {
  "$program" "$@" >out 2>err || fail "$*: $(cat out err)"
}
# repeated COUNT TEXT
repeated() {
  for _ in $(seq "$1"); do printf '%s' "$2"; done
}

# 32 rows of 31 zeros and a one
weight=$(repeated 32 "$(repeated 31 '\000\000\000\000')"'\000\000\200\077')
eight=01234567

# --- types that are only copied

mkdir types
safetensors types/model.safetensors a.weight F32 '32, 32' "$weight" complex C64 2 "$eight$eight" \
  fnuz F8_E4M3FNUZ 8 "$eight" other_fnuz F8_E5M2FNUZ '2, 4' "$eight" exponents F8_E8M0 8 "$eight" \
  four F4 '4, 4' "$eight" six F6_E2M3 '4, 4' "${eight}abcd" next F3_NEW 5 'ab'
for type in C64 F8_E4M3FNUZ F8_E5M2FNUZ F8_E8M0 F4 F6_E2M3 F3_NEW; do
  expect_output "\"type\":\"$type\"" -- inspect types --json
  expect_output "\"type\":\"$type\"" -- check types --json
  expect_output "\"type\":\"$type\"" -- quantize types --format int4 --dry-run --json
done
run quantize types --format int4 --out types4
"$program" diff types types4 --json >out
expect_same 'identical after quantizing' "$(grep -o '"identical":true' out | wc -l)" 7
run convert types4 --layout gptq --out types-gptq
run diff types4 types-gptq
run report types-gptq --original types4 --out report.html
expect_exit 2 'complex.*GGUF has no type C64' convert types4 --layout gguf --out no.gguf
expect_exit 2 'other_fnuz.*no tensor that can be quantized' \
  quantize types --format int4 --rule other_fnuz=nf4 --out no
safetensors bad.safetensors next f3 5 'ab'
expect_exit 3 'next.*dtype "f3"' inspect bad.safetensors

# --- files that belong to a model

mkdir -p code/tokenizer code/original code/.git blobs
safetensors code/model.safetensors a.weight F32 '32, 32' "$weight"
echo '{"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}' >code/config.json
for name in modeling_x.py qwen.tiktoken chat_template.jinja LICENSE README.md \
    tokenizer/vocab.json pytorch_model.bin pytorch_model.bin.index.json train.log \
    original/consolidated.00.pth original/params.json .git/config .gitattributes; do
  echo "$name" >"code/$name"
done
echo 'vocab.bpe' >blobs/8f3a
ln -s ../blobs/8f3a code/vocab.bpe
copied='LICENSE README.md chat_template.jinja config.json model.safetensors modeling_x.py qwen.tiktoken tokenizer/vocab.json vocab.bpe'
run quantize code --format int4 --dry-run
expect_same 'files of a dry run' \
  "$(sed -n 's/^\([^ ]*\): [0-9]* bytes$/\1/p' out | paste -sd ' ' -)" "$copied"
expect_same 'what a dry run leaves out' "$(sed -n 's/^\([^ ]*\): not copied: /\1 /p' out)" \
  '.git/ hidden
.gitattributes hidden
original/ a model of its own
pytorch_model.bin weights
pytorch_model.bin.index.json an index of weights
train.log a log'
expect_output '"not_copied":[{"name":".git/","reason":"hidden"}' -- \
  quantize code --format int4 --dry-run --json
run quantize code --format int4 --out code4
run convert code4 --layout gptq --out code-gptq
for folder in code4 code-gptq; do
  expect_same "files of $folder" "$(cd $folder && find . -type f | sed 's|^\./||' | LC_ALL=C sort | paste -sd ' ' -)" "$copied"
  for name in modeling_x.py vocab.bpe tokenizer/vocab.json; do
    expect_same "$folder/$name" "$(cat $folder/$name)" "$name"
  done
done
# Into the folder that is read: what is written there is no part of the model.
run quantize code --format int4 --out code/int4
rm -rf code/int4/model.safetensors
mkdir code/int4/.nybble-parts
run quantize code --format int4 --dry-run
grep -q '^code/int4\|^int4/: not copied: being written$' out || fail "a run's own folder: $(cat out)"
rm -rf code/int4
ln -s nowhere code/vocab.txt
expect_exit 3 'vocab.txt: is a link to nothing' quantize code --format int4 --out no

# --- GGUF: blocks that are not decoded, and parts

# One tensor of 256 values as Q6_K, padded to 32 bytes.
q6_k() {
  printf 'GGUF\003\000\000\000\001\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000'
  printf '\015\000\000\000\000\000\000\000output.weight\001\000\000\000'
  printf '\000\001\000\000\000\000\000\000\016\000\000\000\000\000\000\000\000\000\000\000'
  repeated 27 '0' | tr 0 '\000'
  repeated 210 "$1"
  repeated 14 '0' | tr 0 '\000'
}
q6_k a >a.gguf
q6_k b >b.gguf
run diff a.gguf a.gguf
grep -q '1 compared: 1 identical' out || fail "Q6_K and itself: $(cat out)"
"$program" diff a.gguf b.gguf >out 2>err
expect_same 'exit code of another Q6_K' $? 1
grep -q 'output.weight  Q6_K  Q6_K .*type Q6_K' out || fail "another Q6_K: $(cat out err)"
run inspect a.gguf
run check a.gguf
run report a.gguf --original b.gguf --out q6_k.html
grep -q 'not comparable' q6_k.html || fail 'report of another Q6_K'

# The same as part 1 of 2, and as a file whose name says so.
cp a.gguf model-00001-of-00002.gguf
for command in inspect check 'diff a.gguf' 'convert --layout nybble --out no' \
    'report --out no.html'; do
  # shellcheck disable=SC2086  # several words
  expect_exit 3 'is named as part 1 of 2.*split.count' $command model-00001-of-00002.gguf
done
# part NUMBER: with the keys that make it one.
part() {
  printf 'GGUF\003\000\000\000\001\000\000\000\000\000\000\000\003\000\000\000\000\000\000\000'
  printf "\\010\\000\\000\\000\\000\\000\\000\\000split.no\\002\\000\\000\\000\\00$(($1 - 1))\\000"
  printf '\013\000\000\000\000\000\000\000split.count\002\000\000\000\002\000'
  printf '\023\000\000\000\000\000\000\000split.tensors.count\005\000\000\000\002\000\000\000'
  printf '\005\000\000\000\000\000\000\000norm%s\001\000\000\000' "$1"
  printf '\001\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000'
  repeated 17 '0' | tr 0 '\000'
  printf '\000\000\200\077'
  repeated 28 '0' | tr 0 '\000'
}
part 1 >model-00001-of-00002.gguf
expect_exit 3 'is part 1 of 2, missing: "model-00002-of-00002.gguf"' \
  inspect model-00001-of-00002.gguf
expect_exit 3 'missing: "model-00002-of-00002.gguf"' \
  convert model-00001-of-00002.gguf --layout gptq --out no
part 2 >model-00002-of-00002.gguf
expect_output '"tensors":2' "\"file_bytes\":$(cat model-0000?-of-00002.gguf | wc -c)" -- \
  inspect model-00002-of-00002.gguf --json
run diff model-00001-of-00002.gguf model-00002-of-00002.gguf
grep -q '2 compared: 2 identical' out || fail "both parts: $(cat out)"
part 1 >model-00002-of-00002.gguf
expect_exit 3 'model-00002-of-00002.gguf: key "split.no": is 0, expected 1' \
  check model-00001-of-00002.gguf
[ -e no ] && fail 'something was written in spite of an error'

finish
