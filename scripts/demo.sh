#!/bin/sh
# Shows the TLS Pool at work, in a folder that disappears: a key on a SoftHSM2 token, the daemon, an echo
# server and a client in C that know nothing of TLS but one call, and OpenSSL as a stranger.
# Leaves nothing running. `PROFILE=release scripts/demo.sh` builds with optimisation.
set -eu
cd "$(dirname "$0")/.."

missing=
for program in cargo cc softhsm2-util openssl; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
if [ -n "$missing" ]; then
    echo "demo: missing:$missing; scripts/setup-debian.sh installs what is needed" >&2
    exit 1
fi
module=
for candidate in /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so; do
    [ -e "$candidate" ] && module=$candidate && break
done
[ -n "$module" ] || { echo "demo: libsofthsm2.so is not there; scripts/setup-debian.sh" >&2; exit 1; }

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "Building"
profile=${PROFILE:-dev}
cargo build --profile "$profile" -p tlspool -p libtlspool
target=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
target=$(cd "$target" && pwd)
PATH=$target:$PATH

work=$(mktemp -d)
daemon= server=
finish() {
    status=$?
    trap - EXIT INT TERM
    [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || :
    [ -z "$daemon" ] || { kill "$daemon"; kill "$daemon"; tail --pid="$daemon" -f /dev/null; } 2>/dev/null || :
    [ "$status" -eq 0 ] || { echo "demo: failed; the log of the daemon:"; cat "$work/log"; } >&2
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 1' INT TERM
touch "$work/log"

say "A token with a key, made by SoftHSM2"
mkdir "$work/tokens"
printf 'directories.tokendir = %s/tokens\nlog.level = ERROR\n' "$work" > "$work/softhsm2.conf"
export SOFTHSM2_CONF="$work/softhsm2.conf"
(umask 077; od -An -N6 -tu2 /dev/urandom | tr -dc 0-9 > "$work/pin")
softhsm2-util --init-token --free --label demo --pin "$(cat "$work/pin")" --so-pin 1234567890 >/dev/null

user=$(id -u)
cat > "$work/tlspool.toml" <<END
version = 1
user = "$user"
key_user = "$user"
runtime_dir = "$work/run"
database = "$work/tlspool.db"
[[socket]]
path = "$work/tlspool.sock"
mode = "0600"
[[keys.module]]
path = "$module"
[trust]
system = false
END
tlspool() { "$target/tlspool" -c "$work/tlspool.toml" "$@"; }
token="pkcs11:token=demo?pin-source=file:$work/pin"
for name in server.example.com john@example.com; do
    tlspool identity create "$name" --token "$token" > "$work/$name.txt"
    grep '^key:' "$work/$name.txt" | sed "s/^key: */$name has the key /"
    # The certificate, which is its own authority here.
    sed -n '/-----BEGIN/,/-----END/p' "$work/$name.txt" > "$work/$name.pem"
done
tlspool trust add "$work/server.example.com.pem" "$work/john@example.com.pem" 2>/dev/null

say "The daemon, and an echo server that calls starttls_server()"
tlspool check
tlspool 2>> "$work/log"
daemon=$(cat "$work/run/tlspool.pid")
ps -o pid=,args= --ppid "$daemon" -p "$daemon"
for program in echo-server echo-client; do
    cc -o "$work/$program" -I crates/libtlspool/include -I examples "examples/$program.c" \
        -L "$target" -ltlspool -lpthread
done
mkdir "$work/lib"
ln -s "$target/libtlspool.so" "$work/lib/libtlspool.so.0"
export LD_LIBRARY_PATH="$work/lib"
# C programs find the daemon through this, or at its usual place.
printf 'socket_name %s\n' "$work/tlspool.sock" > "$work/tlspool.conf"
export TLSPOOL_CONFIG_FILE="$work/tlspool.conf"
mkfifo "$work/says"
tries=0
while [ -z "$server" ]; do
    port=$((20000 + $(od -An -N2 -tu2 /dev/urandom) % 20000))
    "$work/echo-server" "127.0.0.1:$port" server.example.com > "$work/says" 2>> "$work/log" &
    server=$!
    exec 3< "$work/says"
    # The first line comes when it listens; none comes if the port is taken.
    if IFS= read -r line <&3; then
        echo "echo-server: $line"
    else
        exec 3<&-
        server= tries=$((tries + 1))
        [ "$tries" -lt 10 ] || exit 1
    fi
done

say "A client that calls starttls_client()"
"$work/echo-client" "127.0.0.1:$port" server.example.com john@example.com "hello over TLS"
IFS= read -r line <&3
echo "echo-server: $line"

say "OpenSSL as a client, which knows nothing of the TLS Pool"
mkfifo "$work/in" "$work/out"
openssl s_client -connect "127.0.0.1:$port" -servername server.example.com -brief \
    -CAfile "$work/server.example.com.pem" -verify_return_error \
    -verify_hostname server.example.com < "$work/in" > "$work/out" 2>&1 &
exec 4> "$work/in" 5< "$work/out"
echo "hello from OpenSSL" >&4
while IFS= read -r line <&5; do
    case $line in
        Protocol* | Ciphersuite* | Verif* | Peer*) echo "openssl: $line" ;;
        hello*) echo "openssl: $line"; exec 4>&- ;;
    esac
done
wait $!
IFS= read -r line <&3
echo "echo-server: $line"

say "What the daemon saw"
grep -o 'handshake done.*' "$work/log"
tlspool status | grep -E 'handshakes|signatures'

say "What the policy makes of the server, and why"
tlspool policy explain server.example.com --connect "127.0.0.1:$port"
IFS= read -r line <&3

say "Done"
kill "$daemon"
tail --pid="$daemon" -f /dev/null
daemon=
