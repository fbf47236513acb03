#!/bin/sh
# usage: fast_math_test.sh EXACT FAST COMPILER SOURCE_DIR
# EXACT and FAST are fast_math.cpp without and with -ffast-math. Headers that cannot be compiled with
# it say so.
set -eu
exact=$1
fast=$2
compiler=$3
source=$4
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

"$exact" >"$scratch/exact"
"$fast" >"$scratch/fast"
diff "$scratch/exact" "$scratch/fast"
grep -q '^7fc00000 refused$' "$scratch/exact"
grep -q '^7f7fffff finite$' "$scratch/exact"

for flag in -ffast-math -ffinite-math-only; do
  for header in "$source"/include/nybble/*.h "$source"/include/nybble/*/*.h; do
    status=0
    "$compiler" -std=c++20 $flag -fsyntax-only -I "$source/include" -x c++ "$header" \
      >"$scratch/log" 2>&1 || status=$?
    case $header in
      */format/format.h | */format/registry.h) exact_only=no ;;
      */format/*) exact_only=yes ;;
      *) exact_only=no ;;
    esac
    if [ $exact_only = yes ]; then
      grep -q 'need exact arithmetic: compile this file without -ffast-math' "$scratch/log" || {
        echo "FAIL: $header says nothing about $flag"
        exit 1
      }
    elif [ $status != 0 ]; then
      cat "$scratch/log"
      echo "FAIL: $header does not compile with $flag"
      exit 1
    fi
  done
done
