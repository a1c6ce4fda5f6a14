//! Names that look like another's: hidden characters, wildcards where none may be, letters of another script. Their
//! certificates are the trusted authority's, so nothing but the name speaks against them.

use rcgen::SanType;
use tlspool_tests::app::Outcome;
use tlspool_tests::authority::{Leaf, algorithm};
use tlspool_tests::{Authority, House};

use super::world::{Meet, meet_pools, pools, serve, trust_openpgp};

fn odd(authority: &Authority, sans: Vec<SanType>) -> Leaf {
    authority.leaf_with("odd", &algorithm::P256, |params| params.subject_alt_names = sans)
}

fn dns_name(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

#[test]
fn servers_whose_names_only_look_right() {
    let (judge, other) = pools();
    let daemon = judge.start();
    let mut wrong = Vec::new();
    for (wanted, san) in [
        // Some end a name at a NUL.
        ("www.example.com", "www.example.com\0.evil.example"),
        ("www.example.com", "www.example.com\0"),
        ("www.example.com", "\0www.example.com"),
        ("www.example.com", "www.example.com\n"),
        // A wildcard is the whole left-most label, below a domain that is somebody's.
        ("www.example.com", "w*.example.com"),
        ("www.example.com", "*w.example.com"),
        ("www.example.com", "w*w.example.com"),
        ("www.example.com", "www.*.com"),
        ("www.example.com", "www.example.*"),
        ("www.example.com", "*.*.com"),
        ("www.example.com", "*.com"),
        ("example.com", "*.com"),
        ("www.example.com", "*"),
        ("www.example.com", "**.example.com"),
        ("example.com", "*.example.com"),
        ("a.www.example.com", "*.example.com"),
        // A Cyrillic letter in it, as the DNS writes it; and letters that were never lower case.
        ("www.example.com", "www.xn--exmple-4nf.com"),
        ("www.example.com", "WWW.EXAMPLE.COM.evil.example"),
        ("www.example.com", "www.example.com.."),
        ("www.example.com", ".www.example.com"),
        ("www.example.com", "www.example.com:443"),
        ("www.example.com", "https://www.example.com"),
    ] {
        let (_server, port) = serve(&odd(judge.authority(), vec![dns_name(san)]), &[]);
        for service in ["identity", "pkix", "identity-opt"] {
            if meet_pools(&judge, &other, Meet::Openssl(port), wanted, service).is_ok() {
                wrong.push(format!("{san:?} is believed to be {wanted} by {service}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Those that are right, to see that the peers are.
    for (wanted, san) in
        [("www.example.com", "*.example.com"), ("www.example.com", "WWW.example.COM")]
    {
        let (_server, port) = serve(&odd(judge.authority(), vec![dns_name(san)]), &[]);
        meet_pools(&judge, &other, Meet::Openssl(port), wanted, "identity").unwrap();
    }
    daemon.stop();
}

/// Whether `shown` is believed when `wanted` is to come; it shows the certificate of its row `wanted`.
fn comes(judge: &House, other: &House, wanted: &str) -> Outcome<()> {
    meet_pools(judge, other, Meet::Caller, wanted, "identity")
}

#[test]
fn users_whose_names_only_look_right() {
    let (judge, other) = pools();
    let daemons = [judge.start(), other.start()];
    let john = "john@example.com";
    for san in [
        "john@example.com\0@evil.example",
        "john\0@example.com",
        "john@example.com\0",
        "john@example.com\n",
        "john@*.com",
        "*@example.com",
        "john@evil.example@example.com",
        "john@xn--exmple-4nf.com",
    ] {
        let leaf = odd(judge.authority(), vec![SanType::Rfc822Name(san.try_into().unwrap())]);
        other.add(john, &leaf);
        comes(&judge, &other, john).expect_err(san);
        other.good(&["identity", "remove", john]);
    }
    other.identity(john);
    comes(&judge, &other, john).unwrap();
    other.good(&["identity", "remove", john]);

    // OpenPGP user IDs may have letters of any script: that of another is another user, whoever trusts the key.
    let token = other.token("odd");
    let cyrillic = "j\u{43e}hn@example.com";
    other.good(&["identity", "create", cyrillic, "--openpgp", "--one-key", "--token", &token]);
    let armored = other.good(&["identity", "export", cyrillic, "--armor"]);
    trust_openpgp(&judge, &armored);
    comes(&judge, &other, cyrillic).unwrap();
    let row = other.good(&["identity", "show", cyrillic, "--json"]);
    let row: serde_json::Value = serde_json::from_str(&row).unwrap();
    let file = other.write("cyrillic.asc", &armored);
    let (file, key) = (file.to_str().unwrap(), row["key"].as_str().unwrap());
    other.good(&["identity", "add", john, "--openpgp", file, "--key", key]);
    let refused = comes(&judge, &other, john).unwrap_err().to_string();
    assert!(refused.contains("the peer is not john@example.com"), "{refused}");
    for daemon in daemons {
        daemon.stop();
    }
}
