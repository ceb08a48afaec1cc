#!/bin/sh
# The tests of `heap` under AddressSanitizer, valgrind and Miri: what looks at memory, in parts that
# take minutes. What this machine cannot run is skipped, and said to be.
#
#     heap/tests/sanitizers.sh [asan] [memcheck] [miri]     all, if not said otherwise
set -u
cd "$(dirname "$0")/.."
target=../target/sanitizers
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0
failed=0
skipped=0
# Everything takes many times as long.
: "${HEAP_PROGRAMS:=200}"
export HEAP_PROGRAMS

# `check NAME COMMAND…`: one line, and the output if it fails.
check() {
    name=$1
    shift
    if "$@" >"$log" 2>&1; then
        tests=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$log" | paste -sd+ -)
        echo "passed: $name ($((${tests:-0})) tests)"
        passed=$((passed + 1))
    else
        cat "$log"
        echo "failed: $name"
        failed=$((failed + 1))
    fi
}

skip() {
    echo "skipped: $1"
    skipped=$((skipped + 1))
}

# Tests leak memory on purpose that must live as long as the program.
asan() {
    host=$(rustc +nightly -vV 2>/dev/null | sed -n 's/^host: //p')
    if [ -z "$host" ]; then
        skip 'AddressSanitizer (no nightly compiler)'
        return
    fi
    if [ ! -e "$(rustc +nightly --print target-libdir)/librustc-nightly_rt.asan.a" ]; then
        skip 'AddressSanitizer (the nightly compiler has none)'
        return
    fi
    for part in '--lib' '--test vmem_arena' '--test arena_source' '--test bump_slices' \
        '--test model' '--test slab' '--test talc_allocate' '--test talc_extent' \
        '--test talc_lock'; do
        # shellcheck disable=SC2086 # two words
        check "AddressSanitizer, ${part#--test }" env RUSTFLAGS=-Zsanitizer=address \
            ASAN_OPTIONS=detect_leaks=0 CARGO_TARGET_DIR=$target \
            cargo +nightly test --target "$host" $part
    done
}

# Where several threads are at it, and where memory comes and goes.
memcheck() {
    if ! command -v valgrind >/dev/null; then
        skip 'valgrind (not installed)'
        return
    fi
    program() {
        CARGO_TARGET_DIR=$target cargo test --no-run "$@" 2>&1 |
            sed -n 's/.*Executable.*(\(.*\))$/\1/p'
    }
    memcheck_one() {
        name=$1
        filter=$2
        shift 2
        program=$(program "$@")
        check "valgrind, $name" valgrind --quiet --error-exitcode=9 --leak-check=no \
            --fair-sched=yes "$program" "$filter"
    }
    memcheck_one 'threads that share arenas' threads --test vmem_arena
    memcheck_one "regressions of an arena" defects:: --test vmem_arena
    memcheck_one 'threads that share a heap' '' --test talc_lock
    memcheck_one 'heaps made of an arena' '' --test arena_source
    memcheck_one 'bump' bump --lib
    memcheck_one 'slabs of two CPUs' cpus:: --test slab
}

# Aliasing and provenance.
miri() {
    if ! cargo +nightly miri --version >/dev/null 2>&1; then
        skip 'miri (not installed)'
        return
    fi
    export MIRIFLAGS='-Zmiri-strict-provenance -Zmiri-ignore-leaks'
    check "Miri, an arena" cargo +nightly miri test --test vmem_arena aliasing_rules
    check 'Miri, bump' cargo +nightly miri test --lib bump -- --skip random
    check 'Miri, the allocator' cargo +nightly miri test --test talc_allocator
}

for tool in ${*:-asan memcheck miri}; do
    "$tool"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
