//! Netlink messages from the kernel, or from a program that pretends to be the kernel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pia_qbittorrent_sync_fuzz::kernel::netlink::{Address, Link, Route, Socket, messages};

fuzz_target!(|input: &[u8]| {
    let mut count = 0;
    for message in messages(input) {
        count += 1;
        if let Some(link) = Link::parse(&message) {
            assert!(!link.name.contains('\0'));
        }
        if let Some(address) = Address::parse(&message) {
            assert_ne!(Some(address.own), address.other);
        }
        if let Some(route) = Route::parse(&message) {
            assert_ne!(route.device, 0);
        }
        if let Some(socket) = Socket::parse(&message) {
            assert_eq!(socket.local.ip(), socket.local.ip().to_canonical());
        }
    }
    // Every message has a header of 16 bytes.
    assert!(count <= input.len() / 16);
});
