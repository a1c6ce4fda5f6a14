//! The memory file for PINs, damaged in any way.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use tlspool_keys::pin::PinMemory;

fuzz_target!(|data: &[u8]| {
    let file = memfd_create("pins", MemfdFlags::CLOEXEC).expect("a memory file");
    rustix::io::write(&file, data).expect("room");
    for keep_pins in [true, false] {
        drop(PinMemory::restore(file.try_clone().ok(), keep_pins));
    }
});
