#!/bin/sh
# usage: run.sh BUILD_DIR SOURCE_DIR
# nybble as others consume it: installed static and shared, as a subdirectory, headers only.
# BUILD_DIR is a complete build of SOURCE_DIR. Any error fails.
set -eu
build=$(cd "$1" && pwd)
source=$(cd "$2" && pwd)
here=$source/tests/consumer
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
compiler=$(sed -n 's/^CMAKE_CXX_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")

fail() {
  echo "FAIL: $*" >&2
  exit 1
}

# quietly COMMAND...: its output only if it fails
quietly() {
  "$@" >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; fail "$*"; }
}

# consume NAME PROJECT OPTIONS...: configure, build, look at the flags, run
consume() {
  name=$1
  project=$2
  shift 2
  quietly cmake -G Ninja -S "$here/$project" -B "$scratch/$name" \
    -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_EXPORT_COMPILE_COMMANDS=ON "$@"
  quietly cmake --build "$scratch/$name"
  # The consumer's own flags are empty, so whatever is here came from us.
  command=$(grep '"command".*consumer\.dir' "$scratch/$name/compile_commands.json")
  case " $command " in
    *" -W"* | *" -fsanitize"* | *" -m"* | *" -ffp-contract"* | *" -fopenmp"*)
      fail "$name: flags leak to the consumer: $command" ;;
  esac
  "$scratch/$name/consumer" >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; fail "$name: run"; }
  echo "ok: $name: $(cat "$scratch/log")"
}

# install_to BUILD PREFIX: and move it, as a package manager would
install_to() {
  quietly cmake --install "$1" --prefix "$2.staged"
  mv "$2.staged" "$2"
  if grep -rlF -e "$source" -e "$1" -e "$2.staged" "$2" --include='*.cmake'; then
    fail "installed CMake files name the source, build or install folder"
  fi
}

install_to "$build" "$scratch/prefix-static"
consume static package -DCMAKE_PREFIX_PATH="$scratch/prefix-static"
consume headers headers -DCMAKE_PREFIX_PATH="$scratch/prefix-static"

# One more build of the library serves two cases; -O0, because only linking it matters.
consume subdirectory subdirectory -DNYBBLE_SOURCE="$source" -DBUILD_SHARED_LIBS=ON \
  -DNYBBLE_INSTALL=ON
install_to "$scratch/subdirectory" "$scratch/prefix-shared"
consume shared package -DCMAKE_PREFIX_PATH="$scratch/prefix-shared"
readelf -d "$scratch/shared/consumer" | grep -q 'libnybble\.so' || fail "shared: linked statically"
foreign=$(nm -DC --defined-only "$scratch"/prefix-shared/lib*/libnybble.so* "$scratch"/prefix-shared/lib/*/libnybble.so* 2>/dev/null |
  grep -E '(fmt::v[0-9]|nlohmann::)' | head -n 3 || true)
[ -z "$foreign" ] || fail "shared: exports what is not nybble's: $foreign"

# Installed headers are complete, each on its own, and include nothing that is not installed.
cd "$scratch/prefix-static/include"
count=0
for header in $(find nybble -name '*.h' | sort); do
  echo "#include \"$header\"" >"$scratch/header.cpp"
  quietly "$compiler" -std=c++20 -Wall -Wextra -Wconversion -Wshadow -Werror -fsyntax-only -I . \
    "$scratch/header.cpp"
  count=$((count + 1))
done
[ "$count" -gt 20 ] || fail "only $count headers are installed"
if grep -rnE '#include [<"](kernels|src|fmt|nlohmann)/' nybble; then
  fail "an installed header includes a private one"
fi
echo "ok: $count installed headers compile alone"
