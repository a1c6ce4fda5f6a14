//! What the kernel tells of a process.

use std::fs;

/// Whether it runs (one that has ended and was not waited for does not).
pub(crate) fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| !status.contains("State:\tZ"))
}

/// So many descriptors have room in the kernel's table for this process.
pub(crate) fn room_for_descriptors(pid: u32) -> u64 {
    number(pid, "FDSize:")
}

/// A line of its status.
fn number(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(key)).expect("a known line");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) descriptors: usize,
    pub(crate) threads: u64,
    pub(crate) rss_kib: u64,
}

impl Holdings {
    pub(crate) fn of(pid: u32) -> Self {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("it is ours").count();
        Self { descriptors, threads: number(pid, "Threads:"), rss_kib: number(pid, "VmRSS:") }
    }
}
