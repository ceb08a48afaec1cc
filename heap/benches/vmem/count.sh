#!/bin/sh
# Prints the table of `BENCHMARKS.md`: instructions (callgrind) and time of each operation, of this
# project's arena and of the `vmem` crate's. The cost of the loop is subtracted.
# `heap/benches/vmem/count.sh [SCENARIO…]`
set -eu
cd "$(dirname "$0")"

cargo build --quiet --release
target=$(cargo metadata --no-deps --format-version 1 |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
program=$target/release/vmem-benches
counts=$(mktemp -d)
trap 'rm -r "$counts"' EXIT

# Prints the instructions of one operation: `count PEER SCENARIO LIVE OPERATIONS`.
count() {
    valgrind --tool=callgrind --toggle-collect='*scenarios::measured*' \
        --callgrind-out-file=/dev/null "$program" "$@" 2>"$counts/log" >/dev/null || return 1
    echo $(($(sed -n 's/.*Collected : *//p' "$counts/log") / $4))
}

# Prints the nanoseconds of one operation, in the best of five runs.
time() {
    for _ in 1 2 3 4 5; do "$program" "$@"; done | sort -n | head -n 1
}

# Prints a row: `row SCENARIO LIVE OPERATIONS [OPERATIONS-OF-VMEM]`.
row() {
    loop=$(count null "$1" "$2" "$3")
    printf '| %s | %s ' "$1" "$2"
    for peer in heap vmem; do
        operations=$3
        [ "$peer" = vmem ] && operations=${4:-$3}
        if instructions=$(count "$peer" "$1" "$2" "$operations"); then
            nanoseconds=$(time "$peer" "$1" "$2" "$operations")
            printf '| %s | %s ns ' $((instructions - loop)) "$nanoseconds"
        else
            printf '| – | – '
        fi
    done
    echo '|'
}

echo '| scenario | live | instructions | time | `vmem` 1.0.0: instructions | time |'
echo '|---|---:|---:|---:|---:|---:|'
scenarios='newest-instant random-instant resize newest-best random-best constrained import
    holes-instant holes-best spans'
for scenario in ${*:-$scenarios}; do
    case $scenario in
    holes-*)
        row "$scenario" 10 1000
        row "$scenario" 1000 1000
        row "$scenario" 10000 100
        ;;
    spans)
        row spans 10 1000
        row spans 30000 1000 20
        ;;
    import)
        row import 10 3000
        row import 10000 3000 200
        ;;
    *)
        row "$scenario" 10 30000
        row "$scenario" 1000 30000 3000
        row "$scenario" 100000 30000 200
        row "$scenario" 1000000 30000 20
        ;;
    esac
done
