//! docs/authorization.md: every command on `tlspool authorize` in it does what it says, in the order of the page.

use tlspool_tests::House;
use tlspool_tests::binaries::workspace;

/// Commands as they stand on the page, without the comments behind them.
fn commands() -> Vec<String> {
    let page = std::fs::read_to_string(workspace().join("docs/authorization.md")).unwrap();
    let lines = page.lines().filter_map(|line| line.strip_prefix("    tlspool authorize "));
    lines.map(|line| line.split(" #").next().unwrap().trim().to_owned()).collect()
}

/// The words of a command; a text in single quotes is one.
fn words(command: &str) -> Vec<String> {
    let parts = command.split('\'').enumerate();
    let words = parts.flat_map(|(n, part)| match n % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

#[test]
fn the_commands_of_the_page_work() {
    let house = House::new();
    let mut exported = String::new();
    let commands = commands();
    assert!(commands.len() >= 12, "{commands:?}");
    for command in commands {
        let words = words(&command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let run = |words: &[&str]| house.run(&[&["authorize"], words].concat());
        match words.as_slice() {
            ["check", "--nameless", ..] => {
                let said = run(&words);
                assert!(!said.ok && said.err.contains("by rule 4"), "{command}: {}", said.err);
            }
            ["check", ..] => {
                let said = run(&words);
                let line = "authorization: allow, by rule 1: allow john@example.org for imap";
                assert!(said.ok && said.out.contains(line), "{command}: {}", said.out);
            }
            ["export", ">", _] => exported = run(&["export"]).out,
            ["import", _] => {
                let other = House::new();
                other.write("rules", &exported);
                other.good(&["authorize", "import", &other.text("rules")]);
                assert_eq!(other.good(&["authorize", "export"]), exported);
            }
            words => {
                let said = run(words);
                assert!(said.ok, "{command}: {}", said.err);
            }
        }
    }
    // What the page says of them.
    let allowed = |more: &[&str]| house.run(&[&["authorize", "check"], more].concat()).ok;
    assert!(allowed(&["jane@example.org", "--service", "imap"]));
    assert!(allowed(&["ann@staff.example.org", "--service", "imap"]));
    assert!(!allowed(&["mallory@staff.example.org", "--service", "imap"]));
    assert!(!allowed(&["ann@example.org", "--service", "imap"]));
    assert!(!allowed(&["ben@example.net", "--local", "mail.example.com"]));
    assert!(allowed(&["ann@example.net", "--local", "mail.example.com"]));
    assert!(!allowed(&["ann@example.net", "--local", "www.example.com"]));
}
