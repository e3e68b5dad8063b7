//! The files in `STATE_DIR` after a crash, on a full disk, or from a different version.
#![no_main]

use std::time::Duration;

use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;
use miniserde::json;
use pia_qbittorrent_sync_fuzz::keeper::step::ListenState;
use pia_qbittorrent_sync_fuzz::keeper::tunnel::{Device, GatewayRoute};
use pia_qbittorrent_sync_fuzz::pia::lease::LeaseStore;
use pia_qbittorrent_sync_fuzz::secret::Secret;
use pia_qbittorrent_sync_fuzz::state::{Presence, State};
use pia_qbittorrent_sync_fuzz::views::status::Status;
use pia_qbittorrent_sync_fuzz::{assert_one_line, folder, put};

fn a_route() -> GatewayRoute {
    let device = Device { index: 7, name: "tun0".to_owned(), tunnel: true };
    GatewayRoute { local: [10, 9, 9, 9].into(), hop: None, device: Some(device), by_source: false }
}

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
            // The running process describes itself in a file that may be just as damaged.
            let holder = String::from_utf8_lossy(input).into_owned();
            for presence in [Presence::Running(holder.clone()), Presence::Stopped, Presence::Unknown(holder)] {
                for route in [None, Some(Ok(a_route())), Some(Err("no route".to_owned()))] {
                    let health = status.health(&presence, route, Some(&ListenState::Stale), Timestamp::UNIX_EPOCH);
                    assert_one_line(health.message());
                    status.describe(&presence, &health, Timestamp::UNIX_EPOCH).lines().for_each(assert_one_line);
                }
            }
            let text = json::to_string(&status);
            put("status.json", text.as_bytes());
            assert_eq!(Status::read(folder()).map(|again| again.map(|again| json::to_string(&again))), Ok(Some(text)));
        }
        Err(problem) => assert_one_line(&problem),
    }

    put("rejected.json", input);
    let state = State::open_read_only(folder());
    let (secret, other) = (Secret::new("admin\0hunter2"), Secret::new("admin\0hunter3"));
    let ago = |secret| state.rejected_ago("client", secret, Timestamp::UNIX_EPOCH + Duration::from_secs(9));
    let _ = ago(&secret);
    state.remember_rejection("client", Some(&secret), Timestamp::UNIX_EPOCH);
    assert_eq!((ago(&secret), ago(&other)), (Some(Duration::from_secs(9)), None));
    state.remember_rejection("client", None, Timestamp::UNIX_EPOCH);
    assert_eq!(ago(&secret), None);
});
