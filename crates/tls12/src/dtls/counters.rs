//! What happened on the way, for logs and tests.

/// How often each thing happened to a transport since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records that came and were good.
    pub records: u64,
    /// Datagrams that held no record, or something behind the last one; records that are too long.
    pub malformed: u64,
    /// Records that came before, or are too old to tell.
    pub replayed: u64,
    /// Records that nobody with the key sent, or that were damaged.
    pub forged: u64,
    /// Records of an epoch that is over, or that is not near.
    pub other_epoch: u64,
    /// Records that came before their time and did not fit among those that wait.
    pub early: u64,
    /// Records and fragments that make no sense where they are.
    pub senseless: u64,
    /// Fragments of messages that came before.
    pub repeated: u64,
    /// Flights that we sent again.
    pub resent: u64,
    /// How often the datagrams of the handshake were made smaller.
    pub shrunk: u64,
}
