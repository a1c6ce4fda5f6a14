use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};

use tlspool_wire::{Lidentry, Pinentry, Starttls};
use tokio::runtime::{Builder, LocalOptions};

use super::*;
use crate::config::Config;
use crate::net::limits::Meter;
use crate::net::program::ProgramDesk;
use crate::net::settings::Settings;
use crate::net::worker::{Start, WorkerHandle};

#[test]
fn what_belongs_to_a_connection_ends_with_a_panic_too() {
    let (here, _there) = UnixStream::pair().unwrap();
    let peer = Peer::of(here.as_fd()).unwrap();
    let counted = Arc::<Meter>::default().take(peer.uid, 10, 10).ok().unwrap();
    let client = Client::new(Arc::new(here.into()), peer, counted);
    let (pins, choosers) = (Arc::<PinDesk>::default(), Arc::<ChooserDesk>::default());
    let in_flight = client.begin(10).unwrap();
    pins.register(&client, 1, &Pinentry::default(), in_flight).unwrap();
    choosers.register(&client, 2, &Lidentry::default()).unwrap();
    assert!(pins.is_attended() && choosers.flags_for(client.uid()).is_some());
    let ends = Ends { client: client.clone(), pins: pins.clone(), choosers: choosers.clone() };
    let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
    let ended: Result<(), _> = runtime.block_on(async {
        let task = tokio::task::spawn_local(async move {
            let _ends = ends;
            tokio::task::yield_now().await;
            panic!("as if a record did this");
        });
        task.await
    });
    assert!(ended.unwrap_err().is_panic());
    assert!(client.gone.is_requested());
    assert!(!pins.is_attended() && choosers.flags_for(client.uid()).is_none());
}

/// A worker in a process that has no others, and no key process.
fn worker() -> Rc<Worker> {
    let settings = Settings::new(Config::default(), None).unwrap();
    let workers = [(); 2].map(|()| WorkerHandle::new());
    let (handles, mut starts): (Vec<_>, Vec<_>) =
        workers.into_iter().map(|(handle, tasks, seen)| (handle, (tasks, seen))).unzip();
    let (unattended, _) = tokio::sync::mpsc::unbounded_channel();
    let shared = Arc::new(Shared::new(settings, handles, unattended, ProgramDesk::new().0));
    let (tasks, seen) = starts.remove(1);
    let (key_channel, _) = UnixDatagram::pair().unwrap();
    let start = Start { index: 1, shared, key_channel: key_channel.into(), tasks, seen };
    Worker::new(start).unwrap().0
}

#[test]
fn what_was_sent_just_before_the_pool_stopped_reading_is_sent_back() {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let worker = worker();
        let sharing = worker.clone();
        tokio::task::spawn_local(async move { sharing.fairness.share_out().await });
        let (here, mut there) = UnixStream::pair().unwrap();
        let peer = Peer::of(here.as_fd()).unwrap();
        let counted = worker.shared.clients.take(peer.uid, 10, 10).ok().unwrap();
        let arrival = Arrival::new(&worker.shared, here.into(), peer, counted);
        let request = Packet { reqid: 7, cbid: 0, body: Body::Starttls(Starttls::default()) };
        there.write_all(&request.encode()).unwrap();
        worker.shared.begin_draining();
        arrival.client.stop_reading();
        let late = there.write_all(&request.encode()).unwrap_err();
        assert_eq!(late.kind(), std::io::ErrorKind::BrokenPipe);
        serve(worker, arrival).await;
        let mut said = Vec::new();
        there.read_to_end(&mut said).unwrap();
        let answer = Packet::decode(said.first_chunk().unwrap()).unwrap();
        let Body::Error(error) = answer.body else { panic!("{answer:?}") };
        assert_eq!((answer.reqid, error.code), (7, PoolError::Draining.code()));
        assert_eq!(said.len(), tlspool_wire::RECORD_LEN, "and nothing else");
    });
}
