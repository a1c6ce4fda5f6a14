#!/bin/sh
# Installs the Debian packages that building, testing and the demo need, those that are missing, and says
# which. Rust comes from https://rustup.rs or the package cargo, version 1.95 or newer.
set -eu

# build: a C compiler and linker, also for aws-lc and SQLite, and pkg-config for the test of the C library
packages="build-essential cmake pkg-config"
# tokens: SoftHSM2 and NSS, two PKCS #11 modules, and tools for them
packages="$packages softhsm2 libnss3 libnss3-tools opensc"
# peers: other implementations of TLS
packages="$packages openssl gnutls-bin curl"
# the same as libraries, for what their programs do not offer
packages="$packages libssl-dev libgnutls28-dev"
# SCTP and bad weather: a kernel to run tests on, what it starts with; tools for the network, and its namespaces
packages="$packages user-mode-linux busybox-static cpio kmod iproute2 socat"
# OpenPGP: another implementation
packages="$packages gnupg"
# look-ups: a directory and its tools, OpenPGP keys to put into it, a cache
packages="$packages slapd ldap-utils sq memcached"
# DNS: signed zones, their server, and a resolver to forward to
packages="$packages nsd ldnsutils unbound bind9-dnsutils"
# authorization: a RADIUS server
packages="$packages freeradius"
# tests: Python programs, manual pages, the core dump; machines with users of their own
packages="$packages python3 mandoc gdb procps systemd uidmap libcap2-bin"

missing=
for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=
    [ "$state" = installed ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
    echo "setup: everything is here"
    exit 0
fi
echo "setup: installing$missing"
as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "setup: as root: apt-get install$missing" >&2; exit 1; }
    as_root=sudo
fi
# The servers among them are for tests, which start their own: none is to run on this machine for it.
policy=/usr/sbin/policy-rc.d
if [ -e "$policy" ]; then
    policy=
else
    trap '$as_root rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod +x "$policy"
fi
$as_root apt-get update
# shellcheck disable=SC2086 # a list of packages
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
