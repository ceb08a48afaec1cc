#!/bin/sh
# Do the tests notice when a rule of the heap is broken? Each entry of the lists in `mutations/`
# breaks one, in a copy of the sources, and tests run until one fails.
#
#     heap/tests/mutations.sh --check
#     heap/tests/mutations.sh [--part K/N] [LAYER…]    all, if not said otherwise:
#                                           talc, hardened, slab, vmem, source, bump, x86_64
#
# With --check, no test runs: each text must occur where its entry says.
# With --part, every Nth entry of each list runs, from the Kth on (from 0).
#
# An entry of a list:
#
#     = what is broken
#     @ FILE TEST…             the file in heap/src, or heap/x86_64/src; the tests that are to
#                              notice it first
#     - the text, which occurs once in the file, of one or more lines
#     + what takes its place
#
# A line `! TEST…` says what else is run for all entries. `lib` stands for the unit tests.
# A test that crashes, hangs or takes too much memory has noticed. What no test notices is tried
# three times: where threads run into each other, a test may need luck.
set -eu
cd "$(dirname "$0")/../.."

part=0 parts=1 check=
case ${1:-} in
--part)
    part=${2%/*} parts=${2#*/}
    shift 2
    ;;
--check)
    check=yes
    shift
    ;;
esac

seconds=150 # for one test program, which takes ten at most with so few programs, on idle cores:
export HEAP_PROGRAMS=500
memory=8000000 # KiB
all_features=counters,local-alloc,std,spin

entries=$(mktemp -d)
trap 'rm -r "$entries"' EXIT

# Splits a list into files: `$entries/NUMBER/{name,place,find,replace}`, and `$entries/rest`.
split() {
    awk -v entries="$entries" '
        function add(part, text) { print text >(entries "/" number "/" part) }
        /^!/ { print substr($0, 3) >(entries "/rest") }
        /^=/ { number++; system("mkdir -p " entries "/" number); add("name", substr($0, 3)) }
        /^@/ { add("place", substr($0, 3)) }
        /^-/ { add("find", substr($0, 3)) }
        /^\+/ { add("replace", substr($0, 3)) }
        END { print number >(entries "/count") }' "$1"
}

# Replaces the text of file $2 by that of file $3, once in file $1, on standard output.
substitute() {
    awk -v find_in="$2" -v replace_in="$3" -v file="$1" '
        function contents(path, text, line) {
            text = ""
            while ((getline line <path) > 0) text = text line "\n"
            return substr(text, 1, length(text) - 1)
        }
        BEGIN {
            text = contents(file); find = contents(find_in)
            at = index(text, find)
            if (!at || index(substr(text, at + 1), find)) exit 1
            print substr(text, 1, at - 1) contents(replace_in) substr(text, at + length(find))
        }'
}

# Runs `COMMAND…` on one test program: `with_test TEST COMMAND…`
with_test() {
    case $1 in lib) program=--lib ;; *) program=--test=$1 ;; esac
    shift
    "$@" --quiet --package "$package" --features "$features" "$program"
}

# Runs test programs until one fails, and leaves its name in `$entries/caught`. Fails if something
# does not compile.
run_tests() {
    : >"$entries/caught"
    for test in "$@"; do
        with_test "$test" cargo test --no-run >"$entries/log" 2>&1 || return 1
        (
            ulimit -v "$memory"
            with_test "$test" timeout --kill-after=5 "$seconds" cargo test
        ) >"$entries/log" 2>&1 || { echo "$test" >"$entries/caught"; return; }
    done
}

# Runs test programs until one fails, three times at most.
try_tests() {
    for _ in 1 2 3; do
        run_tests "$@" || return 1
        [ ! -s "$entries/caught" ] || return 0
    done
}

lists=${*:-talc hardened slab vmem source bump x86_64}
passed=0 failed=0
if [ -z "$check" ]; then
    target=${CARGO_TARGET_DIR:-$PWD/target}/mutations
    copy=$target/source
    export CARGO_TARGET_DIR="$target/target" CARGO_INCREMENTAL=1
    export CARGO_PROFILE_TEST_OPT_LEVEL=1 CARGO_PROFILE_TEST_DEBUG=none CARGO_PROFILE_DEV_DEBUG=none
    rm -rf "$copy"
    mkdir -p "$copy"
    # (As of now: an earlier run may have been stopped when what it had built last was broken.)
    tar --exclude=./target --exclude=./.git --exclude=./.toolchain -c . | tar -x --touch -C "$copy"
    cd "$copy"
fi

fail() {
    echo "$1"
    failed=$((failed + 1))
}

for list in $lists; do
    package=heap sources=heap/src features=$all_features
    case $list in
    hardened) features=$features,hardened ;;
    x86_64) package=heap-x86_64 sources=heap/x86_64/src features=smp ;;
    esac
    rm -rf "$entries"/*
    split "heap/tests/mutations/$list"
    rest=$(cat "$entries/rest")
    # shellcheck disable=SC2086 # one argument for each test
    if [ -z "$check" ] && { ! run_tests $rest || [ -s "$entries/caught" ]; }; then
        cat "$entries/log"
        fail "$list: without a mutation, $(cat "$entries/caught") fails"
        continue
    fi
    for entry in $(seq $((part + 1)) "$parts" "$(cat "$entries/count")"); do
        entry=$entries/$entry
        name="$list: $(cat "$entry/name")"
        read -r file tests <"$entry/place"
        file=$sources/$file
        cp "$file" "$entry/original"
        if ! substitute "$entry/original" "$entry/find" "$entry/replace" >"$entry/broken"; then
            fail "$name: the text is not in $file exactly once"
            continue
        elif [ -n "$check" ]; then
            passed=$((passed + 1))
            continue
        fi
        cp "$entry/broken" "$file"
        if ! try_tests $tests $rest; then
            cat "$entries/log"
            fail "$name: does not compile"
        elif [ -s "$entries/caught" ]; then
            echo "$name: caught by $(cat "$entries/caught")"
            passed=$((passed + 1))
        else
            fail "$name: SURVIVED"
        fi
        cp "$entry/original" "$file"
    done
done
[ -n "$check" ] || echo "$passed of $((passed + failed)) mutations caught"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
