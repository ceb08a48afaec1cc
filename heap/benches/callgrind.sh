#!/bin/sh
# Instructions per operation of each peer on each trace, without those of the measurement itself
# (the null peer's). `heap/benches/callgrind.sh [PEER…]`
set -eu
cd "$(dirname "$0")/../.."

cargo build --quiet --release --package heap-benches --bin instructions
program=${CARGO_TARGET_DIR:-target}/release/instructions
counts=$(mktemp -d)
trap 'rm -r "$counts"' EXIT

# Total instructions of one replay; the number of operations goes to the file `operations`.
count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" \
        2>"$counts/log" >"$counts/operations" || { cat "$counts/log" >&2; exit 1; }
    sed -n 's/.*Collected : *//p' "$counts/log"
}

traces="cc git python sqlite"
for trace in $traces; do
    count null "$trace" >"$counts/null.$trace"
done
printf '%-12s%8s%8s%8s%8s%8s\n' instructions $traces mean
for peer in ${*:-heap talc rlsf dlmalloc buddy}; do
    for trace in $traces; do
        total=$(count "$peer" "$trace")
        echo "$total $(cat "$counts/null.$trace") $(cat "$counts/operations")"
    done | awk -v peer="$peer" '
        BEGIN { printf "%-12s", peer }
        { net = ($1 - $2) / $3; product += log(net); printf "%8.1f", net }
        END { printf "%8.1f\n", exp(product / NR) }'
done
