//! Network namespaces: machines of their own, as far as the network can tell.
//!
//! A process belongs to the namespace of the thread that started it, and a socket to that of the thread that
//! made it, for ever. So a test enters a namespace to start daemons and servers, to listen and to dial, and
//! holds what comes out of it outside.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::is_root;
use crate::process::{Process, run};

/// Set in a process that is within a user namespace for this.
const INSIDE: &str = "TLSPOOL_TEST_INSIDE";

/// A network namespace. It is gone when nobody holds it any more: no file, process or socket.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    /// Its address, which the other reaches.
    pub address: IpAddr,
}

/// Runs the test called `name` where namespaces can be made: here if we are root, else as another process
/// in a user namespace. It fails if the system permits neither.
pub fn with_namespaces(name: &str, test: impl FnOnce()) {
    if is_root() || std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let this = std::env::current_exe().expect("the name of this test");
    let said = run(Command::new("unshare")
        .args(["--user", "--map-current-user", "--keep-caps", "--net", "--"])
        .arg(this)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1"));
    assert!(
        said.ok && said.out.contains("1 passed"),
        "{name} makes network namespaces, which root may, and others in a user namespace if the system \
         permits them: {}{}",
        said.out,
        said.err
    );
}

/// Two namespaces, each with a loopback interface, joined by a cable.
pub fn pair() -> [Namespace; 2] {
    // RFC 5737: addresses for documentation.
    let addresses = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
    let holders = addresses.map(|_| {
        let holder =
            Process::start(Command::new("unshare").args(["--net", "sh", "-c", "echo made && cat"]));
        holder.await_words("made");
        holder
    });
    let namespaces = [0, 1].map(|n: usize| {
        let path = format!("/proc/{}/ns/net", holders[n].pid());
        let file = File::open(path).expect("the holder runs");
        Namespace { file, address: addresses[n] }
    });
    let far = holders[1].pid().to_string();
    let cable = ["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &far];
    namespaces[0].ip(&cable);
    for namespace in &namespaces {
        namespace.ip(&["address", "add", &format!("{}/24", namespace.address), "dev", "cable"]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace.ip(&["link", "set", "cable", "up"]);
    }
    namespaces
}

impl Namespace {
    /// Does `work` on a thread in this namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(self.file.as_fd(), network).expect("a namespace of ours");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// How many UDP datagrams have arrived here, over any interface. Whoever asks the DNS leaves a trace in it.
    pub fn datagrams(&self) -> u64 {
        let text = self.enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"));
        let text = text.expect("the kernel counts");
        // Udp: InDatagrams NoPorts ... / Udp: 12 0 ...
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let mut columns = names.split(' ').zip(values.split(' '));
        let (_, value) = columns.find(|(name, _)| *name == "InDatagrams").expect("it is counted");
        value.parse().expect("a number")
    }

    fn ip(&self, arguments: &[&str]) {
        let said = self.enter(|| run(Command::new("ip").args(arguments)));
        assert!(said.ok, "ip {arguments:?}: {}", said.err);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn two_machines_on_one_cable() {
        with_namespaces("netns::tests::two_machines_on_one_cable", || {
            let [one, two] = pair();
            let listener = one.enter(|| TcpListener::bind((one.address, 0)).unwrap());
            let place = listener.local_addr().unwrap();
            // Nobody is at this address outside, and at the loopback address of the other.
            two.enter(|| TcpStream::connect(("127.0.0.1", place.port())).unwrap_err());
            let mut near = two.enter(|| TcpStream::connect(place).unwrap());
            near.write_all(b"x").unwrap();
            let mut byte = [0];
            listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
            assert_eq!(byte, *b"x");
            let receiver = one.enter(|| UdpSocket::bind((one.address, 0)).unwrap());
            let before = one.datagrams();
            let sender = two.enter(|| UdpSocket::bind((two.address, 0)).unwrap());
            sender.send_to(b"y", receiver.local_addr().unwrap()).unwrap();
            receiver.recv(&mut byte).unwrap();
            assert_eq!(one.datagrams(), before + 1);
        });
    }
}
