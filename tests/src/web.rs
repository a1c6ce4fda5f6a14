//! A web server on loopback for revocation: lists, and OCSP, which `openssl ocsp` answers behind it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread;

use crate::authority::Authority;
use crate::net::{limit, listen};
use crate::process::openssl;

/// Longest head of a request.
const MAX_HEAD: usize = 8192;

/// A request.
#[derive(Debug)]
pub struct Request {
    /// Its head, in lower case.
    pub head: String,
    /// The path.
    pub path: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Serves until the test ends: each request gets what `answer` makes of it; with none, the connection is closed.
pub fn serve(answer: impl Fn(&Request) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
    let (listener, address) = listen();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // Whoever goes away before the end is not our concern.
            let _ = stream.and_then(|stream| converse(stream, &answer));
        }
    });
    address
}

fn converse(
    mut stream: TcpStream,
    answer: &impl Fn(&Request) -> Option<Vec<u8>>,
) -> std::io::Result<()> {
    limit(&stream)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
    let head = text.to_lowercase();
    let length = head
        .split_once("content-length: ")
        .and_then(|(_, rest)| rest.lines().next()?.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let Some(body) = answer(&Request { head, path, body }) else { return Ok(()) };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat())
}

/// The answer to an OCSP request (RFC 6960), signed by the authority itself. `index` is its list of certificates
/// as `openssl ca` keeps it; `folder` is for files.
pub fn ocsp(authority: &Authority, index: &Path, folder: &Path, request: &[u8]) -> Vec<u8> {
    let [asked, answer] = ["ocsp-request", "ocsp-response"].map(|name| folder.join(name));
    std::fs::write(&asked, request).expect("a file");
    let text = |path: &Path| path.to_str().expect("temporary paths are text").to_owned();
    openssl(&[
        "ocsp",
        "-index",
        &text(index),
        "-CA",
        authority.certificate(),
        "-rsigner",
        authority.certificate(),
        "-rkey",
        authority.key(),
        "-reqin",
        &text(&asked),
        "-respout",
        &text(&answer),
        "-ndays",
        "2",
    ]);
    std::fs::read(&answer).expect("openssl wrote it")
}
