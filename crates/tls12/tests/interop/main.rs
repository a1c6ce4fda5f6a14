//! `docs/interop.md`: our client and our server against OpenSSL, GnuTLS and rustls, measured, and compared with
//! what the document says. With INTEROP_WRITE=1 in the environment the document is written anew.
#![allow(missing_docs)]

mod anybody;
mod helper;
mod ours;
mod rows;
mod rustls_peer;
#[path = "../support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use helper::{Library, Workshop};
use rows::{Bench, Cell, Column};
use tls12::Role;

/// What is exported, as in `peers/peer.h`.
const LABEL: &str = "EXPERIMENTAL-interop";
const CONTEXT: &str = "context";
const BINDING: &str = "EXPORTER-Channel-Binding";

/// Cells under way at a time.
const AT_ONCE: usize = 4;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn columns(ours: Role) -> [Column; 5] {
    [
        (Library::OpenSsl, false),
        (Library::OpenSsl, true),
        (Library::GnuTls, false),
        (Library::GnuTls, true),
        (Library::Rustls, false),
    ]
    .map(|(library, datagrams)| Column { ours, library, datagrams })
}

/// A table with `why`, the reasons in the order in which they were found.
fn table(
    ours: Role,
    rows: &[(String, rows::Row)],
    cells: &[Vec<Cell>],
    why: &mut Vec<String>,
) -> String {
    let mut out = String::from("| |");
    for column in columns(ours) {
        let protocol = if column.datagrams { "DTLS 1.2" } else { "TLS 1.2" };
        let _ = write!(out, " {} {protocol} |", column.library.name());
    }
    out.push_str("\n| --- | --- | --- | --- | --- | --- |\n");
    for (number, (label, _)) in rows.iter().enumerate() {
        let _ = write!(out, "| {label} |");
        for (column, cells) in columns(ours).iter().zip(cells) {
            match &cells[number] {
                Ok(()) => out.push_str(" yes |"),
                Err(reason) => {
                    let reason = format!("{}: {reason}", column.library.name());
                    let at = why.iter().position(|known| *known == reason);
                    let at = at.unwrap_or_else(|| {
                        why.push(reason);
                        why.len() - 1
                    });
                    let _ = write!(out, " peer cannot ({}) |", at + 1);
                }
            }
        }
        out.push('\n');
    }
    out
}

/// All cells, by column and row; also what went wrong on our side.
fn measure(rows: &[(String, rows::Row)]) -> (Vec<Vec<Cell>>, Vec<String>) {
    let workshop = Workshop::new();
    let columns: Vec<Column> = [Role::Client, Role::Server].into_iter().flat_map(columns).collect();
    let cells = Mutex::new(vec![vec![Ok(()); rows.len()]; columns.len()]);
    let faults = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let (number, row) = (at / rows.len(), at % rows.len());
                    let Some(column) = columns.get(number) else { return };
                    let bench = Bench { workshop: &workshop, column: *column };
                    let measured = catch_unwind(AssertUnwindSafe(|| bench.measure(&rows[row].1)));
                    match measured {
                        Ok(cell) => cells.lock().unwrap()[number][row] = cell,
                        Err(panic) => {
                            let words = panic
                                .downcast_ref::<String>()
                                .cloned()
                                .or_else(|| panic.downcast_ref::<&str>().map(|&s| s.to_owned()));
                            let words = words.unwrap_or_default();
                            let fault = format!("{column:?}, {}: {words}", rows[row].0);
                            faults.lock().unwrap().push(fault);
                        }
                    }
                }
            });
        }
    });
    (cells.into_inner().unwrap(), faults.into_inner().unwrap())
}

/// Which versions there are, in words of their own.
fn versions() -> String {
    let said = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
    };
    let openssl = said("openssl", "version");
    let openssl = openssl.split(" (").next().unwrap_or_default().to_owned();
    format!("{VERSIONS}{openssl}, {}, rustls 0.23.\n", said("gnutls-cli", "--version"))
}

/// Begins the line that differs between machines.
const VERSIONS: &str = "Last written with ";

fn document(rows: &[(String, rows::Row)], cells: &[Vec<Cell>]) -> String {
    let mut why = Vec::new();
    let client = table(Role::Client, rows, &cells[..5], &mut why);
    let server = table(Role::Server, rows, &cells[5..], &mut why);
    let mut reasons = String::new();
    for (number, reason) in why.iter().enumerate() {
        let _ = writeln!(reasons, "{}. {reason}", number + 1);
    }
    format!(
        "# Interoperability of TLS 1.2 and DTLS 1.2\n\n\
         The engine `tls12` with other implementations on the same machine. Each cell is a connection, or two, that a\n\
         test made: `cargo test -p tls12 --test interop`, part of `make test`, which fails if it measures anything\n\
         else than this document says. `INTEROP_WRITE=1` before that command writes it anew.\n\n\
         A cell says *yes* if the connection did what its row says and both sides saw the same: suite, certificates,\n\
         whether the session was resumed, what was exported. *Peer cannot* is followed by a number for what the\n\
         other implementation said about it, or was found to lack. Unless a row says otherwise, the server has a P-256\n\
         key.\n\n\
         {}\n## Our client with their server\n\n{client}\n## Our server with their client\n\n{server}\n\
         ## Why a peer cannot\n\n{reasons}\n\
         ## Where else peers are met\n\n\
         `crates/tls12/tests/peers.rs` and `datagram_peers.rs` have the command line programs of OpenSSL and GnuTLS,\n\
         small datagrams, and peers that are too old; `tests/tests/tls12` has them at the whole daemon. OpenPGP\n\
         certificates (RFC 6091) are in no maintained library: the byte strings in `crates/tls12/src/codec` are those\n\
         of GnuTLS 3.5 and of the RFC.\n",
        versions()
    )
}

fn without_versions(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with(VERSIONS)).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_document_says_what_is_measured() {
    let rows = rows::all();
    let (cells, faults) = measure(&rows);
    assert!(faults.is_empty(), "{} cells failed:\n{}", faults.len(), faults.join("\n"));
    let measured = document(&rows, &cells);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/interop.md");
    if std::env::var_os("INTEROP_WRITE").is_some() {
        std::fs::write(&path, &measured).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let (written, measured) = (without_versions(&written), without_versions(&measured));
    for (line, (says, is)) in written.lines().zip(measured.lines()).enumerate() {
        assert_eq!(says, is, "docs/interop.md, line {}: INTEROP_WRITE=1 writes it anew", line + 1);
    }
    assert_eq!(written.lines().count(), measured.lines().count());
}
