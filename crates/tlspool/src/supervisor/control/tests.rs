use super::*;
use std::process::{Command, Stdio};

/// A filter that permits everything, for this thread and what it starts.
fn confine() {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let calls = [(libc::SYS_reboot, vec![])].into();
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, SeccompAction::Log, arch);
    rustix::thread::set_no_new_privs(true).unwrap();
    seccompiler::apply_filter(&BpfProgram::try_from(filter.unwrap()).unwrap()).unwrap();
}

#[test]
fn who_is_more_confined_may_not_succeed() {
    let peer = |pid| {
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        UCred { pid, uid, gid }
    };
    let cat = || {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    };
    let (mut open, mut confined) = (
        cat(),
        std::thread::spawn(move || {
            confine();
            cat()
        })
        .join()
        .unwrap(),
    );
    let [one, other] =
        [&open, &confined].map(|child| may_succeed(&peer(rustix::process::Pid::from_child(child))));
    for child in [&mut open, &mut confined] {
        drop(child.stdin.take());
        child.wait().unwrap();
    }
    one.unwrap();
    assert!(other.unwrap_err().contains("is confined"));
    may_succeed(&peer(rustix::process::getpid())).unwrap();
}

#[tokio::test]
async fn a_connection_is_known_until_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = AbsolutePath::new(dir.path().join("control")).unwrap();
    let socket = ControlSocket::bind(&path).unwrap();
    let (requests, mut asked) = mpsc::channel(4);
    let serving = tokio::spawn(async move { socket.serve(&requests).await });
    let client = ControlClient::connect(&path).unwrap();
    client.channel.send(&ControlRequest::Status, &[]).unwrap();
    let first = asked.recv().await.unwrap();
    assert_eq!(first.peer.pid, rustix::process::getpid());
    assert!(first.connection.is_open() && first.connection.is(&first.connection));
    assert!(!first.connection.is(&Connection::default()));
    let connection = first.connection.clone();
    drop((first, client));
    while connection.is_open() {
        tokio::task::yield_now().await;
    }
    assert!(!connection.is(&connection.clone()));
    serving.abort();
}
