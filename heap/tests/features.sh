#!/bin/sh
# Every combination of features compiles, and the tests pass with each feature, and with all of them.
#
#     heap/tests/features.sh           what the installed compilers can do
#
# Nightly's part is skipped, and said to be, where there is no nightly compiler.
set -eu
cd "$(dirname "$0")/.."

combinations() {
    [ $# -gt 0 ] || { echo; return; }
    first=$1
    shift
    for rest in $(combinations "$@") ''; do
        echo "$first,$rest"
    done
    combinations "$@"
}

features='counters disable-grow-in-place disable-realloc-in-place local-alloc std spin'

# shellcheck disable=SC2086 # one argument for each feature
for combination in '' $(combinations $features); do
    echo "check: ${combination:-no features}"
    cargo check --quiet --lib --features "$combination"
done

# shellcheck disable=SC2086
all=$(echo $features | tr ' ' ,)
for combination in '' $features "$all"; do
    echo "test: ${combination:-no features}"
    cargo test --quiet --features "$combination"
done

if cargo +nightly --version >/dev/null 2>&1; then
    for combination in nightly "nightly,$all"; do
        echo "test: $combination"
        cargo +nightly test --quiet --features "$combination"
    done
else
    echo "skipped: nightly (no nightly compiler)"
fi
