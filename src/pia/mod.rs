//! Private Internet Access: the account (token), the gateway (signature and bind), the lease, and what we trust.
//!
//! Facts come from PIA's own scripts and desktop client; when something is asked again is decided in `keeper.rs`.

pub mod account;
pub mod discover;
pub mod gateway;
pub mod lease;
pub mod trust;

use std::path::Path;

use account::{Account, Source};
use gateway::Gateway;
use lease::{Lease, LeaseStore};

use crate::config;
use crate::error::{Cause, Error, Op, plain};

/// PIA's side: account, gateway, and the lease that is kept bound.
pub struct Pia {
    /// The account.
    pub account: Account,
    /// The gateway.
    pub gateway: Gateway,
    /// The lease, stored or new.
    pub lease: Option<Lease>,
    store: LeaseStore,
    /// The lease is not on the disk yet.
    unsaved: bool,
    /// That it cannot be written was said.
    warned: bool,
}

impl Pia {
    /// Reads the stored lease; nothing is sent. A file that cannot be used is a warning and stays until it is replaced.
    /// `warned` says that the user knows already that nothing can be written in `state_dir`.
    pub fn new(config: config::Pia, state_dir: &Path, warned: bool) -> Self {
        let store = LeaseStore::new(state_dir);
        let lease = store.load().unwrap_or_else(|problem| {
            log::warn!("{} {problem}; a new lease will replace it", store.path().display());
            None
        });
        Self {
            account: Account::new(
                config.credentials,
                config.login_urls,
                config.login_in_tunnel,
                config.login_ca,
                config.token_file,
            ),
            gateway: Gateway::new(config.gateway, config.hostname, config.gateway_name, config.authority),
            lease,
            store,
            unsaved: false,
            warned,
        }
    }

    /// Gets a token: from the cache file, else by a login.
    pub fn get_token(&mut self) -> Result<Source, Error> {
        self.account.obtain(&mut self.gateway)
    }

    /// Gets a new lease and stores it before anything is done with it, so that a kill from then on costs no port.
    pub fn get_signature(&mut self) -> Result<&Lease, Error> {
        let token = self.account.token().ok_or(Error::new(Op::TokenFile, Cause::NoCredentials))?;
        let lease = self.gateway.get_signature(token)?;
        self.lease = Some(lease);
        self.save();
        self.lease.as_ref().ok_or_else(no_lease)
    }

    /// Binds the lease's port, and stores the lease if that has not worked yet.
    pub fn bind_port(&mut self) -> Result<u16, Error> {
        let lease = self.lease.as_ref().ok_or_else(no_lease)?;
        self.gateway.bind_port(lease)?;
        let port = lease.port;
        if self.unsaved {
            self.save();
        }
        Ok(port)
    }

    /// Whether the lease survives a restart.
    pub fn is_saved(&self) -> bool {
        !self.unsaved
    }

    fn save(&mut self) {
        let Some(lease) = &self.lease else { return };
        let result = self.store.save(lease);
        self.unsaved = result.is_err();
        match result {
            Ok(()) => self.warned = false,
            Err(error) if !std::mem::replace(&mut self.warned, true) => log::warn!(
                "{}: {}; the lease is kept in memory only, so a restart gets another port",
                self.store.path().display(),
                plain(&error)
            ),
            Err(_) => {}
        }
    }
}

fn no_lease() -> Error {
    Error::new(Op::BindPort, Cause::field("lease", "is missing"))
}
