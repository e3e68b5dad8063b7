//! The file that `PORT_SOURCE=file:PATH` names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pia_qbittorrent_sync_fuzz::keeper::step::Progress;
use pia_qbittorrent_sync_fuzz::source::Source;
use pia_qbittorrent_sync_fuzz::{assert_one_line, put};

fuzz_target!(|input: &[u8]| {
    match Source::File(put("port", input)).port() {
        Ok(Progress::Done(port)) => assert!(port.is_none_or(|port| port >= 1024)),
        Ok(Progress::More) => panic!("a file needs one step"),
        Err(error) => assert_one_line(&error.to_string()),
    }
});
