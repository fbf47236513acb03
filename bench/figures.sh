#!/bin/sh
# figures.sh [SECONDS]: the layers and formats that nybble is judged by, on one and two threads, each
# figure beside what this machine allows in the same process. Builds in build/release if need be;
# about five minutes at the default of 0.2 seconds a figure.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-0.2}
build=build/release
[ -d "$build" ] || cmake --preset release >/dev/null
cmake --build "$build" --target nybble_cli nybble_bench >/dev/null
realtime=
if chrt -f 50 true 2>/dev/null; then realtime="chrt -f 50"; fi

bench() { $realtime "$build/nybble" bench --seconds "$seconds" "$@"; echo; }

for threads in 2 1; do
  for shape in "4096 4096" "11008 4096" "4096 11008" "14336 4096"; do
    bench --n "${shape% *}" --k "${shape#* }" --m 1,2,4,8,16,32,128,512 --threads $threads \
      --format int4 --format mxfp4 --format int4:group=128
  done
  bench --n 4096 --k 4096 --m 1,4,16,128 --threads $threads --per-row-scales \
    --format int4 --format int4:group=128
  bench --n 4096 --k 4096 --m 1,4,16,32,128 --threads $threads --format nf4 --format nvfp4 \
    --format amxfp4
  bench --n 4096 --k 4096 --m 1,4,16,32,128 --threads $threads --path a4 --format amxfp4 \
    --format mxfp4
  bench --n 4096 --k 4096 --m 1,4,16,32,128 --threads $threads --target avx2 --format int4 \
    --format int4:group=128
  # Odd shapes beside even ones.
  bench --n 4095 --k 4080 --m 7,127 --threads $threads --format int4
  bench --n 4096 --k 4096 --m 8,128 --threads $threads --format int4
done
$realtime "$build/bench/nybble_bench" --benchmark_filter='^(pack|copy)/' \
  --benchmark_min_time="$seconds"
