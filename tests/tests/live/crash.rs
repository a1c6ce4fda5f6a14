//! The look-up process is killed while sessions carry data and new ones are made: nobody notices.

use tlspool_client::StarttlsFlags;
use tlspool_tests::zones::{Signing, ZoneSet};
use tlspool_tests::{Authority, House};

use crate::load::Load;
use crate::raw::{Raw, client, server, with};
use crate::streams::Stream;
use crate::{dns, number, tlsa};

const KILLS: u64 = 4;
const STREAMS: usize = 4;
const LOADED: usize = 8;

#[test]
fn a_look_up_process_that_is_killed_is_not_missed() {
    let house = House::new();
    let stranger = Authority::new(&house.path("pki"), "stranger");
    let leaf = stranger.leaf("www.example.com");
    house.add("www.example.com", &leaf);
    let record = format!("*._tcp.www TLSA {}", tlsa(&leaf));
    let zones =
        ZoneSet::new().zone("example.com", Signing::Nsec, &["www A 127.0.0.1", &record]).serve();
    // Who waits for the look-up process has time, on a busy machine too.
    house.configure(&format!(
        "{}[validation]\ntimeout = \"50s\"\n[tls]\ntickets = 0\nclient_cache = 0\n",
        dns(&zones)
    ));
    let daemon = house.start();
    // Each of these is looked up anew.
    let (client, server) = (client("www.example.com"), server("www.example.com"));
    let client = with(client, StarttlsFlags::IGNORE_CACHES);
    let raw = Raw::connect(&house.socket()).unwrap();
    let load = Load::on(raw.pairs(LOADED, &client, &server).unwrap());
    let streams =
        [(); STREAMS].map(|()| Stream::of_raw(house.socket(), client.clone(), server.clone()));
    for stream in &streams {
        stream.await_more(2);
    }
    let network = number(&house.status(), "/daemon/network_pid");
    for kill in 0..KILLS {
        let pid = number(&house.status(), "/daemon/lookup_process_pid");
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        // It stands still until each stream waits for it, so that each has a question under way.
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        house.await_status("sessions", 2 * (LOADED + STREAMS) as u64);
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        load.await_rounds(1);
        house.await_status("daemon/lookup_process_restarts", kill + 1);
        // The wait before the next start is longer each time, but shorter than anybody's patience.
        for stream in &streams {
            stream.await_more(2);
        }
    }
    load.await_rounds(2);
    assert_eq!(number(&house.status(), "/daemon/network_pid"), network);
    for stream in streams {
        stream.stop_good();
    }
    drop((load.stop(), raw));
    let log = daemon.stop();
    assert_eq!(
        log.matches("the look-up process was killed by signal 9").count() as u64,
        KILLS,
        "{log}"
    );
}
