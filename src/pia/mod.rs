//! Private Internet Access: the account (token), the gateway (signature and bind), the stored lease, and the CA and
//! names to trust.
//!
//! The protocol follows PIA's own scripts and desktop client. The keeper decides when to make or retry a call.

pub mod account;
pub mod discover;
pub mod gateway;
pub mod lease;
pub mod trust;

use std::path::Path;

use crate::config::{InvalidValue, Reader, is_placeholder};
use crate::error::{Call, Cause, Error};
use crate::files;
use crate::http::tls::{NamePolicy, read_roots};
use crate::http::url::{self, Url};
use crate::keeper::lease::Lease;
use crate::keeper::step::{Completed, Exchange, Progress};
use crate::kernel::Network;
use crate::secret::Secret;
use account::{Account, Credentials};
use gateway::{Gateway, GatewayAddress};
use lease::LeaseStore;
use trust::{Authority, gateway_name, published, urls};

pub struct Pia {
    pub account: Account,
    pub gateway: Gateway,
    pub store: LeaseStore,
    persists: bool,
}

impl Pia {
    /// Reads PIA's settings without sending anything. The lease and the CA are stored in `state_dir`.
    pub fn read(reader: &mut Reader, state_dir: &Path) -> Option<Self> {
        let token_file = account::token_file(reader);
        let credentials = credentials(reader, &token_file);
        let address = GatewayAddress::read(reader);
        let (hostname, policy) = server_name(reader);
        let given = read_roots(reader, "PIA_CA_CERT");
        let published = published(reader, state_dir);
        let remedy = "use an https URL";
        let login_urls = urls(reader, "PIA_LOGIN_URL", &account::LOGIN_URLS, remedy, |text| match Url::parse(text)? {
            url if url.https => Ok(url),
            _ => Err("is not https, so the password would be sent unencrypted".to_owned()),
        });
        let in_tunnel = reader.get("PIA_LOGIN_URL").is_none();
        let login_roots = read_roots(reader, "PIA_LOGIN_CA_CERT");
        let authority = given.map(Authority::given).or(published.map(Authority::published))?;
        Some(Self {
            account: Account::new(credentials, login_urls, in_tunnel, login_roots, token_file),
            gateway: Gateway::new(address?, hostname, policy, authority),
            store: LeaseStore::new(state_dir),
            persists: true,
        })
    }

    /// Keeps token, lease and CA in memory only.
    pub fn disable_persistence(&mut self) {
        self.persists = false;
        self.account.disable_persistence();
        self.gateway.disable_persistence();
    }

    pub fn get_token(&mut self, refused: Option<&Secret>, network: &Network) -> Exchange<Completed> {
        self.account.get_token(refused, &mut self.gateway, network)
    }

    pub fn store(&self, lease: &Lease) -> Exchange<Completed> {
        if self.persists {
            self.store.save(lease).map_err(|error| {
                Error::new(Call::StoreLease, Cause::File { path: self.store.path().display().to_string(), error })
            })?;
        }
        Ok(Progress::Done(Completed::Stored))
    }
}

/// `None` if the credentials are invalid or not set. Reports a problem unless a token file makes them unnecessary.
fn credentials(reader: &mut Reader, token_file: &Path) -> Option<Credentials> {
    let before = reader.problems();
    let pair = reader.pair("PIA_USERNAME", "PIA_PASSWORD");
    if pair.is_none()
        && reader.problems() == before
        && let Err(problem) = account::read_token(token_file)
    {
        let problem = problem.unwrap_or_else(|| "is missing or empty".to_owned());
        let problem = format!("is not set, and PIA_TOKEN_FILE {} {problem}", files::display_path(token_file));
        let remedy = "set PIA_USERNAME and PIA_PASSWORD (or PIA_USERNAME_FILE and PIA_PASSWORD_FILE)";
        reader.problem("PIA_USERNAME", None, problem, remedy);
    }
    pair.map(|(username, password)| Credentials { username, password })
}

/// Name of the VPN server, and the check of its certificate. A name with a dot is a region's, from PIA's files for `OpenVPN`:
/// with it, the gateway shows the certificate of a public CA (source: traces).
fn server_name(reader: &mut Reader) -> (Option<String>, NamePolicy) {
    let policy = name_policy(reader);
    let name = reader.get("PIA_HOSTNAME").map(str::to_owned);
    match name {
        Some(region) if region.contains('.') && !matches!(policy, NamePolicy::Any) => {
            reader.warnings.push(format!(
                "PIA_HOSTNAME={region} is ignored, because it is a region's host name and not a server's; the check command shows \
                 the server's name"
            ));
            (None, NamePolicy::Any)
        }
        name => (name, policy),
    }
}

fn name_policy(reader: &mut Reader) -> NamePolicy {
    let remedy =
        "use the name in the gateway's certificate, e.g. mexico409; the log shows it if PIA_HOSTNAME is not set";
    let policy = reader.optional("PIA_HOSTNAME", remedy, |name| {
        if is_placeholder(name) {
            return Err(InvalidValue::from("is a placeholder"));
        }
        let bare = url::bare(name);
        gateway_name(name).map_err(|problem| match bare.split(':').next() {
            Some(host) if host != name && gateway_name(host).is_ok() => {
                InvalidValue::meant("contains more than the name", host)
            }
            _ => problem.into(),
        })
    });
    policy.unwrap_or(NamePolicy::Any)
}
