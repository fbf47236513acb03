#!/bin/sh
# From a fresh clone to a table: builds the example engine (examples/llama) and lets its small model
# show what each 4-bit format costs in quality and gives in size and speed. A few minutes, most of
# them compiling. Packages that are missing are installed with apt-get.
set -eu
cd "$(dirname "$0")/.."

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
if command -v apt-get >/dev/null 2>&1; then
  for package in libfmt-dev nlohmann-json3-dev libcli11-dev; do
    have_package "$package" || missing="$missing $package"
  done
fi

if [ -n "$missing" ]; then
  sudo=
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
      echo "demo: please install as root:$missing" >&2
      exit 1
    fi
    sudo=sudo
  fi
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "demo: no apt-get here; please install (Debian's names):$missing" >&2
    exit 1
  fi
  echo "demo: installing with ${sudo:+sudo }apt-get:$missing"
  $sudo apt-get update -qq
  # shellcheck disable=SC2086  # a list of packages
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing \
    >/dev/null
fi

# What tests/run.sh built is the same program.
build=build/release
[ -e "$build/CMakeCache.txt" ] || build=build/demo
mkdir -p "$build"
echo "demo: configuring in $build"
if [ "$build" = build/demo ] &&
    ! cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DNYBBLE_BUILD_CLI=OFF \
      -DNYBBLE_BUILD_TESTS=OFF -DNYBBLE_BUILD_BENCH=OFF >"$build/configure.log" 2>&1; then
  cat "$build/configure.log" >&2
  exit 1
fi
echo "demo: building"
cmake --build "$build" --target llama

echo
exec "$build/examples/llama/llama" compare --model examples/llama/model --sample 4096 --seed 1 \
  --threads "$(nproc)"
