//! The line by which a program answers that authorizes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_lookup::authorize::Asked;
use tlspool_lookup::authorize::program::read_line;

fuzz_target!(|data: &[u8]| {
    let asked = read_line(data);
    // Whoever is let in was let in by these letters.
    if matches!(asked, Asked::Opinion(true, _)) {
        assert!(data.windows(4).any(|word| word == b"true"));
    }
    let (Asked::Opinion(_, why) | Asked::Unreachable(why) | Asked::Failed(why)) = asked else {
        return;
    };
    assert!(why.len() < 400 && !why.chars().any(char::is_control), "{why:?}");
});
