#!/bin/bash
# usage: quantize_checkpoint.sh NYBBLE MODEL [ROUNDS] [FORMAT...]
# How near `nybble quantize` comes to what the disk and memory allow: reading every byte of the model
# and writing as many as it writes, flushed to the disk, by dd in blocks of 4 MiB. That is done by
# one process and by two at once, each its half; the faster one counts. All take turns, medians are
# printed. The model's files are read once before, so they are in the page cache if they fit; with
# COLD=1 (as root) the page cache is emptied before each run instead.
# tests/support/make_sparse_checkpoint makes a model of any size, without real weights.
set -euo pipefail
nybble=$1
model=$2
rounds=${3:-5}
shift $(($# < 3 ? $# : 3))
formats=("${@:-int4 mxfp4 nvfp4 amxfp4}")
read -ra formats <<<"${formats[*]}"
threads=${THREADS:-2}
work=$(mktemp -d "${TMPDIR:-.}/quantize-bench-XXXXXX")
trap 'rm -rf "$work"' EXIT
files=("$model"/*.safetensors)

# seconds COMMAND...: how long it takes
seconds() {
  local begun ended
  if [ "${COLD:-0}" = 1 ]; then
    sync
    echo 3 >/proc/sys/vm/drop_caches
  fi
  begun=$(date +%s%N)
  "$@" >/dev/null 2>"$work/err" || { cat "$work/err" >&2; exit 1; }
  ended=$(date +%s%N)
  awk -v ns=$((ended - begun)) 'BEGIN { printf "%.4f\n", ns / 1e9 }'
}
# limit OUT BYTES FILE...: reads the files, writes that many bytes
limit() {
  local out=$1 bytes=$2 file
  shift 2
  for file in "$@"; do dd if="$file" of=/dev/null bs=4M status=none; done
  dd if=/dev/zero of="$out" bs=4M count="$bytes" iflag=count_bytes conv=fsync status=none
}
limit_two() {
  local half=$((${#files[@]} / 2))
  limit "$work/a" $(($1 / 2)) "${files[@]:0:half}" &
  limit "$work/b" $(($1 / 2)) "${files[@]:half}"
  wait
}
limit_one() { limit "$work/a" "$1" "${files[@]}"; }
quantize() {
  "$nybble" quantize "$model" --format "$1" --threads "$threads" --out "$work/out" --json
}
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

cat "${files[@]}" >/dev/null
source_bytes=$(cat "${files[@]}" | wc -c)
cache=warm
[ "${COLD:-0}" != 1 ] || cache=cold
echo "$model: $source_bytes bytes, $threads threads, page cache $cache, medians of $rounds rounds"
printf '%-24s %12s %10s %10s %10s %8s %10s\n' format output 'dd, 1' 'dd, 2' nybble share 'GB/s read'
for format in "${formats[@]}"; do
  rm -f "$work"/{one,two,ours}
  bytes=$("$nybble" quantize "$model" --format "$format" --dry-run --json |
    sed 's/.*"source_bytes":[0-9]*,"bytes":\([0-9]*\).*/\1/')
  for _ in $(seq "$rounds"); do
    seconds quantize "$format" >>"$work/ours"
    rm -rf "$work/out"
    seconds limit_one "$bytes" >>"$work/one"
    rm -f "$work"/a
    seconds limit_two "$bytes" >>"$work/two"
    rm -f "$work"/{a,b}
  done
  awk -v format="$format" -v bytes="$bytes" -v one="$(median "$work/one")" \
    -v two="$(median "$work/two")" -v ours="$(median "$work/ours")" -v source="$source_bytes" 'BEGIN {
      least = one < two ? one : two
      printf "%-24s %12d %8.3f s %8.3f s %8.3f s %6.0f %% %10.2f\n", format, bytes, one, two, ours,
        100 * least / ours, source / ours / 1e9
    }'
done
