//! Whether somebody listens for datagrams at an address: a socket is bound to it that is not connected.
//!
//! Only the kernel's table says so. That an address cannot be bound may also be due to peers of a tunnel that has
//! ended, whose sessions go on.

use std::net::{IpAddr, SocketAddr};

/// State of a socket that is not connected, in the kernel's table.
const UNCONNECTED: &str = "07";

/// Whether somebody listens there, as far as can be known: yes, if it cannot.
pub(super) fn anybody(address: SocketAddr) -> bool {
    let read = |file| std::fs::read_to_string(file);
    match (read("/proc/net/udp"), read("/proc/net/udp6")) {
        (Ok(four), six) => in_table(&four, address) || in_table(&six.unwrap_or_default(), address),
        (Err(_), _) => true,
    }
}

/// Whether a table like /proc/net/udp has a socket that is not connected, and gets what is sent to `address`.
fn in_table(table: &str, address: SocketAddr) -> bool {
    table.lines().skip(1).any(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (local, state) = (columns.next().and_then(parse), columns.nth(1));
        state == Some(UNCONNECTED) && local.is_none_or(|local| overlap(local, address))
    })
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (one, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && (one == other || one.is_unspecified() || other.is_unspecified())
}

/// An address as the kernel writes it: words of 32 bits as this machine has them, and the port.
fn parse(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match ip.len() {
        8 => word(0)?.into(),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[n * 4..n * 4 + 4].copy_from_slice(&word(n * 8)?);
            }
            bytes.into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn the_kernels_table_is_understood() {
        for at in ["127.0.0.1:0", "[::1]:0", "[::]:0", "0.0.0.0:0"] {
            // A machine may be without IPv6.
            let Ok(socket) = UdpSocket::bind(at) else { continue };
            let address = socket.local_addr().unwrap();
            assert!(anybody(address), "{address}");
            assert!(anybody(SocketAddr::new("0.0.0.0".parse().unwrap(), address.port())));
            let peer = UdpSocket::bind(if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" });
            socket.connect(peer.unwrap().local_addr().unwrap()).unwrap();
            assert!(!anybody(socket.local_addr().unwrap()), "{address} is connected");
        }
    }

    #[test]
    fn what_is_not_understood_counts() {
        let address = "127.0.0.1:5353".parse().unwrap();
        let table = |local: &str, state: &str| {
            format!("  sl  local rem st\n    1: {local} 00000000:0000 {state} 00000000:00000000\n")
        };
        assert!(in_table(&table("?", "07"), address));
        assert!(!in_table(&table("?", "01"), address));
        assert!(!in_table("", address));
    }
}
