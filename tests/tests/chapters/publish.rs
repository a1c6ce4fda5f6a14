//! docs/publish-a-key.md, after docs/key-on-a-token.md, on the same machine, which is its own server of zones and
//! directory as well.

use std::fmt::Write as _;
use std::fs;

use rustix::process::Signal;
use tlspool_tests::slapd::{PASSWORD, Setup};
use tlspool_tests::zones::{Signing, ZoneSet, tlsa_data};
use tlspool_tests::{Authority, Entries, Leaf, PIN, Process, Slapd, Terminal};

use crate::machine::Machine;
use crate::page::{Step, assert_shown, steps};
use crate::token::{QUESTION, followed, serve};

/// How the page names the directory and its manager.
const LDAP: &str = "-x -ZZ -H ldap://ldap.example.com -D cn=manager,dc=example,dc=com -W";

/// The server of `example.com` and the zones above it, as an administrator has it: with keys and the zone's file in the
/// working folder.
struct Zone<'m> {
    machine: &'m Machine,
    server: Process,
    /// The page's command that signs, with the names of our keys.
    sign: String,
    _above: tempfile::TempDir,
}

impl<'m> Zone<'m> {
    fn new(machine: &'m Machine) -> Self {
        let records = ["www A 127.0.0.1", "ldap A 127.0.0.1"];
        let mut set = ZoneSet::new().zone("example.com", Signing::Nsec, &records);
        let (above, _) = set.sign();
        let at = |name: &str| above.path().join(name).display().to_string();
        let mut keys = Vec::new();
        for file in fs::read_dir(above.path()).unwrap() {
            let file = file.unwrap();
            let name = file.file_name().into_string().unwrap();
            if name.starts_with("Kexample.com.") || name == "example.com.zone" {
                fs::copy(file.path(), machine.file(&name)).unwrap();
            }
            if let Some(key) =
                name.strip_prefix("Kexample.com.").and_then(|n| n.strip_suffix(".key"))
            {
                // 257: a key-signing key.
                let is_ksk = fs::read_to_string(file.path()).unwrap().contains("DNSKEY\t257");
                keys.push((!is_ksk, format!("Kexample.com.{key}")));
            }
        }
        keys.sort();
        let [(false, ksk), (true, zsk)] = keys.as_slice() else { panic!("{keys:?}") };
        let sign = format!("ldns-signzone example.com.zone {ksk} {zsk}");
        machine.good(&sign);
        let ours = machine.file("example.com.zone.signed").display().to_string();
        let mut text = "server:\n ip-address: 127.0.0.1\n username: \"\"\n chroot: \"\"\n database: \"\"\n \
            pidfile: /run/nsd.pid\n zonelistfile: /run/nsd.list\n xfrdfile: /run/nsd.xfrd\n xfrdir: /run\n \
            server-count: 1\nremote-control:\n control-enable: yes\n control-interface: /run/nsd.ctl\n"
            .to_owned();
        for (name, file) in
            [(".", at("root.zone.served")), ("com", at("com.zone.served")), ("example.com", ours)]
        {
            let _ = write!(text, "zone:\n name: \"{name}\"\n zonefile: \"{file}\"\n");
        }
        fs::write(machine.file("nsd.conf"), text).unwrap();
        machine.good("mkdir -p /etc/nsd && cp nsd.conf /etc/nsd/nsd.conf");
        machine.good("echo nameserver 127.0.0.1 > /etc/resolv.conf");
        machine.good(&format!("cp {} anchor", at("anchor")));
        let server = Process::start(&mut machine.command("exec /usr/sbin/nsd -d"));
        server.await_words("nsd started");
        Self { machine, server, sign, _above: above }
    }

    fn change(&self, change: impl FnOnce(String) -> String) {
        let file = self.machine.file("example.com.zone");
        let text = change(fs::read_to_string(&file).unwrap());
        fs::write(&file, text).unwrap();
        self.machine.good(&self.sign);
        self.reload("nsd-control reload example.com");
    }

    /// Runs the command, and waits until the zone is served as it was signed last: the server loads it a while after.
    fn reload(&self, command: &str) {
        self.machine.good(command);
        let signed = fs::read_to_string(self.machine.file("example.com.zone.signed")).unwrap();
        let soa = signed.lines().find(|line| line.contains("RRSIG\tSOA")).expect("it is signed");
        let signature = soa.split_whitespace().last().unwrap();
        let ask = "drill -D example.com SOA @127.0.0.1";
        self.machine.eventually(ask, |said| said.out.contains(signature));
    }
}

impl Drop for Zone<'_> {
    fn drop(&mut self) {
        // Killed at once, it would leave children.
        self.server.signal(Signal::TERM);
        self.server.wait();
    }
}

/// The directory of the domain, which the machine's own tools trust.
fn directory(machine: &Machine) -> (Slapd, Leaf) {
    let authority = Authority::new(&machine.file(""), "directory");
    let leaf = authority.leaf("ldap.example.com");
    let setup = Setup { port: 389, ldaps: 636, within: machine.within(), ..Setup::default() };
    let mut entries = Entries::new("example.com", &[], &[]);
    let classes: [(&str, &[u8]); 3] =
        [("objectClass", b"organization"), ("objectClass", b"dcObject"), ("o", b"www")];
    entries.add("dc=www,dc=example,dc=com", &classes);
    let slapd = Slapd::with(setup, &leaf, &[&entries]);
    let file = machine.file("directory.pem").display().to_string();
    machine.good(&format!("echo TLS_CACERT {file} >> /etc/ldap/ldap.conf"));
    (slapd, leaf)
}

#[test]
fn from_a_stranger_who_refuses_to_a_key_that_was_stolen() {
    let machine = followed();
    let zone = Zone::new(&machine);
    let (_slapd, ldap) = directory(&machine);
    let password = ("Enter LDAP Password: ", PASSWORD);
    let believed = |line: &str| {
        let said = machine.good(line);
        assert!(said.contains("a stranger believes it, by dane"), "{said}");
        said
    };
    let check = "tlspool identity check www.example.com";
    // Which of the keys on the token it is, is looked up there.
    let check_john = "tlspool identity check john@example.com";
    let records = |number: &str| {
        let lines = machine.good(&format!("tlspool identity publish {number} --dns --port 443"));
        lines
            .lines()
            .filter(|line| line.contains("TLSA"))
            .map(|line| line.to_owned() + "\n")
            .collect::<String>()
    };
    let mut old = String::new();
    let mut server = None;
    for step in steps("publish-a-key.md") {
        let (line, shown) = match step {
            Step::Command { line, shown } => (line, shown),
            Step::Inline(line) => (line, Vec::new()),
            Step::Lines(lines) if lines[0] == "[dns]" => {
                // The root of the Internet is not here.
                let forwarders = "forwarders = [\"127.0.0.1\"]".to_owned();
                assert!(lines[1].starts_with("# forwarders = ["), "{lines:?}");
                let anchor = format!("root_anchor = \"{}\"", machine.file("anchor").display());
                machine.configure(&[lines[0].clone(), forwarders, anchor]);
                continue;
            }
            Step::Lines(lines) => {
                assert!(lines[0].starts_with("_ldap._tcp.example.com. "), "{lines:?}");
                let text = lines.join("\n").replace("...", &tlsa_data(&ldap, 1, 1));
                zone.change(|file| file + &text + "\n");
                continue;
            }
        };
        match line.as_str() {
            // What the page is about.
            "tlspool identity publish" | "tlspool identity check" | "tlspool policy explain" => {}
            line if line == check && shown[0].contains("does not believe") => {
                let said = machine.run(line);
                assert!(!said.ok, "{}", said.out);
                assert_shown(line, &said.out, &shown);
                let servers = machine.run(&format!("{line} --role server"));
                assert!(servers.out.len() < said.out.len() && !servers.out.contains("_client"));
            }
            line if line == check => assert_shown(line, &believed(line), &shown),
            "tlspool identity publish www.example.com --dns --port 443,8443" => {
                assert_shown(&line, &machine.good(&line), &shown);
                let smtp = machine.good(&format!("{line} --service smtp"));
                assert!(smtp.contains("_smtp._client."), "{smtp}");
            }
            "tlspool identity publish www.example.com --dns --port 443 >> example.com.zone"
            | "tlspool identity list www.example.com" => {
                machine.good(&line);
            }
            "nsd-control reload example.com" => zone.reload(&line),
            "ldns-signzone example.com.zone KSK ZSK" => {
                machine.good(&zone.sign);
            }
            "tlspool identity publish john@example.com --ldif > john.ldif" => {
                let create =
                    "tlspool identity create john@example.com --openpgp --token pkcs11:token=web";
                machine.typed(create, &[(QUESTION, PIN)]);
                machine.good(&line);
                // The host has an entry too.
                machine.good("tlspool identity publish www.example.com --ldif > www.ldif");
            }
            "ldapadd -x -ZZ -H ldap://ldap.example.com -D cn=manager,dc=example,dc=com -W -f john.ldif" =>
            {
                machine.typed(&line, &[password]);
                machine.typed(&line.replace("john", "www"), &[password]);
                let said = machine.typed(check_john, &[(QUESTION, PIN)]);
                assert!(said.contains("a stranger believes it, by ldap"), "{said}");
            }
            "tlspool policy explain www.example.com" => {
                server = Some(serve(&machine, 443, "www.example.com"));
                let said = machine.good(&line);
                assert!(said.contains("believed: www.example.com (dane)"), "{said}");
            }
            "tlspool identity create www.example.com --key 'pkcs11:token=web;object=www-2027' --preference 200" =>
            {
                old = records("www.example.com");
                machine.typed(&line, &[(QUESTION, PIN)]);
                machine.good("chown -R tlspool-keys: /var/lib/softhsm/tokens");
                let all = records("www.example.com");
                assert_eq!(all.lines().count(), 2 * old.lines().count(), "{all}");
                zone.change(|file| file.replace(&old, "") + &all);
                let replace =
                    "tlspool identity publish www.example.com --ldif --replace | ldapmodify";
                machine.typed(&format!("{replace} {LDAP}"), &[password]);
                let said = believed(check);
                assert!(said.matches("a stranger believes it").count() >= 4, "{said}");
            }
            "tlspool identity remove NUMBER" => {
                machine.good(&line.replace("NUMBER", "1"));
                // From the next handshake on.
                let said = machine.good("tlspool policy explain www.example.com");
                assert!(said.contains("believed: www.example.com (dane)"), "{said}");
                let new = records("www.example.com");
                assert!(!new.is_empty() && !old.contains(&new), "{new}");
                zone.change(|file| file.replace(&old, ""));
            }
            "tlspool identity publish www.example.com --ldif --replace" => {
                machine.typed(&format!("{line} | ldapmodify {LDAP}"), &[password]);
                believed(check);
                let said = machine.good("tlspool policy explain www.example.com");
                assert!(said.contains("believed: www.example.com (dane)"), "{said}");
            }
            "tlspool identity revoke john@example.com --reason compromised > revocation.asc" => {
                machine.typed(&line, &[(QUESTION, PIN)]);
                let said = fs::read_to_string(machine.file("revocation.asc")).unwrap();
                assert!(said.starts_with("-----BEGIN PGP"), "{said}");
            }
            "tlspool identity publish john@example.com --ldif --replace | ldapmodify ..." => {
                machine.typed(&line.replace("...", LDAP), &[password]);
                let mut terminal = Terminal::start(&machine.command(check_john));
                terminal.await_words(QUESTION, 1);
                terminal.keys(&format!("{PIN}\n"));
                let (status, said) = terminal.end();
                assert!(!status.success() && said.contains("was revoked"), "{said}");
            }
            _ => panic!("{line:?} is new in the chapter; shows {shown:?}"),
        }
    }
    drop(server);
}
