#!/bin/sh
# Builds `heap` with the lowest Rust that its manifest promises, in each of its features that a
# stable compiler has, and runs its tests once, the models with fewer programs than elsewhere.
#
#     heap/tests/msrv.sh               build and test
#     heap/tests/msrv.sh --build       build only
#
# The compiler is rustup's if that has it, otherwise Debian 12's. The latter is unpacked into
# `target/msrv` and not installed. Where neither is available the check is skipped, and says so.
set -u
cd "$(dirname "$0")/.." || exit 1
least=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
folder=$(cargo metadata --format-version 1 --no-deps |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/msrv
root=$folder/debian-$least
passed=0
failed=0

# Packages of the compiler, and libraries of theirs that a minimal system lacks.
toolchain='rustc-web cargo-web libstd-rust-web-dev'
libraries="libstd-rust-web-$least libllvm19 libpcre3 libhttp-parser2.9 libssh2-1 libedit2 libz3-4
    libbsd0 libmd0 libxml2 libicu72"

# `unpack`: downloads Debian's packages and unpacks them into `$root`.
unpack() {
    version=$(apt-cache madison rustc-web 2>/dev/null | awk -v v="$least." '
        index($3, v) == 1 { print $3; exit }')
    if [ -z "$version" ]; then
        return 1
    fi
    rm -rf "$root" "$folder/packages"
    mkdir -p "$root" "$folder/packages" || return 1
    (
        cd "$folder/packages" || exit 1
        set --
        for package in $toolchain; do
            set -- "$@" "$package=$version"
        done
        # shellcheck disable=SC2086 # one argument for each library
        apt-get download "$@" $libraries >download.log 2>&1 || {
            cat download.log >&2
            exit 1
        }
        for package in *.deb; do
            dpkg -x "$package" "$root" || exit 1
        done
        rm -- *.deb
        touch "$root/complete"
    )
}

# `cargo_least ARGUMENT…`: runs that compiler's cargo.
cargo_least() {
    if [ "$source" = rustup ]; then
        CARGO_TARGET_DIR=$folder/build cargo "+$least" "$@"
    else
        LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu \
            RUSTC=$root/usr/bin/rustc RUSTDOC=$root/usr/bin/rustdoc \
            CARGO_TARGET_DIR=$folder/build "$root/usr/bin/cargo" "$@"
    fi
}

# `try NAME ARGUMENT…`: runs cargo, and shows its output if it fails.
try() {
    echo "$1"
    shift
    if output=$(cargo_least "$@" 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$output"
        echo "FAILED"
    fi
}

if cargo "+$least" --version >/dev/null 2>&1; then
    source=rustup
elif [ "$(uname -m)" = x86_64 ] && { [ -e "$root/complete" ] || unpack; }; then
    source=Debian
else
    echo "skipped: Rust $least (neither rustup nor Debian has it here)"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
if ! version=$(cargo_least --version 2>&1); then
    echo "$version"
    exit 1
fi
echo "$version, from $source"

features='counters disable-grow-in-place disable-realloc-in-place hardened local-alloc std spin'
all=$(echo "$features" | tr ' ' ,)
for combination in '' $features "$all"; do
    try "build: ${combination:-no features}" build --quiet --lib --features "$combination"
done
try "build: heap-x86_64" build --quiet --manifest-path x86_64/Cargo.toml
if [ "${1:-}" != --build ]; then
    export HEAP_PROGRAMS="${HEAP_PROGRAMS:-1000}"
    try "test: counters,local-alloc,spin,std" \
        test --quiet --features counters,local-alloc,spin,std
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
