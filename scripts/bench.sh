#!/bin/sh
# Compares tlstunnel and the pool with other TLS proxies, our engine with other libraries, and live validation
# with trust anchors; writes docs/benchmarks.md, docs/benchmarks-engine.md and docs/benchmarks-validation.md.
# Arguments go to the comparison, --quick to live validation too: `scripts/bench.sh --quick`. Run on a machine that is
# otherwise idle.
set -eu
cd "$(dirname "$0")/.."

quick=
for argument in "$@"; do
    [ "$argument" != --quick ] || quick=--quick
done

missing=
for program in hitch haproxy stunnel4 nginx softhsm2-util setpriv openssl slapd nsd memcached; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || missing="$missing $program"
done
[ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || missing="$missing ngx_stream_module"
# For the comparison of engines.
[ -e /usr/include/openssl/ssl.h ] || missing="$missing libssl-dev"
if [ -n "$missing" ]; then
    echo "bench: missing:$missing" >&2
    if [ "$(id -u)" -ne 0 ]; then
        echo "bench: as root: apt-get install hitch haproxy stunnel4 nginx-light" \
            "libnginx-mod-stream softhsm2 openssl libssl-dev slapd ldap-utils nsd ldnsutils memcached" >&2
        exit 1
    fi
    # The packages start services that nobody asked for, unless told not to.
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        policy=
    else
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
    fi
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        hitch haproxy stunnel4 nginx-light libnginx-mod-stream softhsm2 openssl libssl-dev \
        slapd ldap-utils nsd ldnsutils memcached
    [ -z "$policy" ] || rm -f "$policy"
    trap - EXIT
fi

cargo build --release -p tlspool -p tlstunnel -p tlspool-bench -p p11mock
cargo build --release -p tlspool-bench --features engines --bin engine-bench
cargo build --release -p tlspool-bench --features validation --bin validation-bench
mkdir -p docs

# Everything the comparison makes is below this folder, whatever ends it.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 1' HUP INT TERM
chmod 711 "$TMPDIR"
target/release/engine-bench > "$TMPDIR/engines.md"
mv "$TMPDIR/engines.md" docs/benchmarks-engine.md
TLSPOOL_TEST_PROGRAMS="$PWD/target/release" target/release/validation-bench $quick > "$TMPDIR/validation.md"
mv "$TMPDIR/validation.md" docs/benchmarks-validation.md
target/release/tlspool-bench --out docs/benchmarks.md "$@"
