//! Any message as the answer to a DNS question, its proofs taken for verified.
//!
//! Input: the type asked for (two bytes), the name with its length in front, the message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_fuzz::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let kind = input.short();
    let name = String::from_utf8_lossy(input.piece()).into_owned();
    tlspool_lookup::dns::fuzz_answer(input.0.to_vec(), &name, kind);
});
