#!/bin/sh
# Every pair of features compiles in each of its four states, and the tests pass with those that
# change what they test. (Without any, they pass elsewhere.) The examples run, with and without the detector.
#
#     heap/tests/features.sh           what the installed compilers can do
#
# Nightly's part is skipped, and said to be, where there is no nightly compiler.
set -u
cd "$(dirname "$0")/.."
passed=0
failed=0
skipped=0

# `try NAME COMMAND…`: runs it, and shows what it says if it fails.
try() {
    echo "$1"
    shift
    if said=$("$@" 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$said"
        echo "FAILED"
    fi
}

features='counters disable-grow-in-place disable-realloc-in-place hardened local-alloc std spin'

# All features but one, or all, separated by commas.
without() {
    list=
    for feature in $features; do
        [ "$feature" = "$1" ] || list=$list,$feature
    done
    echo "${list#,}"
}

# None, each alone, all but each, and all: of any two features, both, one or none is there.
# shellcheck disable=SC2086 # one argument for each feature
for combination in '' $features $(for one in $features; do without "$one"; done) "$(without '')"; do
    try "check: ${combination:-no features}" cargo check --quiet --lib --features "$combination"
done

for combination in counters,hardened "$(without hardened)"; do
    try "test: ${combination:-no features}" cargo test --quiet --features "$combination"
done

for example in examples/*.rs; do
    name=$(basename "$example" .rs)
    try "run: $name" cargo run --quiet --example "$name"
    try "run: $name, hardened" cargo run --quiet --example "$name" --features counters,hardened
done

if cargo +nightly --version >/dev/null 2>&1; then
    try "test: nightly and all others" cargo +nightly test --quiet --features "nightly,$(without '')"
else
    echo "skipped: nightly (no nightly compiler)"
    skipped=$((skipped + 1))
fi

least=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if cargo "+$least" --version >/dev/null 2>&1; then
    try "check: with Rust $least" cargo "+$least" check --quiet --lib
else
    echo "skipped: Rust $least (not installed; clippy knows what it has)"
    skipped=$((skipped + 1))
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
