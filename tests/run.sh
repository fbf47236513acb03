#!/bin/sh
# From a fresh clone on a fresh Debian: installs what is missing, builds everything in build/release,
# runs all tests, then the kernels' tests once per target that this CPU has, then under QEMU on CPUs
# that have less, then for targets that this CPU lacks, whose instructions are trapped and computed.
# The last line says how it went; the exit code is 0 only if nothing failed.
#
#   NYBBLE_SHARED          folder with models and golden results; default ../shared if it exists
#   NYBBLE_GOLDEN          where its golden archives are unpacked; default build/golden
#   NYBBLE_REQUIRE_SHARED  1: a skipped test is a failure
set -eu
cd "$(dirname "$0")/.."
root=$(pwd)
build=$root/build/release
started=$(date +%s)
unset NYBBLE_TARGET

say() { echo "run.sh: $*"; }

# quietly LOG COMMAND...: its output goes to LOG and is shown only if it fails
quietly() {
  log=$1
  shift
  if ! "$@" >"$log" 2>&1; then
    cat "$log" >&2
    say "FAILED: $*" >&2
    exit 1
  fi
}

# --- packages
missing=
need_tool() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }
need_tool c++ g++
need_tool cmake cmake
need_tool ninja ninja-build
need_tool objdump binutils
need_tool qemu-x86_64 qemu-user
if command -v dpkg-query >/dev/null 2>&1; then
  for package in libfmt-dev nlohmann-json3-dev libcli11-dev libgtest-dev libbenchmark-dev; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
      missing="$missing $package"
  done
fi
mkdir -p "$build"
if [ -n "$missing" ]; then
  if ! command -v apt-get >/dev/null 2>&1; then
    say "no apt-get here; please install (Debian's names):$missing" >&2
    exit 1
  fi
  sudo=
  [ "$(id -u)" -eq 0 ] || sudo=sudo
  say "installing:$missing"
  quietly "$build/apt.log" $sudo apt-get update -qq
  # shellcheck disable=SC2086  # a list of packages
  quietly "$build/apt.log" $sudo env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends $missing
fi

# --- build
say "building in build/release"
quietly "$build/configure.log" cmake --preset release
quietly "$build/build.log" cmake --build "$build"

# --- reference results
if [ -z "${NYBBLE_SHARED:-}" ] && [ -d ../shared ]; then
  NYBBLE_SHARED=$(cd ../shared && pwd)
  export NYBBLE_SHARED
fi
if [ -z "${NYBBLE_GOLDEN:-}" ] && [ -n "${NYBBLE_SHARED:-}" ]; then
  NYBBLE_GOLDEN=$root/build/golden
  mkdir -p "$NYBBLE_GOLDEN"
  for name in formats quantizers; do
    archive=$NYBBLE_SHARED/golden/$name.tar.xz
    if [ -e "$archive" ] && [ ! -e "$NYBBLE_GOLDEN/.$name" ]; then
      say "unpacking $archive"
      (cd "$NYBBLE_GOLDEN" && cmake -E tar xf "$archive")
      touch "$NYBBLE_GOLDEN/.$name"
    fi
  done
  export NYBBLE_GOLDEN
fi

failures=0
skipped=$build/skipped.txt
: >"$skipped"

# --- all tests. ctest's log has what each of them printed, also where it passed.
say "running all tests"
ctest --test-dir "$build" --output-on-failure || failures=$((failures + 1))
log=$build/Testing/Temporary/LastTest.log
sed -n 's/^\[  SKIPPED \] \([^ ]*\) (.*/\1/p' "$log" >>"$skipped"
sed -n 's/^skipped: /script: /p' "$log" >>"$skipped"
tests=$(sed -n 's/^\[==========\] \([0-9]*\) tests* from .* ran\..*/\1/p' "$log" | tail -n 1)

# kernels_pass NAME FILTER RUNNER...: the tests that reach kernels, run by RUNNER. No tests would
# be no proof, so that fails too.
kernels_pass() {
  name=$1
  filter=$2
  shift 2
  begun=$(date +%s)
  if "$@" --gtest_filter="$filter" >"$build/$name.log" 2>&1 &&
      grep -q '^\[  PASSED  \] [1-9]' "$build/$name.log"; then
    say "$name: $(sed -n 's/^\[  PASSED  \] //p' "$build/$name.log") in $(($(date +%s) - begun)) s"
  else
    tail -n 60 "$build/$name.log" >&2
    say "$name: FAILED" >&2
    failures=$((failures + 1))
  fi
}
program=$build/tests/nybble_tests
kernel_tests='Slots.*:Gemm.*:Linear*:QuantizedLinear*:PackedMatrix*:Quantize*:Rtn*:ClipSearch*:Encode*'

# --- every target that this CPU has, forced
targets=$("$build/nybble" cpu | sed -n 's/^target *\([a-z0-9_]*\) *yes .*/\1/p')
if [ -z "$targets" ]; then
  say "FAILED: nybble cpu lists no target" >&2
  failures=$((failures + 1))
fi
for target in $targets; do
  kernels_pass "target-$target" "$kernel_tests" env NYBBLE_TARGET="$target" "$program"
done

# --- CPUs that have less: an instruction outside its target dies there with SIGILL
emulated=
if [ "$(uname -m)" = x86_64 ]; then
  qemu_tests='Slots.*:Registry.*:Encode*:Gemm.A8:Gemm.A16:Gemm.A32:Gemm.Amxfp4*:Gemm.Inf*'
  for cpu in Westmere:scalar Haswell:avx2; do
    model=${cpu%:*}
    target=${cpu#*:}
    emulated="$emulated $model"
    chosen=$(qemu-x86_64 -cpu "$model" "$build/nybble" cpu 2>/dev/null |
      sed -n 's/^target *\([a-z0-9_]*\) *yes .*/\1/p' | tail -n 1)
    if [ "$chosen" != "$target" ]; then
      say "FAILED: on $model the best target is '$chosen', expected $target" >&2
      failures=$((failures + 1))
    fi
    kernels_pass "qemu-$model" "$qemu_tests" qemu-x86_64 -cpu "$model" "$program"
  done
fi

# --- targets that this CPU lacks: tests/support/trap_avx512.cpp says when that is possible
trapped=
trapped_tests="$kernel_tests:Registry.*:KvCache.Softmax*:KvCache.Different*:KvCache.Inf*"  # in 30 s
if [ "$(uname -m)" = x86_64 ]; then
  for pair in avx512vbmi:vbmi avx512bf16:vbmi,bf16; do
    target=${pair%:*}
    if echo "$targets" | grep -qx "$target"; then continue; fi
    trap_log=$build/trapped-$target.log
    status=0
    env LD_PRELOAD="$build/tests/libtrap_avx512.so" TRAP_AVX512="${pair#*:}" \
      "$build/nybble" cpu >"$trap_log" 2>&1 || status=$?
    if [ "$status" -eq 77 ]; then continue; fi
    trapped="$trapped $target"
    if [ "$status" -ne 0 ] || ! grep -q "^target *$target *yes " "$trap_log"; then
      cat "$trap_log" >&2
      say "trapped-$target: FAILED: nybble cpu does not have it" >&2
      failures=$((failures + 1))
      continue
    fi
    kernels_pass "trapped-$target" "$trapped_tests" env NYBBLE_TARGET="$target" \
      LD_PRELOAD="$build/tests/libtrap_avx512.so" TRAP_AVX512="${pair#*:}" "$program"
  done
fi

# --- summary
skips=$(wc -l <"$skipped")
if [ "$skips" -gt 0 ]; then
  say "skipped (NYBBLE_SHARED is '${NYBBLE_SHARED:-}'):"
  sed 's/^/  /' "$skipped"
  if [ "${NYBBLE_REQUIRE_SHARED:-}" = 1 ]; then failures=$((failures + 1)); fi
fi
verdict=PASS
[ "$failures" -eq 0 ] || verdict="FAIL ($failures)"
say "$verdict: ${tests:-no} unit tests, $skips skipped, targets" $targets", QEMU${emulated:- none}," \
  "trapped${trapped:- none}, $(($(date +%s) - started)) s"
[ "$failures" -eq 0 ]
