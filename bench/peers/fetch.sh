#!/bin/sh
# fetch.sh DIR: ONNX Runtime and llama.cpp's CPU backend as npm offers them, 320 MB, into
# DIR/node_modules. Nothing of theirs is run. The versions are pinned: ggml.cpp names a file of its.
set -eu
[ $# -eq 1 ] || { echo "usage: fetch.sh DIR" >&2; exit 2; }
onnxruntime=1.30.0
llama=3.22.1  # ships llama.cpp v0.5.0

version_of() {  # package: the one that is installed
  sed -n 's/^ *"version": *"\([^"]*\)".*/\1/p' "$1/package.json" 2>/dev/null | head -n 1
}
modules=$1/node_modules
if [ "$(version_of "$modules/onnxruntime-node")" = "$onnxruntime" ] &&
    [ "$(version_of "$modules/@node-llama-cpp/linux-x64")" = "$llama" ]; then
  exit 0
fi
mkdir -p "$1"
npm install --prefix "$1" --ignore-scripts --no-save --no-audit --no-fund --loglevel=error \
  "onnxruntime-node@$onnxruntime" "@node-llama-cpp/linux-x64@$llama"
