#!/bin/sh
# Builds the fuzz targets and runs each for FUZZ_S seconds (default 60). Ends with an error at the first
# finding, whose input is then in fuzz/artifacts/TARGET/.
#
#   scripts/fuzz.sh                 all targets
#   scripts/fuzz.sh key_uri config  only these
#
# Needs a C++ compiler (libFuzzer is built from source) and nothing else: the toolchain of the project
# builds it, with the coverage that `cargo fuzz` would ask for. The address sanitizer is left out: it needs
# a nightly toolchain, and the crates under test forbid unsafe code or confine it to a few lines.
set -eu
cd "$(dirname "$0")/.."
seconds=${FUZZ_S:-60}
host=$(rustc -vV | sed -n 's/^host: //p')
targets=${*:-$(sed -n 's/^name = "\([a-z0-9_]*\)"$/\1/p' fuzz/Cargo.toml)}

coverage="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
 -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# With --target, build scripts and procedural macros are built without coverage, as they must be.
RUSTFLAGS=$coverage CARGO_TARGET_DIR=fuzz/target \
    cargo build --manifest-path fuzz/Cargo.toml --release --target "$host" --bins

for target in $targets; do
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    seeds=""
    [ -d "fuzz/seeds/$target" ] && seeds="fuzz/seeds/$target"
    options="-max_len=4096"
    case $target in
        record) options="-max_len=2400" ;;
        names|key_uri) options="-max_len=512" ;;
        key_channel|lookup_channel|relay) options="-max_len=20000" ;;
        # The commands speak to the person on standard error.
        import) options="-max_len=4096 -close_fd_mask=2" ;;
    esac
    echo "== $target, $seconds s"
    # shellcheck disable=SC2086 # options and seeds are words
    "fuzz/target/$host/release/$target" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 \
        -print_final_stats=1 -verbosity=${FUZZ_VERBOSITY:-1} -artifact_prefix="fuzz/artifacts/$target/" \
        $options "fuzz/corpus/$target" $seeds 2>"fuzz/artifacts/$target.log" || {
        tail -40 "fuzz/artifacts/$target.log" >&2
        echo "$target: finding; its input is in fuzz/artifacts/$target" >&2
        exit 1
    }
    sed -n 's/^stat::\(number_of_executed_units\|peak_rss_mb\): */   \1: /p' "fuzz/artifacts/$target.log"
    grep -o 'cov: [0-9]*' "fuzz/artifacts/$target.log" | tail -1
done
