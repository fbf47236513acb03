#!/bin/sh
# usage: cli_test.sh NYBBLE_BINARY
# The nybble program from outside: exit codes, messages, JSON keys, and casts whose results are
# known by hand, on arrays made with printf.
set -u
program=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
unset NYBBLE_TARGET
prefix='nybble: '
. "$(dirname "$0")/../support/cli_helpers.sh"

# data PATH BYTES: the last BYTES of a file, in decimal, separated by single spaces.
data() {
  tail -c "$2" "$1" | od -An -v -tu1 | tr -s ' \n' '  ' | sed 's/^ //; s/ $//'
}

zero='\000\000\000\000'
zeros4=$zero$zero$zero$zero
zeros30=$zeros4$zeros4$zeros4$zeros4$zeros4$zeros4$zeros4$zero$zero
nan='\000\000\300\177'
# 6, 1, 0.5, -6, 1.5, -3, 4, 2: E2M1 values all, codes 7 2 1 15 3 13 6 4, scale 1
eight='\000\000\300\100\000\000\200\077\000\000\000\077\000\000\300\300'
eight=$eight'\000\000\300\077\000\000\100\300\000\000\200\100\000\000\000\100'
eight_codes='7 2 1 15 3 13 6 4'
row=$eight$eight$eight$eight
row_codes="$eight_codes $eight_codes $eight_codes $eight_codes"

cd "$scratch" || exit 1
mkdir in made
npy in/exact.npy '<f4' '(2, 32)' "$row$row"
# 7 clips to 6 and 0.125 becomes 0: errors 1 and 1/8
npy in/lossy.npy '<f4' '(32,)' "\\000\\000\\340\\100\\000\\000\\000\\076$zeros30"
npy in/half.npy '<f2' '(2,)' '\000\074\000\300'
npy in/nan.npy '<f4' '(1, 32)' "\\000\\000\\200\\077$nan$zeros30"
npy in/integers.npy '<i4' '(4,)' "$zeros4"
npy in/scalar.npy '<f4' '()' "$zero"
npy in/empty.npy '<f4' '(0, 4)' ''
npy in/truncated.npy '<f4' '(2, 32)' "$row"
printf 'no array' >in/text.npy

# Exact in MXFP4: the decoded file is the file again, codes and scales are known.
expect_output '"format":"mxfp4"' '"bits_per_element":4.25' '"mse":0.0' '"relative_mse":0.0' \
  '"sqnr_db":null' '"max_error":0.0' '"cosine":1.0' '"clipped":0' '"zeroed":0' -- \
  cast in/exact.npy --format mxfp4 --json --out made/y.npy --codes made/codes.npy \
  --scales made/scales.npy --scale-bytes made/bytes.npy
if cmp in/exact.npy made/y.npy; then echo "ok: round trip"; else fail "round trip"; fi
expect_same 'mxfp4 codes' "$(data made/codes.npy 64)" "$row_codes $row_codes"
expect_same 'mxfp4 scales' "$(data made/scales.npy 8)" '0 0 128 63 0 0 128 63'
expect_same 'mxfp4 scale bytes' "$(data made/bytes.npy 2)" '127 127'
grep -q "'shape': (2, 1)" made/scales.npy || fail 'shape of mxfp4 scales'

expect_output '"mse":0.03173828125' '"max_error":1.0' '"clipped":1' '"zeroed":1' -- \
  cast in/lossy.npy --format mxfp4 --json
expect_output '"format":"nvfp4"' '"tensor_scale":' -- cast in/exact.npy --format nvfp4 --json
expect_output '"mse":0.0' -- cast in/half.npy --format mxfp4 --json
expect_output '"format":"amxfp4"' -- \
  cast in/exact.npy --format amxfp4 --json --scales made/split.npy
grep -q "'shape': (2, 1, 2)" made/split.npy || fail 'shape of amxfp4 scales'
expect_output '"clipped":' -- \
  cast in/exact.npy --format int4:zero_point=true --json --zeros made/zeros.npy
expect_same 'zero points' "$(data made/zeros.npy 2)" '8 8'
# bitsandbytes: one block of 64 over both rows, or one in each row
expect_output '"format":"nf4"' -- cast in/exact.npy --format nf4 --json --scales made/flat.npy
grep -q "'shape': (1,)" made/flat.npy || fail 'shape of flattened nf4 scales'
expect_output '"format":"nf4"' -- \
  cast in/exact.npy --format nf4 --per-row --json --scales made/rows.npy
grep -q "'shape': (2, 1)" made/rows.npy || fail 'shape of nf4 scales by row'

# NaN: MXFP4 has a scale for it, the others refuse unless told.
expect_output '"mse":null' -- cast in/nan.npy --format mxfp4 --json
expect_output '"mse":null' -- cast in/nan.npy --format int4 --nonfinite propagate --json
mkdir nothing
expect_exit 3 'nan at \[0, 1\]' cast in/nan.npy --format int4 --out nothing/y.npy
expect_exit 3 'nan at \[0, 1\]' cast in/nan.npy --format mxfp4 --nonfinite error

# Bad input is 3, bad usage 2, and neither leaves a file behind.
expect_exit 3 'missing.npy' cast in/missing.npy --format int4 --out nothing/y.npy
expect_exit 3 'truncated.npy' cast in/truncated.npy --format int4 --out nothing/y.npy
expect_exit 3 'text.npy' cast in/text.npy --format int4 --out nothing/y.npy
expect_exit 3 'integers.npy.*i4' cast in/integers.npy --format int4 --out nothing/y.npy
expect_exit 3 'scalar.npy' cast in/scalar.npy --format int4 --out nothing/y.npy
expect_exit 3 'empty.npy' cast in/empty.npy --format int4 --out nothing/y.npy
expect_exit 3 'nowhere' cast in/exact.npy --format int4 --out nothing/y.npy --codes nowhere/c.npy
expect_exit 2 'int5' cast in/exact.npy --format int5 --out nothing/y.npy
expect_exit 2 'group=7' cast in/exact.npy --format int4:group=7 --out nothing/y.npy
expect_exit 2 'zero points' cast in/exact.npy --format int4 --zeros nothing/z.npy
expect_exit 2 'one byte' cast in/exact.npy --format int4 --scale-bytes nothing/b.npy
expect_exit 2 'two outputs' \
  cast in/exact.npy --format int4 --out nothing/y.npy --codes nothing/../nothing/y.npy
# An output that is the input, under whatever name, would replace it.
cp in/exact.npy nothing/in.npy
ln -s in.npy nothing/symbolic.npy
ln nothing/in.npy nothing/hard.npy
for name in in.npy ./in.npy ../nothing/in.npy symbolic.npy hard.npy; do
  expect_exit 2 "$name: is the input" cast nothing/in.npy --format int4 --out nothing/$name
  expect_exit 2 "$name: is the input" cast nothing/in.npy --format int4 --codes nothing/$name
done
expect_exit 2 'in.npy: is the input' cast nothing/symbolic.npy --format int4 --out nothing/in.npy
cmp in/exact.npy nothing/in.npy || fail 'an input that was to be an output'
rm nothing/*.npy
expect_exit 2 'format' cast in/exact.npy
expect_exit 2 'nonfinite' cast in/exact.npy --format int4 --nonfinite maybe
expect_same 'nothing written' "$(ls -A nothing)" ''

expect_exit 2 'command'
expect_exit 2 'dance' dance
expect_exit 2 'no-such' cpu --no-such
expect_exit 2 'z80' bench --format int4 --n 64 --k 64 --target z80
expect_exit 2 'a9' bench --format int4 --n 64 --k 64 --path a9
expect_exit 2 'path a4' bench --format int4 --n 64 --k 64 --activations mxfp4
expect_exit 2 'path a8' bench --format int4 --n 64 --k 64 --path a32 --per-row-scales
expect_exit 2 'path a8, not a16,a32' bench --format int4 --path a16,a32 --per-row-scales
expect_exit 2 'int5' bench --format int4 --format int5 --n 64 --k 64
expect_exit 2 'm: Value 0' bench --format int4 --n 64 --k 64 --m 1,0
expect_exit 2 'memory' bench --format int4 --n 16777216 --k 16777216
NYBBLE_TARGET=z80
export NYBBLE_TARGET
expect_exit 2 'z80' cpu
NYBBLE_TARGET=scalar
expect_output '"target":"scalar"' '"reason":"NYBBLE_TARGET=scalar"' -- cpu --json
unset NYBBLE_TARGET

expect_output '"cpu":' '"targets":[{"name":"scalar"' '"supported":true' '"huge_pages":' \
  '"threads":' '"compiler":' '"reason":"best supported"' -- cpu --json
expect_output '"name":"amxfp4"' '"bits_per_element":4.25' '"layout":"sign_split"' -- formats --json
expect_output '"name":"gemm_a8_symmetric_scalar"' '"slot":' -- kernels --json
"$program" formats --markdown | grep -q '^| `mxfp4` |.*| 4.25 | 32 | e8m0 | symmetric |' ||
  fail 'formats --markdown'
for path in a8 a16 a32 a4; do
  expect_output '"kernel":"gemm_a' '"seconds":' '"gflops":' '"weight_gbps":' '"roofline_share":' \
    '"dram_gbps":' '"peak_gops":' '"relative_error":0.' '"n":64' '"k":96' '"m":3' \
    '"format":"mxfp4"' "\"path\":\"$path\"" '"threads":1' '"target":' '"cold":false' -- \
    bench --n 64 --k 96 --m 3 --format mxfp4 --path $path --threads 1 --hot --seconds 0 --json
done
expect_output '"cold":true' '"target":"scalar"' '_scalar"' -- \
  bench --n 256 --k 4096 --format int4 --threads 1 --target scalar --seconds 0 --json

# Lists: one array, formats first, then paths, then m. Options of formats hold commas themselves; an
# option of one path is for the cases of that path.
expect_output '[{' '"seconds_p10":' '"seconds_p90":' '"repetitions":' '"weights_from":' -- \
  bench --n 64 --k 128 --m 1,3 --format int4:group=128,scale=f32 --format mxfp4 --path a8,a4 \
  --per-row-scales --activations nvfp4 --threads 1 --hot --seconds 0 --json
expect_same 'order of lists' \
  "$(tr ',' '\n' <"$scratch/out" | sed -n 's/^"m":/m/p; s/^"format":"\([a-z0-9]*\).*/\1/p
     s/^"path":"\(.*\)"/\1/p' | tr '\n' ' ')" \
  'm1 int4 a8 m3 int4 a8 m1 int4 a4 m3 int4 a4 m1 mxfp4 a8 m3 mxfp4 a8 m1 mxfp4 a4 m3 mxfp4 a4 '
"$program" bench --n 64 --k 64 --m 1,2 --format int4 nf4 --threads 1 --hot --seconds 0 >out.txt ||
  fail 'bench of lists'
expect_same 'rows of the table' "$(sed -n 's/^\([a-z0-9]*\)  *a8  *\([12]\) .*%.*/\1 \2/p' out.txt |
  tr '\n' ' ')" 'int4 1 int4 2 nf4 1 nf4 2 '
for unit in GB/s GOP/s; do
  grep -q "^Limits: .*[0-9] $unit" out.txt || fail "limits in $unit below the table"
done

expect_output '"name":"read_memory","threads":1,' '"unit":"GB/s"' '"name":"int8_scalar"' \
  '"name":"bf16_scalar"' '"name":"f32_scalar"' -- limits --threads 1 --json
if [ -e /sys/devices/system/cpu/cpu0/cache/index3 ]; then
  expect_output '"name":"read_L2"' '"name":"read_L3"' -- limits --threads 1 --json
fi

finish
