#!/bin/sh
# Builds and starts the program in boot/, which builds the kernel and runs it in QEMU. Try --help.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

fail() {
    printf 'run-qemu.sh: %s\n' "$1" >&2
    exit 1
}

if ! command -v cargo >/dev/null 2>&1; then
    # A shell that ran while rustup was installed does not have cargo in its PATH.
    PATH="$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin"
    command -v cargo >/dev/null 2>&1 ||
        fail 'there is no cargo: install Rust first, see https://rustup.rs'
fi

if ! command -v cc >/dev/null 2>&1; then
    command -v apt-get >/dev/null 2>&1 || fail 'there is no C linker (cc): install gcc'
    printf 'run-qemu.sh: installing gcc and libc6-dev with apt-get\n' >&2
    [ "$(id -u)" -eq 0 ] && sudo='' || sudo=sudo
    { $sudo apt-get -qq update || true; } >/dev/null 2>&1
    # Without --no-remove, apt-get might remove packages that the user needs.
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-remove \
        --no-install-recommends gcc libc6-dev >/dev/null 2>&1 ||
        fail 'there is no C linker (cc), and apt-get cannot install one: run apt-get install gcc'
fi

target=${CARGO_TARGET_DIR:-$root/target}
{ mkdir -p "$target" && test -w "$target"; } 2>/dev/null ||
    fail "cannot write to the target folder $target"

quiet=--quiet
if [ ! -x "$target/boot/boot" ]; then
    printf 'run-qemu.sh: building the program in boot/ (once, half a minute)\n' >&2
    # On a terminal, cargo shows a bar.
    [ -t 2 ] && quiet=''
fi
# shellcheck disable=SC2086
cargo build $quiet --profile boot --manifest-path "$root/Cargo.toml" --package boot ||
    fail 'cargo cannot build boot/: see its message above; the first build needs a network'

exec cargo run --quiet --profile boot --manifest-path "$root/Cargo.toml" --package boot -- "$@"
