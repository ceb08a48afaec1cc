#!/bin/sh
# Checks the features of `heap`:
# * Every pair of features compiles in each of its four states: both, either, none.
# * The tests pass with those features that change what they test. (`cargo test` has none.)
# * The examples run, with and without `hardened`.
# * The documentation builds without warnings, with and without features.
# * The packages that stand in for other crates compile and pass with each of their features.
# * `heap-x86_64` compiles with its features, and a copy of the folder builds.
#
#     heap/tests/features.sh [--short]
#
# With --short, the tests run with one set of features only.
# Without a nightly compiler, the part that needs it is skipped, and the script says so.
set -u
cd "$(dirname "$0")/.."
short=${1:-}
case $short in
'' | --short) ;;
*)
    echo "usage: $0 [--short]" >&2
    exit 2
    ;;
esac
passed=0
failed=0
skipped=0
# Compiling takes much longer than the tests.
export CARGO_PROFILE_TEST_OPT_LEVEL=1 CARGO_PROFILE_TEST_DEBUG=none CARGO_PROFILE_DEV_DEBUG=none

# `try NAME COMMAND…`: runs the command, and shows its output if it fails.
try() {
    echo "$1"
    shift
    if output=$("$@" 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$output"
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

# None, each alone, all but each, and all: so any two features meet in each of their four states.
# shellcheck disable=SC2086 # one argument for each feature
for combination in '' $features $(for one in $features; do without "$one"; done) "$(without '')"; do
    try "check: ${combination:-no features}" cargo check --quiet --lib --features "$combination"
done

for combination in counters,hardened "$(without hardened)"; do
    [ "$short" ] && [ "$combination" != counters,hardened ] && continue
    try "test: ${combination:-no features}" cargo test --quiet --features "$combination"
done

for example in examples/*.rs; do
    name=$(basename "$example" .rs)
    try "run: $name" cargo run --quiet --example "$name"
    try "run: $name, hardened" cargo run --quiet --example "$name" --features counters,hardened
done

for combination in '' "$(without '')"; do
    try "doc: ${combination:-no features}" env RUSTDOCFLAGS='-D warnings' \
        cargo doc --quiet --no-deps --features "$combination"
done

for stand_in in talc vmem static_alloc; do
    manifest=compat/$stand_in/Cargo.toml
    names=$(sed -n '/^\[features\]/,/^\[dep/s/^\([a-z-]*\) = \[".*/\1/p' "$manifest")
    for feature in '' $names; do
        [ "$feature" = nightly ] && continue
        try "test: ${stand_in}, ${feature:-no features}" \
            cargo test --quiet --manifest-path "$manifest" --features "$feature"
    done
done

for combination in '' hardened masked-time smp hardened,masked-time,smp; do
    try "check: heap-x86_64, ${combination:-no features}" cargo check --quiet \
        --manifest-path x86_64/Cargo.toml --features "$combination"
done

try "test: heap-x86_64, smp" cargo test --quiet --manifest-path x86_64/Cargo.toml --features smp

try "copy" tests/copy.sh

for licence in LICENSE-MIT LICENSE-APACHE; do
    [ ! -e "../$licence" ] || try "same as at the top: $licence" cmp "$licence" "../$licence"
done

if cargo +nightly --version >/dev/null 2>&1; then
    if [ "$short" ]; then
        try "check: nightly and all others" \
            cargo +nightly check --quiet --lib --tests --features "nightly,$(without '')"
    else
        try "test: nightly and all others" \
            cargo +nightly test --quiet --features "nightly,$(without '')"
    fi
    try "doc: as docs.rs builds it" env RUSTDOCFLAGS='-D warnings --cfg docsrs' \
        cargo +nightly doc --quiet --no-deps --all-features
    for stand_in in talc vmem; do
        try "check: $stand_in, nightly" cargo +nightly check --quiet \
            --manifest-path "compat/$stand_in/Cargo.toml" --features nightly
    done
else
    echo "skipped: nightly (no nightly compiler)"
    skipped=$((skipped + 1))
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
