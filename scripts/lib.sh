# Functions of several scripts, which source this file after `set -euo pipefail`.
# shellcheck shell=bash

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DEV=${DEV_DIR:-$PROJECT/.dev}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "$*"
  exit 1
}

# need PACKAGE COMMAND…: installs the Debian package unless all its commands exist.
need() {
  local package=$1 command
  shift
  for command in "$@"; do
    command -v "$command" >/dev/null || {
      apt_install "$package"
      return
    }
  done
}

# need_file PACKAGE PATTERN: installs the Debian package unless a file matches.
need_file() { compgen -G "$2" >/dev/null || apt_install "$1"; }

# apt_install PACKAGE…: installs packages as root without starting their services.
apt_install() {
  [[ $EUID == 0 ]] || die "$* is missing; install it, or run as root"
  say "installing $*"
  local policy=/usr/sbin/policy-rc.d made=
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    made=1
  fi
  local log status=0
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  local install=(apt-get install -qq -y --no-install-recommends "$@")
  "${install[@]}" >"$log" 2>&1 || { apt-get update -qq && "${install[@]}"; } >"$log" 2>&1 || status=$?
  [[ -z $made ]] || rm -f "$policy"
  ((status == 0)) || tail -n 20 "$log" >&2
  rm -f "$log"
  ((status == 0)) || die "could not install $*"
}

# unpack_trixie FOLDER PACKAGE,…: unpacks packages of Debian 13 into a root folder, from this machine's mirror. FOLDER
# exists only if that is complete.
unpack_trixie() {
  local folder=$1 packages=$2 mirror unfinished=$1.$$
  need mmdebstrap mmdebstrap
  mkdir -p "$(dirname "$folder")"
  # shellcheck disable=SC2016 # for apt-get to expand
  mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | head -n 1)
  rm -rf "$folder" "$unfinished"
  mmdebstrap --variant=extract --include="$packages" trixie "$unfinished" ${mirror:+"$mirror"} >"$folder.log" 2>&1 ||
    { tail -n 20 "$folder.log" >&2 && die "could not unpack Debian trixie; log: $folder.log"; }
  mv "$unfinished" "$folder"
}

# need_toolchain: checks that Rust is as new as Cargo.toml demands (the package of Debian 12 is too old), and installs a
# C compiler and the C library's files to link with.
need_toolchain() {
  echo '#include <stdlib.h>' | cc -E - >/dev/null 2>&1 || apt_install gcc libc6-dev
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$PROJECT/Cargo.toml")
  found=$(cd "$PROJECT" && cargo --version 2>/dev/null | cut -d ' ' -f 2) || true
  [[ -n $found && $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) == "$wanted" ]] ||
    die "Rust $wanted or newer is needed, found ${found:-none}; install it with rustup"
}

# free_port: prints a free TCP port.
free_port() {
  local port
  for _ in {1..100}; do
    port=$((20000 + RANDOM % 12000))
    port_free "$port" && echo "$port" && return
  done
  die "no free port found"
}

port_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# start_time PID: identifies a process together with its ID, which the system may reuse. Nothing for a zombie.
start_time() { awk '{ sub(/.*\) /, ""); if ($1 != "Z") print $20 }' "/proc/$1/stat" 2>/dev/null; }

# running NAME: succeeds if the process that `launch NAME` started is running; sets $pid.
running() {
  local started
  [[ -e $DEV/run/$1.pid ]] || return 1
  read -r pid started <"$DEV/run/$1.pid"
  [[ -n $started && $(start_time "$pid") == "$started" ]]
}

# launch NAME COMMAND…: runs the command in a session of its own, with its output in .dev/log/NAME.log.
launch() {
  local name=$1
  shift
  mkdir -p "$DEV/run" "$DEV/log"
  setsid "$@" </dev/null >>"$DEV/log/$name.log" 2>&1 9>&- &
  echo "$! $(start_time $!)" >"$DEV/run/$name.pid"
}

# halt NAME [SIGNAL]: sends the signal and waits for the end; sends SIGKILL after 20 seconds.
halt() {
  local name=$1 pid
  running "$name" || return 0
  kill "-${2:-TERM}" "$pid"
  for _ in {1..200}; do
    running "$name" || break
    sleep 0.1
  done
  ! running "$name" || { say "$name does not end, killing it" && kill -KILL "$pid"; }
  rm -f "$DEV/run/$name.pid"
}

# await NAME SECONDS COMMAND…: waits until COMMAND succeeds; fails if the process ends or the time is up.
await() {
  local name=$1 deadline=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ! running "$name" || ((SECONDS >= deadline)); then
      tail -n 15 "$DEV/log/$name.log" | cut -c 1-300 >&2
      die "$name did not start; log: $DEV/log/$name.log"
    fi
    sleep 0.05
  done
}

# in_background COMMAND…: runs the command in a process group of its own, which `end_background` ends.
in_background() {
  set -m
  "$@" &
  set +m
}

# end_background: ends all that `in_background` started, with its children.
end_background() {
  local pid
  for pid in $(jobs -rp); do kill -- "-$pid" 2>/dev/null || true; done
}

# build_programs: builds all programs; together with the tests if those were built before, as cargo would otherwise
# build the dependencies again with the features that the programs alone need.
build_programs() {
  local tests=()
  ! compgen -G "$PROJECT/target/debug/deps/cucumber-*" >/dev/null || tests=(--tests)
  cargo build --quiet --locked --workspace --bins "${tests[@]}"
}

# prepare_backups: builds backup-runner, and sets PATH and the variables of the tools and stores.
prepare_backups() {
  local edition flavour
  need_toolchain
  if [[ -z ${REDIS_URL:-} || -z ${DATABASE_URL:-} ]]; then
    edition=$(cat "$DEV/run/edition" 2>/dev/null) || edition=community
    flavour=$(cat "$DEV/run/flavour" 2>/dev/null) || flavour=redis
    "$PROJECT/scripts/services" up --timescale "$edition" --redis "$flavour"
    eval "$("$PROJECT/scripts/services" env)"
  fi
  eval "$("$PROJECT/scripts/services" tools)"
  cargo build --quiet --locked --manifest-path "$PROJECT/Cargo.toml" --package backup-runner
  export PATH=$PROJECT/target/debug:$PATH
  export STORAGE_BACKUP__FOLDER=${STORAGE_BACKUP__FOLDER:-$DEV/backups}
  export STORAGE_BACKUP__PG_BIN=${STORAGE_BACKUP__PG_BIN:-$PG_BIN}
}
