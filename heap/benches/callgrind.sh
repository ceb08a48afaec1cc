#!/bin/sh
# Instructions per operation of each peer on each workload, without those of the measurement itself
# (the null peer's); then those of a free and an allocation among many live blocks, for two
# alignments. Recorded traces are counted with this project's release profile, which has thin LTO,
# and with Cargo's default release profile, which has not. All peers are built alike.
#
#     heap/benches/callgrind.sh [PEER…]     FEATURES=hardened in the environment: `heap` with it
set -eu
cd "$(dirname "$0")/../.."

for profile in release default-release; do
    cargo build --quiet --profile "$profile" --package heap-benches \
        --bin instructions --bin alignment --features "${FEATURES:-}"
done
target=${CARGO_TARGET_DIR:-target}
programs=$target/release
counts=$(mktemp -d)
trap 'rm -r "$counts"' EXIT

# Prints the total instructions of a program, whose output goes to the file `operations`.
count() {
    program=$1; shift
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$programs/$program" "$@" \
        2>"$counts/log" >"$counts/operations" || { cat "$counts/log" >&2; exit 1; }
    sed -n 's/.*Collected : *//p' "$counts/log"
}

# Prints a row for each peer and a column for each workload, whose name is PREFIX, a word of BETWEEN
# and SUFFIX; then the first peer in relation to the second.
#
#     table TITLE PREFIX SUFFIX "BETWEEN…" PEER…
table() {
    title=$1 prefix=$2 suffix=$3 workloads=$4; shift 4
    for workload in $workloads; do
        count instructions null "$prefix$workload$suffix" >"$counts/null.$workload"
    done
    printf '%-20s' "$title"
    printf '%14s' $workloads mean
    echo
    for peer in "$@"; do
        for workload in $workloads; do
            total=$(count instructions "$peer" "$prefix$workload$suffix")
            echo "$peer $total $(cat "$counts/null.$workload") $(cat "$counts/operations")"
        done
    done | awk '
        function row(name, values, format) {
            product = 0
            printf "%-20s", name
            for (i = 1; i <= columns; i++) { product += log(values[i]); printf format, values[i] }
            printf format "\n", exp(product / columns)
        }
        function end_row() {
            if (!peer) return
            row(peer, net, "%14.1f")
            peers++
            for (i = 1; i <= columns; i++)
                if (peers == 1) first[i] = net[i]; else if (peers == 2) ratio[i] = first[i] / net[i]
            names[peers] = peer
        }
        $1 != peer { end_row(); peer = $1; columns = 0 }
        { net[++columns] = ($2 - $3) / $4 }
        END { end_row(); if (peers > 1) row(names[1] " / " names[2], ratio, "%14.3f") }'
    echo
}

peers=${*:-slabs talc heap rlsf dlmalloc mimalloc buddy}
recorded="cc git python sqlite json"
table "thin LTO" "" "" "$recorded" $peers
programs=$target/default-release
table "Cargo's default" "" "" "$recorded" $peers
programs=$target/release
table random random- "" "200 1000 3000 10000 30000" $peers
table "with realloc" random- -realloc "200 1000 3000 10000 30000" $peers
table pages "" "" "byte-at-page page-at-byte" $peers

pairs=2000
printf '%-12s%8s%8s%8s%8s\n' "a pair" align 1000 10000 100000
for peer in ${*:-slabs heap talc rlsf dlmalloc}; do
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
