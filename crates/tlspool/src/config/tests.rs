//! The configuration file as people write it, right and wrong.

use super::*;
use std::collections::BTreeSet;

const MANUAL: &str = include_str!("../../../../man/tlspool.toml.5");
const EXAMPLE: &str = include_str!("../../../../etc/tlspool.toml.example");

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("t.toml")).map_err(|e| e.to_string())
}

/// The example with the `#` of every line that is a key or a section taken away.
fn uncommented(example: &str) -> String {
    example
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.starts_with(' ') && !rest.is_empty())
                .unwrap_or(line)
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Every key of a value with the tables it stands in; an array of tables counts once.
fn keys(value: &serde_json::Value, prefix: &str, found: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (name, inner) in map {
                let path =
                    if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                found.insert(path.clone());
                keys(inner, &path, found);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| keys(item, prefix, found)),
        _ => {}
    }
}

/// A configuration that has one of everything, so that every key shows up in its JSON.
fn full() -> Config {
    let path = |p: &str| AbsolutePath::new(p).unwrap();
    let mut config = Config::defaults();
    config.keys.modules.push(Module { path: path("/m.so"), args: None });
    config.dns = Some(Dns::default());
    config.authorization.program = Some(AuthorizingProgram::at(path("/a.sock")));
    config.authorization.radius = Some(Radius::with(Vec::new(), path("/secret")));
    config.on_the_fly = Some(OnTheFly {
        certificate: SafeUri("file:/c".into()),
        key: SafeUri("file:/k".into()),
        identity_key: SafeUri("file:/i".into()),
        lifetime: Duration::from_secs(1),
    });
    config.privacy.rules.push(PrivacyRule {
        remote: None,
        service: String::new(),
        mode: PrivacyMode::Off,
    });
    config
}

fn all_keys() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(&serde_json::to_value(full()).unwrap(), "", &mut found);
    found
}

#[test]
fn the_example_shows_every_key() {
    let text = uncommented(EXAMPLE);
    parse(&text).unwrap();
    let value = serde_json::to_value(toml::from_str::<toml::Table>(&text).unwrap()).unwrap();
    let mut shown = BTreeSet::new();
    keys(&value, "", &mut shown);
    let missing: Vec<_> = all_keys().difference(&shown).cloned().collect();
    assert!(missing.is_empty(), "not in etc/tlspool.toml.example: {missing:?}");
}

#[test]
fn the_example_as_it_is_changes_nothing() {
    assert_eq!(parse(EXAMPLE).unwrap(), Config::defaults());
}

#[test]
fn the_values_in_the_example_are_the_defaults() {
    let config = parse(&uncommented(EXAMPLE)).unwrap();
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.tls, Tls::default());
    let (program, radius) = (config.authorization.program, config.authorization.radius);
    let authorization = Authorization { program: None, radius: None, ..config.authorization };
    assert_eq!(authorization, Authorization::default());
    let (program, radius) = (program.unwrap(), radius.unwrap());
    assert_eq!(program, AuthorizingProgram::at(program.socket.clone()));
    assert_eq!(radius, Radius::with(radius.servers.clone(), radius.secret_file.clone()));
    assert_eq!(config.log, Log::default());
    assert_eq!(config.confinement, Confinement::default());
    assert_eq!(config.debug, Debug::default());
    let (dns, cache) = (config.dns.unwrap(), config.cache);
    assert_eq!(Dns { tls_anchors: None, root_anchor: None, ..dns }, Dns::default());
    assert_eq!(config.http, Http::default());
    assert_eq!(config.ldap, Ldap::default());
    assert_eq!(Cache { key_file: None, ..cache }, Cache::default());
    assert_eq!(Keys { modules: Vec::new(), ..config.keys }, Keys::default());
}

#[test]
fn json_carries_everything_to_the_other_processes() {
    let config = parse(&uncommented(EXAMPLE)).unwrap();
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
}

#[test]
fn misspelt_keys_are_named_with_their_place_and_the_right_word() {
    assert_eq!(
        parse("version = 1\n\n[limits]\nhandshake_timout = \"3s\"\n").unwrap_err(),
        "t.toml:4:1: limits.handshake_timout: there is no such key; did you mean `handshake_timeout`?"
    );
    assert_eq!(
        parse("[[socket]]\npath = \"/a\"\n[[socket]]\npath = \"/b\"\n  moed = \"0600\"\n")
            .unwrap_err(),
        "t.toml:5:3: socket.moed: there is no such key; did you mean `mode`?"
    );
    let error = parse("colour = 1").unwrap_err();
    assert!(
        error.starts_with(
            "t.toml:1:1: colour: there is no such key; the keys here are version, user"
        ),
        "{error}"
    );
}

#[test]
fn bad_values_are_named_with_what_would_be_right() {
    for (text, place, right) in [
        (
            "[limits]\ndrain_timeout = 30",
            "t.toml:2:17: limits.drain_timeout:",
            "a duration such as",
        ),
        (
            "[limits]\ndrain_timeout = \"soon\"",
            "t.toml:2:17: limits.drain_timeout:",
            "a duration such as",
        ),
        ("[limits]\nclients = 0", "t.toml:2:11: limits.clients:", "a number from 1 up"),
        ("[limits]\nclients = -4", "t.toml:2:11: limits.clients:", "u32"),
        ("workers = 1000", "t.toml:1:11: workers:", "from 1 to 128"),
        ("version = 2", "t.toml:1:11: version:", "the only version"),
        ("[[socket]]\npath = \"x.sock\"", "t.toml:2:8: socket.path:", "an absolute path"),
        ("[[socket]]\npath = \"/x\"\nmode = \"rw\"", "t.toml:3:8: socket.mode:", "\"0660\""),
        ("[log]\ntarget = \"file\"", "t.toml:2:10: log.target:", "\"journald\", \"syslog\""),
        ("[[socket]]\nmode = \"0660\"", "t.toml:1:1: socket:", "`path` is missing"),
        (
            "[limits]\nclients = 5\nclients_per_user = 9",
            "t.toml:3:20: limits.clients_per_user:",
            "5 or less",
        ),
        (
            "[[socket]]\npath=\"/a\"\n[[socket]]\npath=\"/a\"",
            "t.toml:4:6: socket.1.path:",
            "leave one out",
        ),
        ("[authorization]\ndefault = \"no\"", "t.toml:2:11: authorization.default:", "\"deny\""),
        (
            "[authorization.radius]\nservers = []\nsecret_file = \"/s\"",
            "t.toml:2:11: authorization.radius.servers:",
            "from 1 to 8",
        ),
        (
            "[authorization.radius]\nservers = [\"radius.example\"]\nsecret_file = \"/s\"",
            "t.toml:2:12: authorization.radius.servers",
            "an address such as",
        ),
        (
            "[authorization.program]\nsocket = \"a\"",
            "t.toml:2:10: authorization.program.socket:",
            "/",
        ),
        ("socket = []", "t.toml:1:10: socket:", "from 1 to 64"),
        ("[dns]\nforwarders = [\"dns.example\"]", "t.toml:2:15: dns.forwarders", "an address such"),
        ("[dns]\n[http]\ncrl_bytes = 99999999", "t.toml:3:13: http.crl_bytes:", "at most"),
        ("[ldap]\nentries = 5", "t.toml:1:1: ldap:", "add a [dns] section"),
        (
            "[dns]\n[cache]\nservers = [\"127.0.0.1\"]",
            "t.toml:3:11: cache.servers:",
            "cache.key_file",
        ),
        ("[limits\n", "t.toml:1:8: ", "]"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(place), "{text:?}: {error}");
        assert!(error.contains(right), "{text:?}: {error}");
    }
}

#[test]
fn a_file_that_was_named_must_exist() {
    let error = Config::load(Some(Path::new("/nonexistent/t.toml"))).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/t.toml") && error.contains("-c"), "{error}");
}

#[test]
fn the_manual_has_every_key() {
    let lines = || {
        MANUAL
            .lines()
            .filter_map(|line| line.strip_prefix(".It Va "))
            .flat_map(|keys| keys.split([' ', ',']))
    };
    let described: BTreeSet<&str> = lines().collect();
    let sections: BTreeSet<&str> = MANUAL
        .lines()
        .filter_map(|line| line.strip_prefix(".Ss ["))
        .map(|name| name.trim_matches(['[', ']']))
        .collect();
    for key in all_keys() {
        let name = key.rsplit('.').next().unwrap();
        assert!(
            described.contains(name) || sections.contains(key.as_str()),
            "{key} is not in man/tlspool.toml.5"
        );
    }
}

#[test]
fn a_time_in_which_nothing_can_be_done_is_refused() {
    let refused = |section: &str, key: &str, value: &str| {
        let error = parse(&format!("[{section}]\n{key} = \"{value}\"\n")).unwrap_err();
        assert!(error.contains("at least"), "{key}: {error}");
    };
    for key in ["handshake_timeout", "callback_timeout", "datagram_idle_timeout"] {
        refused("limits", key, "0s");
        parse(&format!("[limits]\n{key} = \"1ms\"\n")).unwrap();
    }
    for value in ["0s", "999ms"] {
        refused("keys", "module_timeout", value);
    }
    parse("[keys]\nmodule_timeout = \"1s\"\n[limits]\ndrain_timeout = \"0s\"\n").unwrap();
}
