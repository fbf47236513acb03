#!/bin/sh
# usage: symbols_test.sh LIBRARY OBJECT_DIR
# No wide instruction outside its target: in the library's objects a function that holds a VEX or
# EVEX instruction must lie in namespace nybble::kernels::TARGET of kernels/target/TARGET.cpp.o.
# The linker merges weak functions of the same name, so one such function elsewhere (std::min, say,
# instantiated inside a region) would run on CPUs that lack the instruction. Registration is held to
# the baseline too: every CPU runs it for every target.
set -eu
library=$1
objects=$2
if [ "$(uname -m)" != x86_64 ]; then
  echo "skipped: reads x86-64 code, this is $(uname -m)"
  exit 77
fi

# wide OBJECT NAMESPACE: demangled names of functions with wide code, "own" or "foreign" in front
wide() {
  objdump -dC --no-show-raw-insn "$1" | awk -F '\t' -v namespace="$2" '
    /^[0-9a-f]+ <.*>:$/ { name = $0; sub(/^[0-9a-f]+ /, "", name); next }
    $2 ~ /^(v[a-z]|k[a-z]+[bwdq] |(andn|bextr|bls[a-z]+|bzhi|mulx|pdep|pext|rorx|s[ah][lr]x) )/ ||
    $2 ~ /%[yz]mm/ { seen[name] = 1 }
    END {
      for (name in seen) {
        own = namespace != "" && index(name, "nybble::kernels::" namespace "::") > 0
        if (name ~ /register_(all|kernels)/) own = 0
        print (own ? "own " : "foreign ") name
      }
    }'
}

failures=0
count=0
for object in $(find "$objects" -name '*.o' | sort); do
  count=$((count + 1))
  target=
  case "$object" in
    */kernels/target/scalar.cpp.o) ;;
    */kernels/target/*.cpp.o) target=$(basename "$object" .cpp.o) ;;
  esac
  found=$(wide "$object" "$target")
  foreign=$(printf '%s\n' "$found" | sed -n 's/^foreign /  /p')
  if [ -n "$foreign" ]; then
    echo "FAIL: $object: wide instructions outside namespace nybble::kernels::${target:-TARGET}:"
    printf '%s\n' "$foreign"
    failures=$((failures + 1))
  elif [ -n "$target" ]; then
    own=$(printf '%s\n' "$found" | grep -c '^own ' || true)
    echo "ok: $target: $own functions with wide instructions"
    # A test that sees none in a target's own kernels has lost its eyes.
    [ "$own" -gt 0 ] || failures=$((failures + 1))
  fi
done

case "$library" in
  *.a)
    members=$(ar t "$library" | wc -l)
    if [ "$members" -ne "$count" ]; then
      echo "FAIL: $library has $members members, $objects has $count objects"
      failures=$((failures + 1))
    fi
    ;;
esac
[ "$failures" -eq 0 ] || exit 1
echo "all $count objects are clean"
