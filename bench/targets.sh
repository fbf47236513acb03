#!/bin/sh
# targets.sh [SECONDS]: the kernels that nybble chooses on this machine beside those of every target it
# could run, for every path and number of rows, in turns in one process each. The last lines name
# where a forced target was more than 7 % faster. Builds in build/release if need be; ten minutes at
# the default of 0.1 seconds a figure. THREADS=2 N=4096 K=4096 change what is measured.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-0.1}
build=build/release
[ -d "$build" ] || cmake --preset release >/dev/null
cmake --build "$build" --target nybble_cli >/dev/null
realtime=
if chrt -f 50 true 2>/dev/null; then realtime="chrt -f 50"; fi
results=$(mktemp)
trap 'rm -f "$results"' EXIT

"$build/nybble" cpu
# Plain C++ would take most of the time.
targets=$("$build/nybble" cpu | sed -n 's/^target *\([a-z0-9_]*\) *yes .*/\1/p' | grep -vx scalar)
targets=chosen,$(echo $targets | tr ' ' ,)

compare() {
  path=$1
  shift
  for format in "$@"; do
    echo
    $realtime "$build/nybble" bench --n "${N:-4096}" --k "${K:-4096}" --threads "${THREADS:-2}" \
      --m 1,2,4,8,12,16,32,128 --path "$path" --format "$format" --target "$targets" \
      --seconds "$seconds" | tee -a "$results"
  done
}
compare a8 int4 int4:group=128 int4:zero_point=true nf4 mxfp4 nvfp4 amxfp4
compare a16 mxfp4 nvfp4 amxfp4
compare a32 int4 amxfp4
compare a4 int4 mxfp4 amxfp4

echo
awk '{
  for (i = 1; i < NF; ++i) {
    if ($i == "chosen" && $(i + 2) == "%") {
      ++count
      if ($(i + 1) < 93) { ++slow; print "slower than another target: " $0 }
    }
  }
}
END { printf "%d of %d choices are within 7 %% of the fastest target\n", count - slow, count }' "$results"
