#!/bin/sh
# run.sh [--json FILE] [--chart FILE] [OPTION of nybble_peers]...: from a fresh clone to a table, a
# file with every number and a chart. Installs what is missing with apt-get and npm, builds in
# build/peers. About ten minutes after that; --m 1,16,128 --seconds 0.1 takes two.
set -eu
started_in=$(pwd)
cd "$(dirname "$0")/../.."
root=$(pwd)
build=$root/build/peers
json=$build/results.json
chart=$root/bench/peers/chart.svg

absolute() {
  case $1 in
    /*) echo "$1" ;;
    *) echo "$started_in/$1" ;;
  esac
}
# The two options that are ours are taken out of the list, the others go on to nybble_peers.
left=$#
while [ "$left" -gt 0 ]; do
  option=$1
  shift
  left=$((left - 1))
  case $option in
    --json | --chart)
      [ "$left" -gt 0 ] || { echo "run.sh: $option needs a file" >&2; exit 2; }
      if [ "$option" = --json ]; then json=$(absolute "$1"); else chart=$(absolute "$1"); fi
      shift
      left=$((left - 1)) ;;
    *) set -- "$@" "$option" ;;
  esac
done

missing=
have_package() {
  dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'
}
need_tool() {  # command, package
  command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need_tool c++ g++
need_tool cmake cmake
need_tool ninja ninja-build
need_tool npm npm
need_tool python3 python3
if command -v apt-get >/dev/null 2>&1; then
  for package in libfmt-dev nlohmann-json3-dev libcli11-dev libbenchmark-dev libopenblas0-pthread \
      libeigen3-dev libdnnl-dev; do
    have_package "$package" || missing="$missing $package"
  done
fi
if [ -n "$missing" ]; then
  sudo=
  [ "$(id -u)" -eq 0 ] || sudo=sudo
  echo "run.sh: installing with apt-get:$missing"
  $sudo apt-get update -qq
  # shellcheck disable=SC2086  # a list of packages
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing \
    >/dev/null
fi

mkdir -p "$build"
if ! sh bench/peers/fetch.sh "$build" >"$build/fetch.log" 2>&1; then
  echo "run.sh: ONNX Runtime and llama.cpp could not be fetched ($build/fetch.log), going on without"
fi
echo "run.sh: building"
if ! cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DNYBBLE_BUILD_CLI=OFF \
    -DNYBBLE_BUILD_TESTS=OFF -DNYBBLE_BUILD_EXAMPLES=OFF >"$build/build.log" 2>&1 ||
    ! cmake --build "$build" --target nybble_peers >>"$build/build.log" 2>&1; then
  cat "$build/build.log" >&2
  exit 1
fi

# Real-time, where that is allowed: a thread that others keep from its core holds up all that wait
# for it at the end of every loop.
realtime=
if chrt -f 50 true 2>/dev/null; then realtime="chrt -f 50"; fi
# Huge pages for everybody: what is allocated with malloc asks for them.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
$realtime "$build/bench/peers/nybble_peers" --node-modules "$build/node_modules" --json "$json" "$@"
python3 bench/peers/chart.py "$json" bench/peers/reported.json "$chart"
echo "run.sh: $json, $chart"
