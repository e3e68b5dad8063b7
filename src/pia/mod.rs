//! Private Internet Access: the account (token), the gateway (signature and bind), the lease, and what we trust.
//!
//! Facts come from PIA's own scripts and desktop client; when something is asked again is decided in `keeper.rs`.

pub mod account;
pub mod gateway;
pub mod lease;
pub mod trust;
