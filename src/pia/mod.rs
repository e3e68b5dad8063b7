//! Private Internet Access: the account (token), the gateway (signature and bind), the lease, and what we trust.
//!
//! Facts come from PIA's own scripts and desktop client; when something is asked again is decided in `keeper.rs`.

pub mod account;
pub mod gateway;
pub mod lease;
pub mod trust;

use std::path::Path;

use account::Account;
use gateway::Gateway;
use lease::{Lease, LeaseStore};

use crate::config;
use crate::error::{Cause, Error, Op, plain};
use crate::http::tls::Tls;

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
}

impl Pia {
    /// Reads the stored lease; nothing is sent. A file that cannot be used is a warning and stays until it is replaced.
    pub fn new(config: config::Pia, state_dir: &Path) -> Self {
        let store = LeaseStore::new(state_dir);
        let lease = store.load().unwrap_or_else(|problem| {
            log::warn!("{} {problem}; a new lease will replace it", store.path().display());
            None
        });
        Self {
            account: Account::new(config.credentials, config.login_urls, config.login_ca, config.token_file),
            gateway: Gateway::new(
                &config.gateway_host,
                config.gateway_port,
                config.hostname.as_deref(),
                Tls::new(config.ca, config.gateway_name),
            ),
            lease,
            store,
            unsaved: false,
        }
    }

    /// Gets a new lease and stores it before anything is done with it, so that a kill from then on costs no port.
    pub fn get_signature(&mut self) -> Result<&Lease, Error> {
        let token = self.account.token().ok_or(Error::new(Op::TokenFile, Cause::NoCredentials))?;
        let lease = self.gateway.get_signature(token)?;
        self.unsaved = !self.save(&lease);
        Ok(self.lease.insert(lease))
    }

    /// Binds the lease's port, and stores the lease if that has not worked yet.
    pub fn bind_port(&mut self) -> Result<u16, Error> {
        let missing = || Error::new(Op::BindPort, Cause::field("lease", "is missing"));
        let lease = self.lease.as_ref().ok_or_else(missing)?;
        self.gateway.bind_port(lease)?;
        if self.unsaved {
            self.unsaved = !self.save(lease);
        }
        Ok(lease.port)
    }

    /// Whether the lease survives a restart.
    pub fn is_saved(&self) -> bool {
        !self.unsaved
    }

    fn save(&self, lease: &Lease) -> bool {
        let result = self.store.save(lease);
        if let Err(error) = &result {
            log::debug!("{}: {}", self.store.path().display(), plain(error));
        }
        result.is_ok()
    }
}
