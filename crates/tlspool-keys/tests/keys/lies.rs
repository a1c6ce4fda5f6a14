//! A module that says of its objects what cannot be.

use std::io::Read;

use tlspool_keys::KeyError;
use tlspool_keys::client::KeyClient;
use tlspool_keys::server::EXIT_PANICKED;

use crate::common::{PIN, isolated};
use crate::process::{Keyd, block_on, give_pin, memory, sign, token_key};

/// Waits until a key process has ended as one that panicked.
async fn ended(mut keyd: Keyd) {
    let wait = tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        keyd.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        (keyd.0.wait().unwrap(), said)
    });
    let (status, said) = wait.await.unwrap();
    assert_eq!(status.code(), Some(EXIT_PANICKED.into()), "{said}");
    assert!(said.contains("last words"), "{said}");
}

isolated! {
    fn more_objects_than_there_is_room_for_end_the_process(home) {
        let name = token_key(home);
        let memory = memory();
        block_on(async {
            let (keyd, channel) = Keyd::start(home, &memory);
            let client = KeyClient::new(channel).unwrap();
            home.control("lie_count");
            // The next process is told the same; who asks is not kept waiting for a third.
            let (opened, ()) = tokio::join!(client.open(&name), async {
                give_pin(&client, PIN).await;
                ended(keyd).await;
                let (keyd, channel) = Keyd::start(home, &memory);
                client.set_channel(channel).unwrap();
                ended(keyd).await;
            });
            assert_eq!(opened.map(drop), Err(KeyError::Restarted));
            // With a module that is sane again, the key signs.
            home.control("");
            let (_keyd, channel) = Keyd::start(home, &memory);
            client.set_channel(channel).unwrap();
            let key = client.open(&name).await.unwrap();
            sign(&client, &key).await.unwrap();
        });
    }
}
