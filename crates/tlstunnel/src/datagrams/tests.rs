//! Who may have the tunnel's address, and who may not.

use std::net::SocketAddr;

use rustix::net::{bind, connect, getsockname, sockopt};

use super::{Sharing, bound, listener, unbound};

fn address(socket: &std::os::fd::OwnedFd) -> SocketAddr {
    getsockname(socket).unwrap().try_into().unwrap()
}

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// As any user can ask for, so that the kernel lets two of them have one address.
#[test]
fn a_socket_that_would_share_any_address_does_not_get_ours() {
    for server in [false, true] {
        let ours = listener(anywhere(), false, server).unwrap();
        let at = address(&ours);
        for (reuseport, may) in [(false, false), (true, server)] {
            let other = unbound(&at).unwrap();
            sockopt::set_socket_reuseaddr(&other, true).unwrap();
            // Only for sockets of this user does the kernel permit that.
            sockopt::set_socket_reuseport(&other, reuseport).unwrap();
            assert_eq!(bind(&other, &at).is_ok(), may, "server: {server}, port: {reuseport}");
        }
    }
}

#[test]
fn peers_share_the_servers_address_and_a_second_tunnel_does_not() {
    let first = listener(anywhere(), false, true).unwrap();
    let at = address(&first);
    let peer = bound(at, Sharing::OneUser).unwrap();
    let far = bound(anywhere(), Sharing::Nobody).unwrap();
    connect(&peer, &address(&far)).unwrap();
    for server in [false, true] {
        let error = listener(at, false, server).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    }
    // Sessions that outlive their tunnel do not keep the next from its address.
    drop(first);
    listener(at, false, true).unwrap();
}
