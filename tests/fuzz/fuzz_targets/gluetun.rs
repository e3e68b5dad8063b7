//! Replies of gluetun's control server.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pia_qbittorrent_sync_fuzz::{assert_one_line, forwarded};

fuzz_target!(|input: &[u8]| {
    match forwarded(&String::from_utf8_lossy(input)) {
        Ok(port) => assert!(port.is_none_or(|port| port >= 1024)),
        Err(cause) => assert_one_line(&cause.to_string()),
    }
});
