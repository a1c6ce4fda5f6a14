//! The key process and its client, over a socketpair, in threads and in processes that die.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use tlspool_keys::client::{KeyClient, PinEvent};
use tlspool_keys::pin::Pin;
use tlspool_keys::server::{EXIT_MODULE_HUNG, EXIT_PANICKED, KeydBoot, run_key_process, serve};
use tlspool_keys::{KeyAlgorithm, KeyError, KeyInfo, KeyStoreConfig, SignScheme};

use crate::common::{Home, PIN, Script, config, isolated, mock, store, uri, verifies};
use crate::guarded::guarded_key;

const SCHEME: SignScheme = SignScheme::EcdsaP256Sha256;

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

pub(crate) fn memory() -> OwnedFd {
    memfd_create("pins", MemfdFlags::CLOEXEC).unwrap()
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// A server in threads of this process; dropped after its clients, it waits for its end, because
/// a module must not be in use when the process exits.
struct Here {
    channels: Vec<OwnedFd>,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn serve_here(config: KeyStoreConfig, workers: usize) -> Here {
    let (ours, channels) = (0..workers).map(|_| pair()).unzip();
    let boot = KeydBoot { channels, config, pin_memory: memory(), flush_log: || () };
    let thread = std::thread::spawn(move || serve(boot).unwrap());
    Here { channels: ours, thread: Some(thread) }
}

impl Here {
    fn pop(&mut self) -> Option<OwnedFd> {
        self.channels.pop()
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        self.channels.clear();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn file_key(home: &Home) -> String {
    let path = home.file("key.pem");
    home.run(
        "openssl",
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            path.to_str().unwrap(),
        ],
    );
    format!("file:{}", path.display())
}

/// Makes a key on a token and forgets the PIN.
pub(crate) fn token_key(home: &Home) -> String {
    home.token("one");
    let keys = store(mock(), &Script::new(&[PIN]));
    keys.generate(&uri("pkcs11:token=one;object=k"), KeyAlgorithm::P256).unwrap().uri
}

pub(crate) async fn sign(client: &KeyClient, key: &KeyInfo) -> Result<(), KeyError> {
    let signature = client.sign(key, SCHEME, b"message").await?;
    assert!(verifies(key, SCHEME, b"message", &signature));
    Ok(())
}

/// Answers the next question for a PIN.
pub(crate) async fn give_pin(client: &KeyClient, pin: &str) -> u32 {
    let mut events = client.events();
    let prompt = match client.prompts().pop() {
        Some(prompt) => prompt,
        None => loop {
            if let PinEvent::PinNeeded(prompt) = events.recv().await.unwrap() {
                break prompt;
            }
        },
    };
    client.submit_pin(prompt.prompt, Pin::new(pin).as_ref()).await.unwrap();
    prompt.attempt
}

isolated! {
    fn signs_with_files_and_says_what_is_wrong(home) {
        let name = file_key(home);
        let mut channels = serve_here(KeyStoreConfig::default(), 1);
        let channel = channels.pop().unwrap();
        let raw = channel.try_clone().unwrap();
        block_on(async move {
            let client = KeyClient::new(channel).unwrap();
            let key = client.open(&name).await.unwrap();
            assert_eq!((key.algorithm, key.uri.as_str()), (KeyAlgorithm::P256, name.as_str()));
            sign(&client, &key).await.unwrap();
            for garbage in [&b"x"[..], &[0; 9], &[0xff; 100]] {
                send(&raw, garbage, SendFlags::NOSIGNAL).unwrap();
            }
            sign(&client, &key).await.unwrap();
            assert!(matches!(client.open("file:/nonexistent").await, Err(KeyError::NotFound(_))));
            assert!(matches!(client.open("x").await, Err(KeyError::BadUri(_))));
            assert!(matches!(client.open("pkcs11:token=x").await, Err(KeyError::TokenAbsent(_))));
            let wrong = client.sign(&key, SignScheme::Ed25519, b"").await;
            assert!(matches!(wrong, Err(KeyError::Unsupported(_))));
            let unknown = KeyInfo { uri: "file:/nonexistent".into(), id: tlspool_keys::KeyId([9; 16]), ..key.clone() };
            assert!(matches!(client.sign(&unknown, SCHEME, b"").await, Err(KeyError::NotFound(_))));
            let other = KeyInfo { id: tlspool_keys::KeyId([9; 16]), ..key };
            assert!(matches!(client.sign(&other, SCHEME, b"").await, Err(KeyError::KeyChanged(_))));
            assert!(matches!(client.certificates(&name).await, Err(KeyError::File(_))));
            let long = vec![0; tlspool_keys::ipc::MAX_SIGN + 1];
            assert!(matches!(client.sign(&other, SCHEME, &long).await, Err(KeyError::Unsupported(_))));
        });
    }
}

isolated! {
    fn keys_that_do_not_fit_are_opened_again(home) {
        let (one, two) = (file_key(home), file_key(home).replace("key.pem", "./key.pem"));
        let mut channels = serve_here(KeyStoreConfig { max_open_keys: 1, ..Default::default() }, 1);
        block_on(async {
            let client = KeyClient::new(channels.pop().unwrap()).unwrap();
            let (one, two) = (client.open(&one).await.unwrap(), client.open(&two).await.unwrap());
            for _ in 0..3 {
                sign(&client, &one).await.unwrap();
                sign(&client, &two).await.unwrap();
            }
        });
    }
}

isolated! {
    fn a_wrong_pin_is_asked_again_and_both_workers_hear_of_it(home) {
        let name = token_key(home);
        let mut channels = serve_here(config(mock()), 2);
        block_on(async {
            let first = KeyClient::new(channels.pop().unwrap()).unwrap();
            let second = KeyClient::new(channels.pop().unwrap()).unwrap();
            let mut events = second.events();
            let (opened, attempt) = tokio::join!(first.open(&name), async {
                give_pin(&first, "0000").await;
                give_pin(&first, PIN).await
            });
            assert_eq!(attempt, 2);
            let key = opened.unwrap();
            sign(&second, &key).await.unwrap();
            let mut seen = Vec::new();
            while seen.len() < 4 {
                seen.push(match events.recv().await.unwrap() {
                    PinEvent::PinNeeded(prompt) => (prompt.attempt, prompt.count_low),
                    PinEvent::PinDone { accepted, .. } => (0, accepted),
                    PinEvent::PinIdle { .. } => panic!("it is waited for"),
                });
            }
            assert_eq!(seen, [(1, false), (0, false), (2, true), (0, true)]);
            assert!(first.prompts().is_empty() && second.prompts().is_empty());
            let status = &first.status().await.unwrap()[0];
            assert!(status.logged_in && status.signatures == 1, "{status:?}");
        });
    }
}

isolated! {
    fn a_locked_token_waits_for_its_pin_until_the_deadline(home) {
        let name = token_key(home);
        let mut channels = serve_here(config(mock()), 1);
        block_on(async {
            let client = KeyClient::new(channels.pop().unwrap()).unwrap();
            let mut events = client.events();
            // Enough to be asked, on a busy machine too.
            let hasty = client.with_timeout(Duration::from_secs(2));
            let locked = hasty.open(&name).await;
            assert!(matches!(locked, Err(KeyError::Locked(_))), "{locked:?}");
            let PinEvent::PinNeeded(asked) = events.recv().await.unwrap() else { panic!() };
            let idle = PinEvent::PinIdle { prompt: asked.prompt };
            assert_eq!(events.recv().await.unwrap(), idle, "nobody waits any more");
            // Somebody waits again, for the answer to the same question; a person who refuses ends the wait at once.
            let (refused, ()) = tokio::join!(client.open(&name), async {
                assert_eq!(events.recv().await.unwrap(), PinEvent::PinNeeded(asked.clone()));
                client.submit_pin(asked.prompt, None).await.unwrap();
            });
            assert!(matches!(refused, Err(KeyError::Locked(_))), "{refused:?}");
            let refused = PinEvent::PinDone { prompt: asked.prompt, accepted: false };
            assert_eq!(events.recv().await.unwrap(), refused);
        });
    }
}

isolated! {
    fn a_pin_that_comes_too_late_for_who_waited_unlocks_the_token_for_the_next(home) {
        let name = token_key(home);
        let mut channels = serve_here(config(mock()), 1);
        block_on(async {
            let client = KeyClient::new(channels.pop().unwrap()).unwrap();
            let mut events = client.events();
            let locked = client.with_timeout(Duration::from_secs(2)).open(&name).await;
            assert!(matches!(locked, Err(KeyError::Locked(_))), "{locked:?}");
            assert_eq!(client.status().await.unwrap()[0].waiting, 0);
            // What is wrong is asked again, as if somebody waited.
            assert_eq!(give_pin(&client, "0000").await, 1);
            while client.prompts().iter().all(|prompt| prompt.attempt != 2) {
                events.recv().await.unwrap();
            }
            assert_eq!(give_pin(&client, PIN).await, 2);
            while events.recv().await.unwrap() != (PinEvent::PinDone { prompt: 2, accepted: true }) {}
            sign(&client, &client.open(&name).await.unwrap()).await.unwrap();
            assert!(client.prompts().is_empty(), "nobody was asked for it");
            let status = &client.status().await.unwrap()[0];
            assert!(status.logged_in && status.waiting == 0, "{status:?}");
        });
    }
}

isolated! {
    fn of_a_key_that_wants_its_pin_each_time_a_late_one_permits_nothing(home) {
        guarded_key(home);
        let pin = home.write("pin", PIN);
        let mut channels = serve_here(config(mock()), 1);
        block_on(async {
            let client = KeyClient::new(channels.pop().unwrap()).unwrap();
            // A file has unlocked the token; for a signature with a key that names none, a person is asked.
            let by_file = format!("pkcs11:token=one;object=k?pin-source=file:{}", pin.display());
            client.open(&by_file).await.unwrap();
            let key = client.open("pkcs11:token=one;object=k").await.unwrap();
            let mut events = client.events();
            let hasty = client.with_timeout(Duration::from_secs(2));
            let locked = hasty.sign(&key, SCHEME, b"message").await;
            assert!(matches!(locked, Err(KeyError::Locked(_))), "{locked:?}");
            let PinEvent::PinNeeded(asked) = events.recv().await.unwrap() else { panic!() };
            let done = PinEvent::PinDone { prompt: asked.prompt, accepted: false };
            assert_eq!(events.recv().await.unwrap(), done, "it was about one signature");
        });
    }
}

isolated! {
    fn a_token_that_a_file_unlocks_wakes_who_waits_for_a_person(home) {
        let by_person = token_key(home);
        let pin = home.write("pin", PIN);
        let by_file = format!("{by_person}?pin-source=file:{}", pin.display());
        let mut channels = serve_here(config(mock()), 1);
        block_on(async {
            let client = KeyClient::new(channels.pop().unwrap()).unwrap();
            let mut events = client.events();
            let waiting = tokio::spawn({
                let client = client.clone();
                async move { client.open(&by_person).await }
            });
            let PinEvent::PinNeeded(asked) = events.recv().await.unwrap() else { panic!() };
            client.open(&by_file).await.unwrap();
            let key = waiting.await.unwrap().unwrap();
            let done = PinEvent::PinDone { prompt: asked.prompt, accepted: true };
            assert_eq!(events.recv().await.unwrap(), done, "nobody need answer any more");
            // Who does all the same leaves nothing behind.
            client.submit_pin(asked.prompt, Pin::new(PIN).as_ref()).await.unwrap();
            sign(&client, &key).await.unwrap();
            assert!(client.prompts().is_empty());
            assert_eq!(client.status().await.unwrap()[0].waiting, 0);
        });
    }
}

isolated! {
    fn a_slow_token_does_not_slow_other_keys(home) {
        let (slow, quick) = (token_key(home), file_key(home));
        home.control("wait");
        let mut channels = serve_here(config(mock()), 1);
        block_on(async {
            let client = KeyClient::new(channels.pop().unwrap()).unwrap();
            let (slow, _) = tokio::join!(client.open(&slow), give_pin(&client, PIN));
            let (slow, quick) = (Arc::new(slow.unwrap()), client.open(&quick).await.unwrap());
            let running: Vec<_> = (0..40)
                .map(|_| {
                    let (client, slow) = (client.clone(), slow.clone());
                    tokio::spawn(async move { sign(&client, &slow).await })
                })
                .collect();
            tokio::task::yield_now().await;
            for _ in 0..10 {
                sign(&client, &quick).await.unwrap();
            }
            assert!(!running.iter().any(tokio::task::JoinHandle::is_finished), "all of them wait");
            home.control("");
            for task in running {
                task.await.unwrap().unwrap();
            }
            assert_eq!(home.count("count"), 40);
        });
    }
}

isolated! {
    fn a_full_queue_is_an_error_and_no_wait(home) {
        let slow = token_key(home);
        home.control("wait");
        let config = KeyStoreConfig { queue_per_token: 2, sessions_per_token: 1, ..config(mock()) };
        let mut channels = serve_here(config, 1);
        block_on(async {
            let client = KeyClient::new(channels.pop().unwrap()).unwrap();
            let (slow, _) = tokio::join!(client.open(&slow), give_pin(&client, PIN));
            let slow = Arc::new(slow.unwrap());
            let running: Vec<_> = (0..20)
                .map(|_| {
                    let (client, slow) = (client.clone(), slow.clone());
                    tokio::spawn(async move { sign(&client, &slow).await })
                })
                .collect();
            // Who is done now was told so: nothing is signed yet.
            while !running.iter().any(tokio::task::JoinHandle::is_finished) {
                tokio::task::yield_now().await;
            }
            home.control("");
            let mut busy = 0;
            for task in running {
                match task.await.unwrap() {
                    Ok(()) => {}
                    Err(KeyError::Busy(_)) => busy += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!((1..20).contains(&busy), "{busy}");
        });
    }
}

isolated! {
    fn workers_open_and_sign_on_a_token_at_once(home) {
        home.token("one");
        let keys = store(mock(), &Script::new(&[PIN]));
        let names: Vec<String> = (0..4)
            .map(|n| uri(&format!("pkcs11:token=one;object=k{n}")))
            .map(|name| keys.generate(&name, KeyAlgorithm::P256).unwrap().uri)
            .collect();
        drop(keys);
        let mut channels = serve_here(config(mock()), 3);
        block_on(async {
            let clients: Vec<_> =
                std::iter::from_fn(|| channels.pop()).map(|fd| KeyClient::new(fd).unwrap()).collect();
            let (_, _) = tokio::join!(clients[0].open(&names[0]), give_pin(&clients[0], PIN));
            let tasks: Vec<_> = (0..200)
                .map(|n| {
                    let (client, name) = (clients[n % 3].clone(), names[n % 4].clone());
                    tokio::spawn(async move {
                        let key = client.open(&name).await?;
                        sign(&client, &key).await
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap().unwrap();
            }
            let status = &clients[0].status().await.unwrap()[0];
            assert_eq!((status.signatures, status.failures, status.sessions), (200, 0, 4));
        });
    }
}

/// A key process that can die.
pub(crate) struct Keyd(pub(crate) Child);

const SOCKET: &str = "TLSPOOL_TEST_KEYD";
/// Time for a call of the module, in milliseconds. A busy machine makes those slow that are not to hang.
const PATIENT: u64 = 60_000;
const HASTY: u64 = 3000;

/// The body of the key process: its channel is standard input, its PIN memory standard error.
#[test]
fn keyd() {
    let Some(module_timeout) = std::env::var_os(SOCKET) else {
        return; // not run as a test
    };
    let module_timeout_ms = module_timeout.to_str().unwrap().parse().unwrap();
    let boot = KeydBoot {
        channels: vec![fcntl_dupfd_cloexec(std::io::stdin(), 3).unwrap()],
        config: KeyStoreConfig { module_timeout_ms, ..config(mock()) },
        pin_memory: fcntl_dupfd_cloexec(std::io::stderr(), 3).unwrap(),
        flush_log: || println!("last words"),
    };
    // What a panic says must not be written over the PINs.
    let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
    rustix::stdio::dup2_stderr(&null).unwrap();
    run_key_process(boot);
}

impl Keyd {
    pub(crate) fn start(home: &Home, memory: &OwnedFd) -> (Self, OwnedFd) {
        Self::start_with(home, memory, PATIENT)
    }

    fn start_with(home: &Home, memory: &OwnedFd, module_timeout_ms: u64) -> (Self, OwnedFd) {
        let (ours, theirs) = pair();
        let child = home
            .command(&std::env::current_exe().unwrap())
            .args(["process::keyd", "--exact", "--nocapture"])
            .env(SOCKET, module_timeout_ms.to_string())
            .stdin(theirs)
            .stdout(Stdio::piped())
            .stderr(memory.try_clone().unwrap())
            .spawn()
            .unwrap();
        (Self(child), ours)
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

isolated! {
    fn a_restart_is_invisible_and_nobody_types_the_pin_again(home) {
        let (on_token, in_file) = (token_key(home), file_key(home));
        let memory = memory();
        block_on(async {
            let (keyd, channel) = Keyd::start(home, &memory);
            let client = KeyClient::new(channel).unwrap();
            let (token, _) = tokio::join!(client.open(&on_token), give_pin(&client, PIN));
            let (token, file) = (token.unwrap(), client.open(&in_file).await.unwrap());
            sign(&client, &token).await.unwrap();
            keyd.kill();
            // Asked while nobody is there: waits for the next one.
            let (signed, keyd) = tokio::join!(sign(&client, &file), async {
                tokio::task::yield_now().await;
                let (keyd, channel) = Keyd::start(home, &memory);
                client.set_channel(channel).unwrap();
                keyd
            });
            signed.unwrap();
            sign(&client, &token).await.unwrap();
            assert!(client.prompts().is_empty(), "the PIN was remembered");
            // And nobody there for too long.
            keyd.kill();
            let hasty = client.with_timeout(Duration::from_millis(50));
            let nobody = sign(&hasty, &file).await;
            assert!(matches!(nobody, Err(KeyError::Timeout(_))), "{nobody:?}");
        });
    }
}

isolated! {
    fn a_module_that_crashes_gets_one_retry(home) {
        let name = token_key(home);
        let memory = memory();
        block_on(async {
            let (mut keyd, channel) = Keyd::start(home, &memory);
            let client = KeyClient::new(channel).unwrap();
            let (key, _) = tokio::join!(client.open(&name), give_pin(&client, PIN));
            let key = key.unwrap();
            home.control("crash");
            let (signed, mut second) = tokio::join!(sign(&client, &key), async {
                let mut keyd = tokio::task::spawn_blocking(move || {
                    keyd.0.wait().unwrap();
                    keyd
                });
                let _ = (&mut keyd).await.unwrap();
                home.control("");
                let (keyd, channel) = Keyd::start(home, &memory);
                client.set_channel(channel).unwrap();
                keyd
            });
            signed.unwrap();

            home.control("crash");
            let (failed, ()) = tokio::join!(sign(&client, &key), async {
                tokio::task::spawn_blocking(move || second.0.wait().unwrap()).await.unwrap();
                let (mut third, channel) = Keyd::start(home, &memory);
                client.set_channel(channel).unwrap();
                tokio::task::spawn_blocking(move || third.0.wait().unwrap()).await.unwrap();
            });
            assert_eq!(failed, Err(KeyError::Restarted));
        });
    }
}

isolated! {
    fn a_module_that_hangs_ends_the_process_with_its_own_code(home) {
        ends_with(home, "hang", EXIT_MODULE_HUNG);
    }
}

isolated! {
    fn so_does_one_that_lies_about_a_length(home) {
        ends_with(home, "lie_length", EXIT_PANICKED);
    }
}

/// A module that does this when it shall sign ends the process with this code; the next process signs.
fn ends_with(home: &Home, word: &str, code: u8) {
    let name = token_key(home);
    let memory = memory();
    block_on(async {
        let (mut keyd, channel) = Keyd::start_with(home, &memory, HASTY);
        let client = KeyClient::new(channel).unwrap();
        let (key, _) = tokio::join!(client.open(&name), give_pin(&client, PIN));
        let key = key.unwrap();
        home.control(word);
        let (signed, _keyd) = tokio::join!(sign(&client, &key), async {
            let wait = tokio::task::spawn_blocking(move || {
                let mut said = String::new();
                keyd.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
                (keyd.0.wait().unwrap(), said)
            });
            let (status, said) = wait.await.unwrap();
            assert_eq!(status.code(), Some(code.into()), "{said}");
            assert!(said.contains("last words"), "{said}");
            home.control("");
            let (keyd, channel) = Keyd::start(home, &memory);
            client.set_channel(channel).unwrap();
            keyd
        });
        signed.unwrap();
    });
}
