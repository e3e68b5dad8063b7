//! Private Internet Access: the account (token), the gateway (signature and bind), where the lease is kept, and what we trust.
//!
//! Facts come from PIA's own scripts and desktop client; when something is asked again is the keeper's decision.

pub mod account;
pub mod discover;
pub mod gateway;
pub mod lease;
pub mod trust;

use std::path::Path;

use crate::config::{Reader, is_placeholder};
use crate::error::{Cause, Error};
use crate::files;
use crate::http::tls::{NamePolicy, read_roots};
use crate::http::url::Url;
use crate::keeper::lease::Lease;
use crate::keeper::step::{Done, Exchange, Progress};
use crate::secret::Secret;
use account::{Account, Credentials};
use gateway::{Gateway, GatewayAddress};
use lease::LeaseStore;
use trust::{Authority, gateway_name, published, urls};

/// What is needed to speak with PIA.
pub struct Settings {
    /// The account.
    pub account: Account,
    /// The gateway.
    pub gateway: Gateway,
}

impl Settings {
    /// Reads them; what is fetched is kept in `state_dir`.
    pub fn read(reader: &mut Reader, state_dir: &Path) -> Option<Self> {
        let token_file = reader.path("PIA_TOKEN_FILE", "/var/run/pia_token");
        let credentials = credentials(reader, &token_file);
        let address = GatewayAddress::read(reader);
        let hostname = reader.get("PIA_HOSTNAME").map(str::to_owned);
        let policy = name_policy(reader);
        let given = read_roots(reader, "PIA_CA_CERT");
        let published = published(reader, state_dir);
        let right = "an https URL is right";
        let login_urls = urls(reader, "PIA_LOGIN_URL", &account::LOGIN_URLS, right, |text| match Url::parse(text)? {
            url if url.https => Ok(url),
            _ => Err("is not https, and the password would be readable on its way".to_owned()),
        });
        let in_tunnel = reader.get("PIA_LOGIN_URL").is_none();
        let login_roots = read_roots(reader, "PIA_LOGIN_CA_CERT");
        let authority =
            given?.map_or_else(|| published.map(Authority::published), |roots| Some(Authority::given(roots)));
        Some(Self {
            account: Account::new(credentials?, login_urls?, in_tunnel, login_roots?, token_file),
            gateway: Gateway::new(address?, hostname, policy?, authority?),
        })
    }
}

/// Outer none when they are wrong, inner none when a token file does without them.
fn credentials(reader: &mut Reader, token_file: &Path) -> Option<Option<Credentials>> {
    let before = reader.problems();
    let credentials = reader.pair("PIA_USERNAME", "PIA_PASSWORD");
    if reader.problems() > before {
        return None;
    }
    if credentials.is_none()
        && let Err(problem) = account::read_token(token_file)
    {
        let problem = problem.unwrap_or_else(|| "holds no token".to_owned());
        reader.problem(
            "PIA_USERNAME",
            None,
            format!("is not set, and PIA_TOKEN_FILE {} {problem}", files::shown(token_file)),
            "set PIA_USERNAME and PIA_PASSWORD (or PIA_USERNAME_FILE and PIA_PASSWORD_FILE)",
        );
        return None;
    }
    Some(credentials.map(|(username, password)| Credentials { username, password }))
}

fn name_policy(reader: &mut Reader) -> Option<NamePolicy> {
    let right =
        "the name in the gateway's certificate is right, e.g. mexico409; leave it unset to see the name in the log";
    let policy = reader.optional("PIA_HOSTNAME", right, |name| match name {
        name if is_placeholder(name) => Err("is a placeholder".to_owned()),
        name => gateway_name(name),
    })?;
    Some(policy.unwrap_or(NamePolicy::Any))
}

/// PIA's side: account, gateway, and where the lease is kept.
pub struct Pia {
    /// The account.
    pub account: Account,
    /// The gateway.
    pub gateway: Gateway,
    /// Where the lease is kept.
    pub store: LeaseStore,
    keeps: bool,
}

impl Pia {
    /// Nothing is read or sent yet.
    pub fn new(settings: Settings, state_dir: &Path) -> Self {
        let Settings { account, gateway } = settings;
        Self { account, gateway, store: LeaseStore::new(state_dir), keeps: true }
    }

    /// Nothing is written: neither token nor lease nor CA.
    pub fn keep_nothing(&mut self) {
        self.keeps = false;
        self.account.keep_nothing();
        self.gateway.keep_nothing();
    }

    /// Gets a token.
    pub fn get_token(&mut self, refused: Option<&Secret>) -> Exchange<Done> {
        self.account.get_token(refused, &mut self.gateway)
    }

    /// Stores the lease.
    pub fn store(&self, lease: &Lease) -> Exchange<Done> {
        if self.keeps {
            self.store.save(lease).map_err(|error| {
                Error::new("lease", Cause::File { path: self.store.path().display().to_string(), error })
            })?;
        }
        Ok(Progress::Done(Done::Stored))
    }
}
