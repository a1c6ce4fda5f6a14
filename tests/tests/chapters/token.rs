//! docs/key-on-a-token.md.

use std::fs;

use tlspool_tests::{Authority, PIN, Process, Terminal, run};

use crate::machine::Machine;
use crate::page::{Step, assert_shown, steps};

/// The question of `tlspool` for a PIN.
pub(crate) const QUESTION: &str = "PIN of token web (";

/// Who reads it wants a certificate of an authority, or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    OwnCertificate,
    Authority,
}

/// A machine on which somebody has followed the chapter to its end, without an authority.
pub(crate) fn followed() -> Machine {
    follow(Wants::OwnCertificate)
}

fn follow(wants: Wants) -> Machine {
    let machine = Machine::new();
    for step in steps("key-on-a-token.md") {
        let (line, shown) = match step {
            Step::Command { line, shown } => (line, shown),
            Step::Inline(line) => (line, Vec::new()),
            Step::Lines(lines) => {
                assert_eq!(lines[0], "[[keys.module]]", "other lines than for the configuration");
                machine.configure(&lines);
                // The chapter does so at its end only; what it says before has to be true already.
                continue;
            }
        };
        match line.as_str() {
            // `make setup` has done that.
            "apt-get install softhsm2" => {}
            "usermod -a -G softhsm tlspool-keys"
            | "chown -R tlspool-keys: /var/lib/softhsm/tokens"
            | "install -m 400 -o tlspool-keys /dev/null /etc/tlspool/web.pin"
            | "tlspool identity show www.example.com" => {
                machine.good(&line);
            }
            "tlspool token modules" => {
                let said = machine.good(&line);
                assert!(said.contains("SoftHSM"), "{said}");
            }
            "softhsm2-util --init-token --free --label web" => {
                let (officer, user) = ("Please enter SO PIN: ", "Please enter user PIN: ");
                let again = ["Please reenter SO PIN: ", "Please reenter user PIN: "];
                let answers = [(officer, "1234"), (again[0], "1234"), (user, PIN), (again[1], PIN)];
                machine.typed(&line, &answers);
                assert_eq!(shown, ["The PIN of the security officer, then that of the user."]);
            }
            "tlspool token list" => assert_shown(&line, &machine.good(&line), &shown),
            // "As `tlspool-keys`".
            "tlspool -c /etc/tlspool/tlspool.toml token list" => {
                let user = "setpriv --reuid=tlspool-keys --regid=tlspool-keys --init-groups";
                let said = machine.good(&format!("{user} $(command -v tlspool) {}", &line[8..]));
                assert!(said.contains("token=web"), "{said}");
            }
            "tlspool identity create www.example.com --token pkcs11:token=web" => {
                if wants == Wants::OwnCertificate {
                    machine.typed(&line, &[(QUESTION, PIN)]);
                }
            }
            "tlspool identity create www.example.com --token pkcs11:token=web --csr www.csr" => {
                if wants == Wants::Authority {
                    machine.typed(&line, &[(QUESTION, PIN)]);
                    // What an authority does.
                    let authority = Authority::new(&machine.file(""), "authority");
                    let certificate = authority.sign(&machine.file("www.csr"));
                    let chain = [&certificate, &authority.certificate]
                        .map(|file| fs::read_to_string(file).unwrap());
                    fs::write(machine.file("chain.pem"), chain.concat()).unwrap();
                    machine.good("tlspool trust add authority.pem");
                }
            }
            "tlspool identity add www.example.com --key 'pkcs11:token=web;object=www.example.com' --certificate chain.pem" => {
                if wants == Wants::Authority {
                    machine.typed(&line, &[(QUESTION, PIN)]);
                }
            }
            "tlspool token show pkcs11:token=web" => {
                let said = machine.typed(&line, &[(QUESTION, PIN)]);
                assert!(said.contains("object=www.example.com"), "{said}");
            }
            "tlspool -p" => {
                let mut person = Terminal::start(&machine.command(&line));
                machine.eventually("tlspool status --json", |said| {
                    said.out.contains("\"pin_program\": true")
                });
                // It stays until it is interrupted.
                person.keys("\u{3}");
                person.end();
            }
            "tlspool -p --once" => {
                machine.typed(&line, &[]);
            }
            "editor /etc/tlspool/web.pin" => {
                machine.good(&format!("echo {PIN} > /etc/tlspool/web.pin"));
            }
            "tlspool identity create ... --token 'pkcs11:token=web?pin-source=file:/etc/tlspool/web.pin'" =>
            {
                machine.good(&line.replace("...", "mail.example.com"));
                // Step 3.
                machine.good("chown -R tlspool-keys: /var/lib/softhsm/tokens");
            }
            "systemctl reload tlspool" => machine.reload(),
            "tlspool policy explain www.example.com --connect localhost:443" => {
                // A server that is to have the key, and the person of step 4.
                let _server = serve(&machine, 443, "www.example.com");
                let mut person = Terminal::start(&machine.command("tlspool -p"));
                let asked = machine.command(&line);
                let asked = std::thread::spawn(move || run(&mut { asked }));
                person.await_words("PIN of token web", 1);
                person.keys(&format!("{PIN}\n"));
                let said = asked.join().unwrap();
                // Nobody vouches for a certificate of one's own until it is published.
                let believed = wants == Wants::Authority;
                assert_eq!(said.ok, believed, "{}{}\n{}", said.out, said.err, machine.log());
                assert!(said.out.contains("pkix"), "{}{}", said.out, said.err);
            }
            "tlspool status" => {
                let said = machine.good(&line);
                assert!(said.contains("SIGNATURES") && said.contains("token=web"), "{said}");
            }
            "tlspool identity revoke john@example.org --prepare > revocation.asc" => {
                let create =
                    "tlspool identity create john@example.org --openpgp --token pkcs11:token=web";
                machine.typed(create, &[(QUESTION, PIN)]);
                machine.typed(&line, &[(QUESTION, PIN)]);
                let said = fs::read_to_string(machine.file("revocation.asc")).unwrap();
                assert!(said.starts_with("-----BEGIN PGP"), "{said}");
            }
            _ => panic!("{line:?} is new in the chapter; shows {shown:?}"),
        }
    }
    machine
}

/// A server that has the pool do its TLS: the tunnel.
pub(crate) fn serve(machine: &Machine, port: u16, name: &str) -> Process {
    let line = format!("exec tlstunnel -s -l 127.0.0.1:{port} -r 127.0.0.1:80 -L {name}");
    let tunnel = Process::start(&mut machine.command(&line));
    tunnel.await_words("ready");
    tunnel
}

#[test]
fn a_key_and_a_certificate_of_ones_own() {
    follow(Wants::OwnCertificate);
}

#[test]
fn a_certificate_of_an_authority() {
    follow(Wants::Authority);
}
