//! NTLM tokens of a peer that has not logged on: a server that gets NEGOTIATE and AUTHENTICATE, and a client that gets a
//! CHALLENGE. No token logs on without the password.
//!
//! The first byte picks the side; for a server the second says where the first token ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wsman::ntlm::{Client, Server};
use wsman::server::Credentials;

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, end], tokens)) = data.split_first_chunk() else {
        return;
    };
    let account = Credentials {
        user: "operator".to_owned(),
        password: "not to be guessed".to_owned().into(),
    };
    if choice & 1 == 0 {
        let (first, second) = tokens.split_at(usize::from(end).min(tokens.len()));
        let Ok((server, _)) = Server::challenge(first, None) else {
            return;
        };
        assert!(server.authenticate(second, &account).is_err());
    } else {
        let Ok((client, _)) = Client::begin(&account, None) else {
            return;
        };
        let _ = client.finish(tokens);
    }
});
