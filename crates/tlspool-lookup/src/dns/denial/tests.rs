//! Proofs made here; real ones are in the end-to-end tests.

use hickory_resolver::proto::rr::RecordType::{A, CNAME, DNAME, DS, NS, SOA, TLSA};

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// Records of `example.`: owner, next, types.
fn nsec(records: &[(&str, &str, &[RecordType])]) -> Denials {
    let nsec = |(owner, next, types): &(&str, &str, &[RecordType])| {
        (name(owner), NSEC::new(name(next), types.iter().copied()))
    };
    Denials {
        zone: name("example."),
        nsec: records.iter().map(nsec).collect(),
        nsec3: vec![],
        lasts: None,
    }
}

const SALT: &[u8] = &[0xaa, 0xbb];

fn hash(text: &str) -> Vec<u8> {
    Nsec3HashAlgorithm::SHA1.hash(SALT, &name(text), 1).unwrap().as_ref().to_vec()
}

/// One record from the hash `from` to the hash `to`.
fn hashed(from: &[u8], to: &[u8], opt_out: bool, types: &[RecordType]) -> (Name, NSEC3) {
    let owner = name(&format!("{}.example.", BASE32_DNSSEC.encode(from)));
    let algorithm = Nsec3HashAlgorithm::SHA1;
    let types = types.iter().copied();
    (owner, NSEC3::new(algorithm, opt_out, 1, SALT.to_vec(), to.to_vec(), types))
}

/// A record at `text`, and nothing said about names beside it.
fn at(text: &str, types: &[RecordType]) -> (Name, NSEC3) {
    let mut next = hash(text);
    step(&mut next, true);
    hashed(&hash(text), &next, false, types)
}

/// A record that covers `text` and hardly anything else.
fn over(text: &str, opt_out: bool) -> (Name, NSEC3) {
    let (mut from, mut to) = (hash(text), hash(text));
    step(&mut from, false);
    step(&mut to, true);
    hashed(&from, &to, opt_out, &[A])
}

fn step(hash: &mut [u8], up: bool) {
    for byte in hash.iter_mut().rev() {
        let (next, carry) = if up { byte.overflowing_add(1) } else { byte.overflowing_sub(1) };
        *byte = next;
        if !carry {
            return;
        }
    }
}

fn nsec3(records: Vec<(Name, NSEC3)>) -> Denials {
    Denials { zone: name("example."), nsec: vec![], nsec3: records, lasts: None }
}

#[test]
fn nsec_names_and_types() {
    let zone: &[(&str, &str, &[RecordType])] = &[
        ("example.", "a.example.", &[SOA, NS]),
        ("a.example.", "b.example.", &[A]),
        ("b.example.", "x.d.example.", &[NS]),
        ("x.d.example.", "e.example.", &[A]),
        ("e.example.", "f.example.", &[DNAME]),
        ("f.example.", "*.w.example.", &[CNAME]),
        ("*.w.example.", "z.example.", &[A]),
        ("z.example.", "example.", &[NS, DS]),
    ];
    let all = nsec(zone);
    for (asked, kind, expected) in [
        ("a.example.", TLSA, Ok(Denied::Type)),
        ("a.example.", A, Err("the records exist")),
        ("f.example.", TLSA, Err("there is an alias")),
        ("aa.example.", TLSA, Ok(Denied::Name)),
        ("AA.example.", TLSA, Ok(Denied::Name)),
        ("zz.z.example.", TLSA, Err("no NSEC record is about the name")),
        ("zz.example.", TLSA, Ok(Denied::Name)),
        // Something is below it.
        ("d.example.", TLSA, Ok(Denied::Type)),
        ("w.example.", TLSA, Ok(Denied::Type)),
        // A wildcard with another type.
        ("any.w.example.", TLSA, Ok(Denied::Type)),
        ("any.w.example.", A, Err("the records exist")),
        // At and below a zone cut this zone knows only whether there is a DS record.
        ("b.example.", TLSA, Err("the proof is from above the zone cut")),
        ("b.example.", DS, Ok(Denied::Delegation)),
        ("z.example.", DS, Err("the records exist")),
        ("x.b.example.", TLSA, Err("no NSEC record is about the name")),
        ("x.b.example.", DS, Err("no NSEC record is about the name")),
        ("x.e.example.", TLSA, Err("no NSEC record is about the name")),
        // No zone, so no DS; and the zone itself does not know its own.
        ("a.example.", DS, Ok(Denied::Type)),
        ("example.", DS, Err("the proof is from below the zone cut")),
        ("a.elsewhere.", TLSA, Err("the proof is another zone's")),
    ] {
        assert_eq!(all.prove(&name(asked), kind), expected, "{asked} {kind}");
    }
    // Each record that a proof needs is needed.
    let needed = &[zone[1], zone[0]];
    assert_eq!(nsec(needed).prove(&name("aa.example."), TLSA), Ok(Denied::Name));
    assert!(nsec(&needed[..1]).prove(&name("aa.example."), TLSA).is_err());
    assert!(nsec(&needed[1..]).prove(&name("aa.example."), TLSA).is_err());
    assert!(nsec(&[]).prove(&name("aa.example."), TLSA).is_err());
}

#[test]
fn the_only_name_of_a_zone() {
    let alone = nsec(&[("example.", "example.", &[SOA, NS])]);
    assert_eq!(alone.prove(&name("a.example."), TLSA), Ok(Denied::Name));
    assert_eq!(alone.prove(&name("example."), TLSA), Ok(Denied::Type));
}

#[test]
fn nsec3_names_and_types() {
    let apex = || at("example.", &[SOA, NS]);
    let denied = [apex(), over("a.example.", false), over("*.example.", false)];
    let prove = |records: &[(Name, NSEC3)], asked: &str, kind| {
        nsec3(records.to_vec()).prove(&name(asked), kind)
    };
    for asked in ["a.example.", "x.a.example.", "y.x.a.example."] {
        assert_eq!(prove(&denied, asked, TLSA), Ok(Denied::Name), "{asked}");
        for missing in 0..3 {
            let mut part = denied.to_vec();
            part.remove(missing);
            assert!(prove(&part, asked, TLSA).is_err(), "{asked} without {missing}");
        }
    }
    // A wildcard with another type, and with this one.
    let wild = |types| [apex(), over("a.example.", false), at("*.example.", types)];
    assert_eq!(prove(&wild(&[A]), "a.example.", TLSA), Ok(Denied::Type));
    assert!(prove(&wild(&[TLSA]), "a.example.", TLSA).is_err());
    // The name itself.
    assert_eq!(prove(&[at("a.example.", &[A])], "a.example.", TLSA), Ok(Denied::Type));
    assert!(prove(&[at("a.example.", &[A, TLSA])], "a.example.", TLSA).is_err());
    assert_eq!(prove(&[at("a.example.", &[NS])], "a.example.", DS), Ok(Denied::Delegation));
    assert!(prove(&[at("a.example.", &[NS])], "a.example.", TLSA).is_err());
    // The closest that exists is delegated, or redirected: the zone cannot say more.
    for types in [&[NS] as &[_], &[NS, DS], &[DNAME]] {
        let records = [at("a.example.", types), over("x.a.example.", false), apex()];
        assert!(prove(&records, "x.a.example.", TLSA).is_err(), "{types:?}");
        assert!(prove(&records, "x.a.example.", DS).is_err(), "{types:?}");
    }
}

#[test]
fn opt_out() {
    let apex = || at("example.", &[SOA, NS]);
    let covered = |opt_out| [apex(), over("a.example.", opt_out), over("*.example.", false)];
    let prove =
        |records: &[(Name, NSEC3)], kind| nsec3(records.to_vec()).prove(&name("a.example."), kind);
    // What is delegated there, if anything, is not signed.
    assert_eq!(prove(&covered(true), DS), Ok(Denied::OptOut));
    assert_eq!(prove(&covered(true)[..2], DS), Ok(Denied::OptOut));
    assert_eq!(prove(&covered(false), DS), Ok(Denied::Name));
    // For a type, a signed wildcard must be ruled out as always.
    assert_eq!(prove(&covered(true), TLSA), Ok(Denied::Name));
    assert!(prove(&covered(true)[..2], TLSA).is_err());
    // It is the flag of the record that covers the name that counts.
    let mut flag_elsewhere = covered(false).to_vec();
    flag_elsewhere.push(over("b.example.", true));
    assert_eq!(prove(&flag_elsewhere, DS), Ok(Denied::Name));
}

#[test]
fn nsec3_parameters() {
    let records = || vec![at("a.example.", &[A])];
    let asked = name("a.example.");
    assert!(nsec3(records()).prove(&asked, TLSA).is_ok());
    // Another zone's hash.
    let mut other = records();
    other[0].0 = other[0].0.to_lowercase().trim_to(1).prepend_label("x").unwrap();
    assert!(nsec3(other).prove(&asked, TLSA).is_err());
    let (owner, record) = at("a.example.", &[A]);
    let deeper = owner.trim_to(1).prepend_label("b").unwrap();
    let deeper = deeper.prepend_label(owner.iter().next().unwrap()).unwrap();
    assert!(nsec3(vec![(deeper, record)]).prove(&asked, TLSA).is_err());
    // More iterations than we do.
    let slow = Nsec3HashAlgorithm::SHA1.hash(SALT, &asked, 151).unwrap().as_ref().to_vec();
    let owner = name(&format!("{}.example.", BASE32_DNSSEC.encode(&slow)));
    let data = NSEC3::new(Nsec3HashAlgorithm::SHA1, false, 151, SALT.to_vec(), slow, [A]);
    let error = nsec3(vec![(owner, data)]).prove(&asked, TLSA).unwrap_err();
    assert!(error.contains("iterations"), "{error}");
    // The last record of the zone leads over the end.
    let (mut low, mut high) = (vec![0; 20], vec![0xff; 20]);
    low[0] = 1;
    high[0] = 0xfe;
    let wide = nsec3(vec![hashed(&high, &low, false, &[])]);
    let hashed = Hashed::new(&wide).unwrap();
    let inside = |h: &[u8]| h > high.as_slice() || h < low.as_slice();
    for n in 0..2000 {
        let asked = format!("n{n}.example.");
        let covered = hashed.cover(&name(&asked)).unwrap().is_some();
        assert_eq!(covered, inside(&hash(&asked)), "{asked}");
    }
}

#[test]
fn wildcards_that_were_expanded() {
    let zone: &[(&str, &str, &[RecordType])] =
        &[("*.example.", "b.example.", &[TLSA]), ("b.example.", "example.", &[A])];
    let ordered = nsec(zone);
    assert_eq!(ordered.expansion(&name("a.example."), 1), Ok(Expanded::Proven));
    assert_eq!(ordered.expansion(&name("x.a.example."), 1), Ok(Expanded::Proven));
    // A name exists between it and the wildcard, or it exists itself.
    assert!(ordered.expansion(&name("a.b.example."), 1).is_err());
    assert!(ordered.expansion(&name("b.example."), 1).is_err());
    assert!(nsec(&zone[1..]).expansion(&name("a.example."), 1).is_err());
    let hashed = nsec3(vec![over("a.example.", false)]);
    assert_eq!(hashed.expansion(&name("a.example."), 1), Ok(Expanded::Proven));
    assert_eq!(hashed.expansion(&name("x.a.example."), 1), Ok(Expanded::Proven));
    assert!(hashed.expansion(&name("b.example."), 1).is_err());
    assert!(hashed.expansion(&name("a.elsewhere."), 1).is_err());
    // It is the name next to the wildcard's parent that must not exist, even below a `*`.
    let below = nsec3(vec![over("*.b.example.", false)]);
    assert!(below.expansion(&name("*.b.example."), 1).is_err());
    // With opt-out, a zone that is not signed may be there.
    let opted = nsec3(vec![over("a.example.", true)]);
    assert_eq!(opted.expansion(&name("x.a.example."), 1), Ok(Expanded::OptOut));
}
