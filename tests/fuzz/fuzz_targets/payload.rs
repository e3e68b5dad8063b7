//! A lease's payload, as base64 and decoded.
#![no_main]

use base64::prelude::{BASE64_STANDARD, Engine};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use pia_qbittorrent_sync_fuzz::pia::lease::{LeaseStore, parse};
use pia_qbittorrent_sync_fuzz::secret::Secret;
use pia_qbittorrent_sync_fuzz::{assert_one_line, folder};

/// The signature may be any text, because the daemon does not parse it.
fn arrive(payload: &str, signature: &str) {
    let lease = match parse(Secret::new(payload), Secret::new(signature), Timestamp::UNIX_EPOCH) {
        Ok(lease) => lease,
        Err(cause) => return assert_one_line(&cause.to_string()),
    };
    assert!(lease.port >= 1024);
    assert_eq!((lease.payload.expose(), lease.signature.expose()), (payload, signature));
    let store = LeaseStore::new(folder());
    store.save(&lease).expect("a folder that can be written");
    assert_eq!(store.load(), Ok(Some(lease)));
}

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    arrive(&text, &text);
    arrive(&BASE64_STANDARD.encode(input), &text);
});
