#!/bin/sh
# Instructions per operation of each peer on each trace, without those of the measurement itself
# (the null peer's); then those of a free and an allocation among many live blocks, for two alignments.
# `heap/benches/callgrind.sh [PEER…]`
set -eu
cd "$(dirname "$0")/../.."

cargo build --quiet --release --package heap-benches --bin instructions --bin alignment
programs=${CARGO_TARGET_DIR:-target}/release
counts=$(mktemp -d)
trap 'rm -r "$counts"' EXIT

# Total instructions of a program; what it prints goes to the file `operations`.
count() {
    program=$1; shift
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$programs/$program" "$@" \
        2>"$counts/log" >"$counts/operations" || { cat "$counts/log" >&2; exit 1; }
    sed -n 's/.*Collected : *//p' "$counts/log"
}

traces="cc git python sqlite"
for trace in $traces; do
    count instructions null "$trace" >"$counts/null.$trace"
done
printf '%-12s%8s%8s%8s%8s%8s\n' instructions $traces mean
for peer in ${*:-heap talc rlsf dlmalloc buddy}; do
    for trace in $traces; do
        total=$(count instructions "$peer" "$trace")
        echo "$total $(cat "$counts/null.$trace") $(cat "$counts/operations")"
    done | awk -v peer="$peer" '
        BEGIN { printf "%-12s", peer }
        { net = ($1 - $2) / $3; product += log(net); printf "%8.1f", net }
        END { printf "%8.1f\n", exp(product / NR) }'
done

pairs=2000
printf '\n%-12s%8s%8s%8s%8s\n' "a pair" align 1000 10000 100000
for peer in ${*:-heap talc rlsf}; do
    [ "$peer" != dlmalloc ] || continue # It crashes in this program.
    for align in 8 64; do
        printf '%-12s%8s' "$peer" "$align"
        for live in 1000 10000 100000; do
            all=$(count alignment "$peer" "$live" "$align" $pairs)
            without=$(count alignment "$peer" "$live" "$align" 0)
            printf '%8d' $(((all - without) / pairs))
        done
        echo
    done
done
