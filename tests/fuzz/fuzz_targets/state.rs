//! The files in `STATE_DIR`, as a crash, a full disk or another version may have left them.
#![no_main]

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use miniserde::json;
use pia_qbittorrent_sync_fuzz::pia::lease::LeaseStore;
use pia_qbittorrent_sync_fuzz::state::Presence;
use pia_qbittorrent_sync_fuzz::views::status::Status;
use pia_qbittorrent_sync_fuzz::{assert_one_line, folder, put};

fuzz_target!(|input: &[u8]| {
    put("lease.json", input);
    let store = LeaseStore::new(folder());
    match store.load() {
        Ok(Some(lease)) => {
            assert_ne!(lease.port, 0);
            store.save(&lease).expect("a folder that can be written");
            assert_eq!(store.load(), Ok(Some(lease)));
        }
        Ok(None) => panic!("there is a file"),
        Err(problem) => assert_one_line(&problem),
    }

    put("status.json", input);
    match Status::read(folder()) {
        Ok(None) => panic!("there is a file"),
        Ok(Some(status)) => {
            for presence in [Presence::Running("the service".to_owned()), Presence::Stopped] {
                let health = status.health(&presence, None, Timestamp::UNIX_EPOCH);
                status.describe(&presence, &health, Timestamp::UNIX_EPOCH).lines().for_each(assert_one_line);
            }
            let text = json::to_string(&status);
            put("status.json", text.as_bytes());
            assert_eq!(Status::read(folder()).map(|again| again.map(|again| json::to_string(&again))), Ok(Some(text)));
        }
        Err(problem) => assert_one_line(&problem),
    }
});
