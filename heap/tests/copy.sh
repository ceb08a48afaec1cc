#!/bin/sh
# Does a copy of this folder build, in a workspace of its own and in another? The manifests must
# inherit no key, and lead to nothing outside of the folder.
#
#     heap/tests/copy.sh
set -eu
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'rm -r "$place"' EXIT

mkdir "$place/alone"
tar --exclude=./target -c . | tar -x -C "$place/alone"
cp -r "$place/alone" "$place/heap"

# `member NAME DEPENDENCIES`: a package that uses the heap.
member() {
    mkdir -p "$place/$1/src"
    printf '[package]\nname = "%s"\nedition = "2024"\n\n[dependencies]\n%s\n' "$1" "$2" \
        >"$place/$1/Cargo.toml"
    cat >"$place/$1/src/lib.rs"
}

# The workspace around the copy has other values for the keys that manifests may inherit.
cat >"$place/Cargo.toml" <<'END'
[workspace]
members = ["user"]
exclude = ["alone"]
resolver = "2"

[workspace.package]
version = "9.9.9"
edition = "2015"
END
member user 'heap = { path = "../heap" }
heap-x86_64 = { path = "../heap/x86_64" }' <<'END'
#![no_std]
pub use heap::talc::TalcLock;
pub use heap_x86_64::Heap;
END

export CARGO_TARGET_DIR="$place/target"
cd "$place"
cargo build --quiet --offline
cd "$place/alone"
cargo build --quiet --offline
cargo build --quiet --offline --manifest-path x86_64/Cargo.toml
echo "a copy builds, in a workspace and alone"
