# What the scripts share that test programs from outside. Sourced with `program` and what each line
# of its errors starts with as `prefix`; gives them a folder `scratch`.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0

fail() {
  echo "FAIL: $*"
  failures=$((failures + 1))
}

# expect_exit CODE PATTERN ARGUMENTS...: that exit code, nothing on stdout, and one line on stderr
# that starts with the prefix and matches PATTERN.
expect_exit() {
  code=$1
  pattern=$2
  shift 2
  "$program" "$@" >"$scratch/out" 2>"$scratch/err"
  got=$?
  if [ "$got" -ne "$code" ]; then
    fail "exit code $got, expected $code: $*"
  elif [ "$(wc -l <"$scratch/err")" -ne 1 ] || ! grep -q "^$prefix.*$pattern" "$scratch/err"; then
    fail "stderr, expected one line with '$pattern': $*"
    cat "$scratch/err"
  elif [ -s "$scratch/out" ]; then
    fail "output on stdout in spite of an error: $*"
  else
    echo "ok: $(cat "$scratch/err")"
  fi
}

# expect_output PATTERN... -- ARGUMENTS...: success, one line of JSON on stdout (it stays in
# $scratch/out), each PATTERN in it.
expect_output() {
  patterns=$scratch/patterns
  failures_before=$failures
  : >"$patterns"
  while [ "$1" != -- ]; do
    printf '%s\n' "$1" >>"$patterns"
    shift
  done
  shift
  if ! "$program" "$@" >"$scratch/out" 2>"$scratch/err"; then
    fail "exit code, expected 0: $* ($(cat "$scratch/err"))"
    return
  fi
  [ "$(wc -l <"$scratch/out")" -eq 1 ] || fail "expected one line on stdout: $*"
  [ -s "$scratch/err" ] && fail "stderr, expected nothing: $*"
  while IFS= read -r pattern; do
    grep -q -F -e "$pattern" "$scratch/out" || fail "no '$pattern' in $(cat "$scratch/out"): $*"
  done <"$patterns"
  if command -v python3 >/dev/null 2>&1; then
    python3 -c 'import json, sys; json.load(sys.stdin)' <"$scratch/out" ||
      fail "not JSON: $*"
  fi
  [ "$failures" -ne "$failures_before" ] || echo "ok: $*"
}

# expect_same WHAT GOT EXPECTED
expect_same() {
  if [ "$2" = "$3" ]; then echo "ok: $1"; else fail "$1: '$2', expected '$3'"; fi
}

# npy PATH DESCR SHAPE DATA: what numpy.save would write; DATA is for printf.
npy() {
  {
    printf '\223NUMPY\001\000\166\000%-117s\n' \
      "{'descr': '$2', 'fortran_order': False, 'shape': $3, }"
    printf "$4"
  } >"$1"
}

# Ends the script.
finish() {
  if [ "$failures" -ne 0 ]; then
    echo "$failures failed"
    exit 1
  fi
  echo "all passed"
  exit 0
}
