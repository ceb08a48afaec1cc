#!/bin/sh
# Builds this kernel and boots it in QEMU. Try --help.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

# The host program belongs to the kernel library that Cargo.toml names.
library=$(sed -n 's/^kernel = {.*path = "\([^"]*\)".*/\1/p' "$root/Cargo.toml")
if [ -z "$library" ]; then
    printf 'run-qemu.sh: %s has no line `kernel = { path = "…" }`: add it, with the library\n' \
        "$root/Cargo.toml" >&2
    exit 1
fi
repository=$(CDPATH='' && cd -- "$root" && cd -- "$library/.." 2>/dev/null && pwd) || repository=
if [ ! -f "$repository/run-qemu.sh" ]; then
    printf 'run-qemu.sh: there is no kernel library in `%s`: correct the path of `kernel` in %s\n' \
        "$library" "$root/Cargo.toml" >&2
    exit 1
fi
KERNEL_FOLDER=$root exec "$repository/run-qemu.sh" "$@"
