#!/bin/sh
# usage: layer_test.sh NYBBLE_BINARY
# nybble layer and nybble sweep from outside: exit codes, messages, JSON keys, files that appear
# whole or not at all, and results that do not depend on the number of threads.
set -u
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
unset NYBBLE_TARGET
prefix='nybble: '
. "$(dirname "$0")/../support/cli_helpers.sh"
cd "$scratch" || exit 1
mkdir in made nothing

# random_f16 SEED COUNT PERIOD: numbers of both signs for printf, 1/16 to 1/2 in size; every
# PERIOD-th is 16 times as large.
random_f16() {
  awk -v seed="$1" -v count="$2" -v period="$3" 'BEGIN {
    for (i = 0; i < count; ++i) {
      seed = (seed * 16807) % 2147483647
      high = 44 + int(seed / 65536) % 12 + (int(seed / 4096) % 2) * 128
      printf "\\%03o\\%03o", int(seed / 256) % 256, high + (i % period == 0 ? 16 : 0)
    }
  }'
}
# keys FILE: all keys of its JSON but those within "decisions", in order.
keys() {
  sed 's/"decisions":{[^}]*}/"decisions":0/' "$1" | tr '{,' '\n\n' |
    sed -n 's/^"\([a-z_]*\)":.*/\1/p' | tr '\n' ' '
}
# untimed FILE: its JSON without what differs from run to run.
untimed() {
  sed -E 's/"(seconds|peak_bytes)":[^,}]*//g' "$1"
}
# numbers KEY FILE: the values of a key, a line each.
numbers() {
  tr '{,}' '\n\n\n' <"$2" | sed -n "s/^\"$1\"://p"
}

# 24 x 64 weights, 128 tokens to fit to and 48 others; every 16th channel of the inputs is large.
npy in/w.npy '<f2' '(24, 64)' "$(random_f16 1 1536 10000)"
npy in/x.npy '<f2' '(128, 64)' "$(random_f16 2 8192 16)"
npy in/t.npy '<f2' '(48, 64)' "$(random_f16 3 3072 16)"
npy in/narrow.npy '<f2' '(48, 32)' "$(random_f16 4 1536 16)"
npy in/flat.npy '<f2' '(64,)' "$(random_f16 5 64 16)"
npy in/nan.npy '<f2' '(2, 32)' "\\000\\176$(random_f16 6 63 100)"
npy in/inf_x.npy '<f2' '(1, 64)' "$(random_f16 7 63 100)\\000\\174"
npy in/empty.npy '<f2' '(0, 64)' ''
npy in/integers.npy '<i2' '(2, 32)' "$(random_f16 8 64 100)"
printf 'no array' >in/text.npy
# 1, -2, 3, 6 and so on, exact in MXFP4
four='\000\000\200\077\000\000\000\300\000\000\100\100\000\000\300\100'
sixteen=$four$four$four$four
npy in/exact.npy '<f4' '(2, 32)' "$sixteen$sixteen$sixteen$sixteen"
npy in/zeros.npy '<f4' '(1, 4)' '\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000\000'

# --- layer ---

expect_output '"rows":24' '"cols":64' '"format":"amxfp4"' '"method":"awq+gptq"' \
  '"activations":null' '"bits_per_weight":4.5' '"decisions":{"awq exponent":' -- \
  layer --weights in/w.npy --calibration in/x.npy --test in/t.npy --format amxfp4 \
  --method awq+gptq --json
expect_same 'keys of layer --json' "$(keys out)" "rows cols format method activations \
bits_per_weight weight_sqnr_db sqnr_calibration_db sqnr_test_db seconds peak_bytes decisions "
# What is not measured is null, in the same keys; options come back as they were understood.
expect_output '"sqnr_calibration_db":null' '"sqnr_test_db":null' '"format":"int4"' \
  '"decisions":{}' -- layer --weights in/w.npy --format int4:group=32 --method rtn --json
expect_same 'keys without inputs' "$(keys out)" "rows cols format method activations \
bits_per_weight weight_sqnr_db sqnr_calibration_db sqnr_test_db seconds peak_bytes decisions "
expect_output '"activations":"mxfp4"' '"method":"clip:loss=plain"' -- \
  layer --weights in/w.npy --test in/t.npy --format nf4 --method clip:loss=plain \
  --activations mxfp4 --json
expect_output '"method":"gptq"' -- \
  layer --weights in/w.npy --calibration in/x.npy --format mxfp4 --json

# Calibration pays where some inputs are large, on inputs that were not seen, too.
best=-100
for method in rtn gptq awq+gptq; do
  "$program" layer --weights in/w.npy --calibration in/x.npy --test in/t.npy --format int4 \
    --method $method --json >out || fail "layer --method $method"
  found=$(numbers sqnr_test_db out)
  if awk -v a="$found" -v b="$best" 'BEGIN { exit !(a > b - 0.3) }'; then
    echo "ok: $method $found dB"
  else
    fail "$method: $found dB, the method before it $best dB"
  fi
  best=$found
done

# Exact weights come back as they were, with no error to measure.
expect_output '"weight_sqnr_db":null' -- \
  layer --weights in/exact.npy --format mxfp4 --method rtn --out made/exact.npy --json
if cmp in/exact.npy made/exact.npy; then echo 'ok: exact weights'; else fail 'exact weights'; fi
expect_output '"weight_sqnr_db":null' -- \
  layer --weights in/zeros.npy --format int4 --method rtn --json

# --out is N x K in f32, whatever transforms there were, and replaces the file that was there.
printf 'old' >made/w.npy
for method in rtn awq+gptq hadamard+clip gptq:static_groups=false; do
  "$program" layer --weights in/w.npy --calibration in/x.npy --format nvfp4 --method $method \
    --threads 1 --out made/w.npy --json >one || fail "layer --method $method --out"
  grep -q "'descr': '<f4', 'fortran_order': False, 'shape': (24, 64)" made/w.npy ||
    fail "$method: header of --out"
  expect_same "$method: bytes of --out" "$(($(wc -c <made/w.npy)))" $((128 + 4 * 24 * 64))
  for threads in 2 3; do
    "$program" layer --weights in/w.npy --calibration in/x.npy --format nvfp4 --method $method \
      --threads $threads --out made/other.npy --json >other || fail "layer --threads $threads"
    expect_same "$method: JSON with $threads threads" "$(untimed other)" "$(untimed one)"
    cmp made/w.npy made/other.npy || fail "$method: --out with $threads threads"
  done
done
"$program" layer --weights in/w.npy --calibration in/x.npy --test in/t.npy --format int4 \
  --activations int4 >out 2>err || fail 'layer as text'
[ -s err ] && fail 'layer as text: stderr, expected nothing'
for line in 'weights  *24 x 64' 'format  *int4' 'method  *gptq' 'activations  *int4' \
  'bits per weight  *4.500' 'output SQNR .* dB on the calibration inputs' \
  'output SQNR .* dB on the test inputs' 'gptq damping' 'seconds' 'peak memory .* MB'; do
  grep -q "^$line" out || fail "layer as text: no '$line'"
done

# No output is one of the inputs.
for input in w x t; do
  expect_exit 2 "in/$input.npy: is the input" layer --weights in/w.npy --calibration in/x.npy \
    --test in/t.npy --format int4 --out in/$input.npy
  expect_exit 2 "in/$input.npy: is the input" sweep --weights in/w.npy --calibration in/x.npy \
    --test in/t.npy --format int4 --method rtn --csv in/$input.npy
done

# Weights that f16 scales cannot hold: 2^-40 and -2^-40 in turn.
sixteen='\000\000\200\053\000\000\200\253\000\000\200\053\000\000\200\253'
npy in/tiny.npy '<f4' '(1, 16)' "$sixteen$sixteen$sixteen$sixteen"
expect_exit 3 'in/tiny.npy: weights of row 0.*expected int4:scale=f32' \
  layer --weights in/tiny.npy --format int4 --method rtn --out nothing/y.npy
"$program" layer --weights in/tiny.npy --format int4:scale=f32 --method rtn >out ||
  fail 'tiny weights with f32 scales'

# --- sweep ---

set -- sweep --weights in/w.npy --calibration in/x.npy
expect_output '"rows":24,"cols":64,"activations":null,"results":[{"format":"int4",' -- "$@" \
  --test in/t.npy --format 'int4;int4:group=16,zero_point=true' --format mxfp4 \
  --method rtn --method awq+gptq:damp=0.01,refine=cd --threads 1 --json \
  --csv made/s.csv --out-json made/s.json --chart made/s.svg
each='format method bits_per_weight weight_sqnr_db sqnr_calibration_db sqnr_test_db seconds '
expect_same 'keys of sweep --json' "$(keys out)" \
  "rows cols activations results $each$each$each$each$each$each"
if cmp out made/s.json; then echo 'ok: --out-json'; else fail '--out-json'; fi
cp out one
expect_same 'lines of --csv' "$(cut -d'"' -f2,4 made/s.csv | tr '\n' ' ')" \
  "$(echo $each | tr ' ' ,) int4\"rtn int4\"awq+gptq:damp=0.01,refine=cd \
int4:group=16,zero_point=true\"rtn int4:group=16,zero_point=true\"awq+gptq:damp=0.01,refine=cd \
mxfp4\"rtn mxfp4\"awq+gptq:damp=0.01,refine=cd "
expect_same 'numbers of --csv' "$(sed 1d made/s.csv | sed 's/.*",\([0-9]\)/\1/' | cut -d, -f4)" \
  "$(numbers sqnr_test_db one)"
expect_same 'points of --chart' "$(grep -c '<title>.*, .*: .* bits, .* dB</title>' made/s.svg)" 6
for text in '<svg xmlns="http://www.w3.org/2000/svg"' '>int4:group=16,zero_point=true</text>' \
  '>awq+gptq:damp=0.01,refine=cd</text>' '>4.25</text>' '</svg>'; do
  grep -q -F "$text" made/s.svg || fail "--chart: no '$text'"
done
grep -q -i -e '<script' -e 'href' -e 'nan' -e 'inf' made/s.svg &&
  fail '--chart: scripts, links or NaN'
if command -v python3 >/dev/null 2>&1; then
  python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' made/s.svg ||
    fail '--chart: not XML'
fi
"$program" "$@" --test in/t.npy --format 'int4;int4:group=16,zero_point=true;mxfp4' \
  --method 'rtn;awq+gptq:damp=0.01,refine=cd' --threads 2 --json >other || fail 'sweep with lists'
expect_same 'sweep with 2 threads' "$(untimed other)" "$(untimed one)"

# A result is what layer says, with --activations as well.
"$program" "$@" --format nvfp4 --method gptq --activations mxfp4 --json >one || fail 'sweep of one'
"$program" layer --weights in/w.npy --calibration in/x.npy --format nvfp4 --activations mxfp4 \
  --json >other || fail 'layer with activations'
for key in bits_per_weight weight_sqnr_db sqnr_calibration_db sqnr_test_db; do
  expect_same "$key of sweep and layer" "$(numbers $key one)" "$(numbers $key other)"
done

# Formats and methods of its own: a table of seven lines, four columns.
"$program" "$@" >out 2>err || fail 'sweep without options'
[ -s err ] && fail 'sweep: stderr that is no terminal, expected nothing'
expect_same 'table of sweep' \
  "$(sed -n '3,$s/\([a-z0-9:=_,]*\)  *\([0-9.a-z]*\)\(.*\)/\1 \2/p' out | tr '\n' ' ')" \
  "format bits int4:group=128 4.250 int4 4.500 int4:zero_point=true 4.625 nf4 4.500 mxfp4 4.250 \
nvfp4 4.500 amxfp4 4.500 "
grep -q 'measured on the calibration inputs' out || fail 'table of sweep: measured on'
expect_same 'columns of the table' "$(sed -n '3s/  */ /gp' out)" \
  'format bits rtn clip gptq awq+gptq'
"$program" sweep --weights in/w.npy --test in/t.npy --method rtn >out ||
  fail 'sweep without calibration'
grep -q 'measured on the test inputs' out || fail 'sweep without calibration: measured on'
# Exact results have no place on a chart, and no number in JSON.
expect_output '"sqnr_test_db":null' -- sweep --weights in/exact.npy --test in/exact.npy \
  --method rtn --format mxfp4 --chart made/exact.svg --csv made/exact.csv --json
grep -q 'Not drawn' made/exact.svg || fail 'chart of exact results'
expect_same 'exact result in --csv' "$(sed -n '2s/,[^,]*$//p' made/exact.csv)" \
  '"mxfp4","rtn",4.25,inf,,inf'
expect_same 'no temporary files' "$(ls made | tr '\n' ' ')" \
  'exact.csv exact.npy exact.svg other.npy s.csv s.json s.svg w.npy '

# --- what is wrong, for both: 3 for input, 2 for usage, and no file is written or changed ---

printf 'old' >nothing/w.npy
for command in 'layer --format int4 --out nothing/w.npy' \
  'sweep --format int4 --csv nothing/w.npy --chart nothing/c.svg'; do
  for method in rtn awq+gptq; do
    set -- $command --method $method
    expect_exit 3 'missing.npy' "$@" --weights in/missing.npy --calibration in/x.npy
    expect_exit 3 'missing.npy' "$@" --weights in/w.npy --calibration in/missing.npy
    expect_exit 3 'missing.npy' "$@" --weights in/w.npy --calibration in/x.npy --test in/missing.npy
    expect_exit 3 'narrow.npy: 32 columns, expected the 64' \
      "$@" --weights in/w.npy --calibration in/narrow.npy
    expect_exit 3 'narrow.npy: 32 columns, expected the 64' \
      "$@" --weights in/w.npy --calibration in/x.npy --test in/narrow.npy
    expect_exit 3 'flat.npy: shape \[64\], expected two axes' \
      "$@" --weights in/flat.npy --calibration in/x.npy
    expect_exit 3 'flat.npy: shape \[64\], expected two axes' \
      "$@" --weights in/w.npy --calibration in/flat.npy
    expect_exit 3 'empty.npy' "$@" --weights in/w.npy --calibration in/empty.npy
    expect_exit 3 'text.npy' "$@" --weights in/text.npy --calibration in/x.npy
    expect_exit 3 'integers.npy.*i2' "$@" --weights in/integers.npy --calibration in/x.npy
    expect_exit 3 'nan.npy: nan at \[0, 0\], expected finite' \
      "$@" --weights in/nan.npy --calibration in/narrow.npy
    expect_exit 3 'inf_x.npy: inf at \[0, 63\], expected finite' \
      "$@" --weights in/w.npy --calibration in/inf_x.npy
    expect_exit 3 'inf_x.npy: inf at \[0, 63\], expected finite' \
      "$@" --weights in/w.npy --calibration in/x.npy --test in/inf_x.npy
  done
  set -- $command --weights in/w.npy
  expect_exit 2 'gptq.*needs --calibration' "$@" --test in/t.npy --method gptq
  expect_exit 2 'awq+rtn.*needs --calibration' "$@" --test in/t.npy --method awq+rtn
  expect_exit 2 '--calibration' "$@" --method rtn --activations mxfp4
  set -- $command --weights in/w.npy --calibration in/x.npy
  expect_exit 2 "'gptq' rounds and must come last" "$@" --method gptq+awq
  expect_exit 2 "unknown step 'magic', expected one of rtn, clip" "$@" --method magic
  expect_exit 2 "unknown step ''" "$@" --method awq+
  expect_exit 2 "unknown option 'dump', allowed: .*damp" "$@" --method gptq:dump=1
  expect_exit 2 'damp=-1' "$@" --method gptq:damp=-1
  expect_exit 2 'expected awq and smoothquant first' "$@" --method hadamard+awq+gptq
  expect_exit 2 'hadamard block 256, .* divides 64' \
    "$@" --method hadamard:block=256+rtn
  expect_exit 2 'int5' "$@" --activations int5
  expect_exit 2 'double quantization' "$@" --activations nf4:double=true
  expect_exit 2 'no-such' "$@" --no-such
  expect_exit 2 'threads' "$@" --threads -1
done
# An error of one of many names which.
expect_exit 2 "format 'nf4', method 'hadamard:block=256+rtn': in/w.npy: hadamard block" \
  sweep --weights in/w.npy --calibration in/x.npy --format nf4 --method rtn hadamard:block=256+rtn
# NaN would be an MXFP4 group of its own; a layer with one is broken.
expect_exit 3 'nan at \[0, 0\]' layer --weights in/nan.npy --format mxfp4 --method rtn
expect_exit 2 'int5' layer --weights in/w.npy --calibration in/x.npy --format int5
expect_exit 2 'int5' sweep --weights in/w.npy --calibration in/x.npy --format 'int4;int5'
expect_exit 2 'format' layer --weights in/w.npy --calibration in/x.npy
expect_exit 2 'weights' layer --calibration in/x.npy --format int4
expect_exit 2 'weights' sweep --calibration in/x.npy
expect_exit 2 'nothing to measure on' sweep --weights in/w.npy --method rtn
expect_exit 2 'given twice' sweep --weights in/w.npy --test in/t.npy --method rtn \
  --format 'int4;int4:group=32'
expect_exit 2 'given twice' sweep --weights in/w.npy --test in/t.npy --method rtn rtn
# What cannot be written fails before anything is read.
expect_exit 3 'nowhere/w.npy: cannot write' \
  layer --weights in/missing.npy --format int4 --method rtn --out nowhere/w.npy
expect_exit 3 'in: cannot write' \
  layer --weights in/missing.npy --format int4 --method rtn --out in
for option in csv out-json chart; do
  expect_exit 3 'nowhere/s: cannot write' sweep --weights in/missing.npy --test in/t.npy \
    --method rtn --$option nowhere/s
done
expect_exit 2 'named for two outputs' sweep --weights in/w.npy --test in/t.npy --method rtn \
  --csv nothing/same --chart nothing/../nothing/same
expect_output '"method":"awq+clip:loss=group"' -- layer --weights in/w.npy --calibration in/x.npy \
  --format int4 --method awq --json
# The same bytes on every target.
for target in $("$program" cpu | sed -n 's/^target *\([a-z0-9_]*\) *yes .*/\1/p'); do
  NYBBLE_TARGET=$target "$program" layer --weights in/w.npy --calibration in/x.npy \
    --format amxfp4 --method awq+gptq --out "made/$target.npy" >/dev/null
  if cmp "made/$target.npy" made/scalar.npy; then
    echo "ok: on $target as on scalar"
  else
    fail "other weights on $target than on scalar"
  fi
done
# qep wants the inputs as they were.
expect_output '"method":"qep+gptq"' -- layer --weights in/w.npy --calibration in/x.npy \
  --calibration-original in/x.npy --test in/t.npy --test-original in/t.npy --format int4 \
  --method qep+gptq --json
expect_exit 2 'qep+gptq: needs --calibration-original' \
  layer --weights in/w.npy --calibration in/x.npy --format int4 --method qep+gptq
expect_exit 2 'test-original: needs --test' \
  layer --weights in/w.npy --test-original in/t.npy --format int4 --method rtn
expect_exit 3 'in/t.npy: 48 rows, expected as many as its inputs, 128' layer --weights in/w.npy \
  --calibration in/x.npy --calibration-original in/t.npy --format int4 --method qep+gptq

# Memory: a matrix of 1024 x 1024 numbers is 4 MB, and README's account of them makes about 70 MB.
npy in/large.npy '<f2' '(1024, 1024)' ''
npy in/block.npy '<f2' '(8, 1024)' "$(random_f16 9 8192 1000)"
tail -c 16384 in/block.npy >in/block
for i in 1 2 3 4 5 6 7; do cat in/block in/block >in/blocks && mv in/blocks in/block; done
cat in/block >>in/large.npy
expect_output '"rows":1024,"cols":1024' -- layer --weights in/large.npy --calibration in/large.npy \
  --format int4:group=128 --method gptq --json
peak=$(sed -n 's/.*"peak_bytes":\([0-9]*\).*/\1/p' out)
if [ "$peak" -gt 100663296 ]; then
  fail "peak memory $peak bytes, expected at most 96 MiB"
else
  echo "ok: peak memory $peak bytes"
fi

expect_same 'nothing written' "$(ls -A nothing)" 'w.npy'
expect_same 'nothing changed' "$(cat nothing/w.npy)" 'old'

finish
