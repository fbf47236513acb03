#!/bin/sh
# usage: fresh.sh FOLDER [RELEASE...]      (as root; needs debootstrap, git, an hour and 6 GB)
# README's two commands on Debian machines that have nothing else: for each release (default: bookworm
# trixie) FOLDER/RELEASE becomes a minimal system by debootstrap, the tree's files go into its
# /nybble, and the commands run there by chroot. A system that is already there is used again as it is:
# delete the folder for a fresh one. Logs are FOLDER/RELEASE.demo.log and FOLDER/RELEASE.run.log.
#
#   DEBIAN_MIRROR  default http://deb.debian.org/debian
set -eu
[ $# -ge 1 ] || { sed -n '2,9s/^# //p' "$0" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- bookworm trixie
cd "$(dirname "$0")/.."

say() { echo "fresh.sh: $*"; }

system=
unmount() {
  for part in proc dev; do
    if [ -n "$system" ] && mountpoint -q "$system/$part"; then umount -l "$system/$part"; fi
  done
}
trap unmount EXIT

# inside COMMAND...: in the system, with nothing of this machine's environment
inside() {
  chroot "$system" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"
}

failures=0
for release in "$@"; do
  system=$folder/$release
  if [ ! -e "$system/etc/debian_version" ]; then
    say "$release: debootstrap"
    debootstrap --variant=minbase "$release" "$system" \
      "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$system.debootstrap.log" 2>&1 ||
      { tail -n 20 "$system.debootstrap.log" >&2; say "$release: FAILED: debootstrap"; exit 1; }
  fi
  mount -t proc proc "$system/proc"
  mount --rbind /dev "$system/dev"
  rm -rf "$system/nybble"
  mkdir "$system/nybble"
  git ls-files -z | tar -c --null -T - | tar -x -C "$system/nybble"
  for pair in demo:examples/demo.sh run:tests/run.sh; do
    log=$system.${pair%%:*}.log
    begun=$(date +%s)
    status=0
    inside sh "/nybble/${pair#*:}" >"$log" 2>&1 || status=$?
    last=$(tail -n 1 "$log")
    if [ "$status" -eq 0 ]; then
      say "$release $(cat "$system/etc/debian_version"): ${pair#*:}: passed in" \
        "$(($(date +%s) - begun)) s: $last"
    else
      tail -n 60 "$log" >&2
      say "$release: ${pair#*:}: FAILED ($status), see $log" >&2
      failures=$((failures + 1))
    fi
  done
  unmount
done
[ "$failures" -eq 0 ]
