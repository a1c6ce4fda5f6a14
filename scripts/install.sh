#!/bin/sh
# Installs what `cargo build --release` made: `make install DESTDIR=… PREFIX=…`. Overwrites no
# configuration, starts nothing.
set -eu
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local}
libdir=${LIBDIR:-$prefix/lib}
sysconfdir=${SYSCONFDIR:-/etc}
unitdir=${UNITDIR:-/usr/lib/systemd/system}
root=${DESTDIR:-}
built=${CARGO_TARGET_DIR:-target}/release
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
soname=libtlspool.so.0

# put MODE FOLDER FILE...
put() {
    mode=$1 folder=$root$2
    shift 2
    install -d "$folder"
    install -m "$mode" "$@" "$folder"
}
# fill FILE: with the folders in place of their names
fill() {
    sed -e "s,@PREFIX@,$prefix,g" -e "s,@BINDIR@,$prefix/bin,g" -e "s,@LIBDIR@,$libdir,g" \
        -e "s,@INCLUDEDIR@,$prefix/include,g" -e "s,@VERSION@,$version,g" "$1"
}

put 755 "$prefix/bin" "$built/tlspool" "$built/tlstunnel"
put 644 "$prefix/include/tlspool" crates/libtlspool/include/tlspool/*.h
put 644 "$libdir" "$built/libtlspool.a"
install -m 755 "$built/libtlspool.so" "$root$libdir/libtlspool.so.$version"
ln -sf "libtlspool.so.$version" "$root$libdir/$soname"
ln -sf "$soname" "$root$libdir/libtlspool.so"
install -d "$root$libdir/pkgconfig"
fill crates/libtlspool/tlspool.pc.in > "$root$libdir/pkgconfig/tlspool.pc"
for section in 3 5 8; do
    for page in man/*."$section"; do
        [ ! -e "$page" ] || put 644 "$prefix/share/man/man$section" "$page"
    done
done
put 644 "$prefix/share/doc/tlspool" etc/tlspool.toml.example
put 644 "$sysconfdir/tlspool" etc/tlspool.toml.example
install -d "$root$unitdir"
for unit in tlspool.service tlspool.socket; do
    fill "systemd/$unit" > "$root$unitdir/$unit"
done
install -d "$root/usr/lib/sysusers.d" "$root/usr/lib/tmpfiles.d"
install -m 644 systemd/tlspool-sysusers.conf "$root/usr/lib/sysusers.d/tlspool.conf"
install -m 644 systemd/tlspool-tmpfiles.conf "$root/usr/lib/tmpfiles.d/tlspool.conf"

[ -z "$root" ] || exit 0
[ "$(id -u)" -ne 0 ] || ldconfig
cat <<END
Installed. To run it as a service of the system:
  systemd-sysusers && systemd-tmpfiles --create
  cp $sysconfdir/tlspool/tlspool.toml.example $sysconfdir/tlspool/tlspool.toml   # and edit it
  systemctl daemon-reload && systemctl enable --now tlspool
END
