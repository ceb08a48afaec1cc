#!/bin/sh
# Builds the fuzz targets with AddressSanitizer, and runs them on the corpus, two at a time.
#
#     heap/fuzz/run.sh [SECONDS [TARGET…]]     60 seconds each by default
#     heap/fuzz/run.sh 300                     five minutes: before a release
#     heap/fuzz/run.sh 86400                   a day: after larger changes
#     heap/fuzz/run.sh merge                   merges new inputs into the corpus, and minimises it
#
# FEATURES=hardened,… turns on features of `heap`. Needs a nightly compiler, a C++ compiler (for
# libFuzzer) and crates.io, but neither `cargo-fuzz` nor the sources of the standard library.
set -u
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=${*:-arena bump full_stack layers slab talc}
output=../../target/fuzz
host=$(rustc +nightly -vV 2>/dev/null | sed -n 's/^host: //p')

skip() {
    echo "skipped: $1"
    echo "0 passed, 0 failed, $(echo $targets | wc -w) skipped"
    exit 0
}
[ -n "$host" ] || skip 'fuzzing (no nightly compiler)'
[ -e "$(rustc +nightly --print target-libdir)/librustc-nightly_rt.asan.a" ] ||
    skip 'fuzzing (the nightly compiler has no AddressSanitizer)'
command -v "${CXX:-c++}" >/dev/null || skip 'fuzzing (no C++ compiler for libFuzzer)'

features=$(echo "${FEATURES:-}" | sed 's/[^, ][^, ]*/heap\/&/g')
# The flags of `cargo fuzz`.
flags='-Cpasses=sancov-module -Zsanitizer=address --cfg fuzzing
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
    -Cllvm-args=-simplifycfg-branch-fold-threshold=0'
RUSTFLAGS=$(echo $flags) CARGO_TARGET_DIR=$output cargo +nightly build --quiet --release \
    --target "$host" --features "$features" || exit 1
programs=$output/$host/release

if [ "$seconds" = merge ]; then
    for target in $targets; do
        rm -rf "$output/merged"
        mkdir -p "$output/merged"
        # Keep the shortest inputs that reach each edge. Hit counts are not worth further files.
        most=400
        [ "$target" = full_stack ] && most=2000
        "$programs/$target" -set_cover_merge=1 -use_counters=0 -max_len=$most "$output/merged" \
            "corpus/$target" "$output/corpus/$target" >/dev/null 2>&1 || exit 1
        rm -r "corpus/$target"
        mv "$output/merged" "corpus/$target"
        bytes=$(du -sb "corpus/$target" | cut -f1)
        echo "$target: $(ls "corpus/$target" | wc -l) inputs, $bytes bytes"
    done
    exit 0
fi

# Steps of the whole stack take many bytes, and short programs do not fill its memory.
lengths() {
    case $1 in full_stack) echo -max_len=2000 -len_control=0 ;; *) echo -max_len=600 ;; esac
}

# New inputs go to the build directory, not into the repository. Failing inputs go to `artifacts`.
run() {
    mkdir -p "$output/corpus/$1" "artifacts/$1" "corpus/$1"
    # shellcheck disable=SC2046 # one argument for each option
    if "$programs/$1" -max_total_time="$seconds" $(lengths "$1") -print_final_stats=1 \
        -artifact_prefix="artifacts/$1/" "$output/corpus/$1" "corpus/$1" >"$output/$1.log" 2>&1
    then
        count=$(sed -n 's/.*number_of_executed_units: *//p' "$output/$1.log")
        while echo "$count" | grep -q '[0-9]\{4\}'; do
            count=$(echo "$count" | sed 's/\([0-9]\)\([0-9]\{3\}\)\(,\|$\)/\1,\2\3/')
        done
        echo "$1: $count executions in $seconds s, no failure"
    else
        input=$(sed -n 's/.*Test unit written to *//p' "$output/$1.log" | tail -n 1)
        echo "$1: FAILED, input heap/fuzz/${input:-unknown}, log $PWD/$output/$1.log"
        return 1
    fi
}

passed=0
failed=0
first=
wait_for() {
    if wait "$1"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}
for target in $targets; do
    run "$target" &
    if [ -n "$first" ]; then
        wait_for "$first"
        wait_for $!
        first=
    else
        first=$!
    fi
done
[ -n "$first" ] && wait_for "$first"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
