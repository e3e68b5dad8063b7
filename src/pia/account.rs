//! The account: a token from the cache file, or from a login at PIA's public endpoints or, when none of them can be
//! reached, at the gateway.

use std::path::{Path, PathBuf};

use miniserde::json::Value;
use rustls::RootCertStore;

use super::gateway::Gateway;
use super::trust::tls_to;
use crate::config::Url;
use crate::error::{Attempt, Cause, Error, Op, plain};
use crate::files::{self, Durability};
use crate::http::{Method, Peer, Request, Response};
use crate::json;
use crate::secret::Secret;

/// Bytes; PIA's tokens have 128. More is not a token.
const MAX_TOKEN: usize = 4096;

/// Where a token came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The cache file, written by us or put there by hand.
    File,
    /// A login just now.
    Login,
}

/// User name and password of a PIA account.
pub struct Credentials {
    /// `p1234567`.
    pub username: String,
    /// The account's password.
    pub password: Secret,
}

/// The account and its token.
pub struct Account {
    credentials: Option<Credentials>,
    /// In the order in which they are tried.
    endpoints: Vec<Url>,
    /// Whether the gateway is asked after them.
    in_tunnel: bool,
    /// Roots for the login instead of the public ones.
    roots: Option<RootCertStore>,
    token_file: PathBuf,
    token: Option<Secret>,
    /// The token that was refused last: the cache file is not believed while it still holds this one.
    rejected: Option<Secret>,
    /// What is wrong with the cache file was said.
    warned: bool,
}

impl Account {
    /// Nothing is read or sent yet.
    pub fn new(
        credentials: Option<Credentials>,
        endpoints: Vec<Url>,
        in_tunnel: bool,
        roots: Option<RootCertStore>,
        token_file: PathBuf,
    ) -> Self {
        Self { credentials, endpoints, in_tunnel, roots, token_file, token: None, rejected: None, warned: false }
    }

    /// The token, once [`Account::obtain`] found one.
    pub fn token(&self) -> Option<&Secret> {
        self.token.as_ref()
    }

    /// The gateway does not accept the token: the next [`Account::obtain`] gets another one.
    pub fn reject(&mut self) {
        if let Some(token) = self.token.take() {
            self.rejected = Some(token);
        }
    }

    /// Gets a token: from the cache file, else by a login.
    ///
    /// An endpoint that cannot be reached or does not know the call leads to the next one; rejected credentials and a
    /// lockout end the round.
    pub fn obtain(&mut self, gateway: &mut Gateway) -> Result<Source, Error> {
        if let Some(token) = self.cached() {
            self.token = Some(token);
            return Ok(Source::File);
        }
        let token = self.log_in(gateway)?;
        if let Err(error) = files::write(&self.token_file, token.expose().as_bytes(), Durability::Durable) {
            log::warn!(
                "PIA_TOKEN_FILE {}: {}; the token is kept in memory, and every start will log in",
                files::shown(&self.token_file),
                plain(&error)
            );
        }
        self.token = Some(token);
        Ok(Source::Login)
    }

    fn cached(&mut self) -> Option<Secret> {
        match read_token(&self.token_file) {
            Ok(token) => Some(token).filter(|token| self.rejected.as_ref() != Some(token)),
            Err(problem) => {
                if let Some(problem) = problem
                    && !std::mem::replace(&mut self.warned, true)
                {
                    log::warn!("PIA_TOKEN_FILE {} {problem}; it is not used", files::shown(&self.token_file));
                }
                None
            }
        }
    }

    fn log_in(&self, gateway: &mut Gateway) -> Result<Secret, Error> {
        let Some(credentials) = &self.credentials else {
            return Err(Error::new(Op::TokenFile, Cause::NoCredentials));
        };
        let mut attempts = Vec::new();
        for endpoint in self.endpoints.iter().map(Some).chain(self.in_tunnel.then_some(None)) {
            let (at, result) = match endpoint {
                Some(url) => (url.host.clone(), self.log_in_at(url, credentials)),
                None => ("the gateway".to_owned(), log_in_in_tunnel(gateway, credentials)),
            };
            match result {
                Err(cause @ (Cause::CredentialsRejected { .. } | Cause::LockedOut { .. })) => {
                    return Err(Error::new(Op::Login, cause));
                }
                Err(cause) => {
                    log::debug!("login at {at}: {cause}");
                    attempts.push(Attempt { at, cause });
                }
                Ok(token) => return Ok(token),
            }
        }
        Err(Error::new(Op::Login, Cause::all_failed(attempts)))
    }

    fn log_in_at(&self, endpoint: &Url, credentials: &Credentials) -> Result<Secret, Cause> {
        let tls = tls_to(&endpoint.host, self.roots.as_ref())?;
        let peer = Peer::new(endpoint.host.clone(), endpoint.port, endpoint.host_header(), Some(tls));
        ask_for_token(peer, Method::Post, &endpoint.path, credentials)
    }
}

/// As PIA's desktop client does where the website is blocked (`10.0.0.1:443/apiv2/token`); JSON.
fn log_in_in_tunnel(gateway: &mut Gateway, credentials: &Credentials) -> Result<Secret, Cause> {
    ask_for_token(gateway.login_peer()?, Method::PostJson, "/apiv2/token", credentials)
}

fn ask_for_token(mut peer: Peer, method: Method, path: &str, credentials: &Credentials) -> Result<Secret, Cause> {
    let username = Secret::new(credentials.username.clone());
    let response = peer.send(&Request {
        method,
        path,
        fields: &[("username", &credentials.username), ("password", credentials.password.expose())],
        headers: &[],
        secrets: &[&username, &credentials.password],
        completes: false,
    })?;
    token_of(&response)
}

/// `{"token":"…"}`, a rejection (401), or a lockout (429 or `too_many_attempts`).
fn token_of(response: &Response) -> Result<Secret, Cause> {
    let fields = json::object(&response.text()).unwrap_or_default();
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if response.status == 429 || text("code") == Some("too_many_attempts") {
        return Err(Cause::LockedOut { retry_after: response.retry_after() });
    }
    if response.status == 401 {
        return Err(Cause::CredentialsRejected { status: 401 });
    }
    if !response.is_success() {
        return Err(response.unexpected());
    }
    let token = text("token").ok_or_else(|| Cause::field("token", "is missing"))?;
    check_token(token).map(Secret::new).ok_or_else(|| Cause::field("token", "is not a token"))
}

/// A token without the white space around it; none when it cannot be one. Its characters go into a URL encoded.
fn check_token(text: &str) -> Option<&str> {
    let token = text.trim();
    let plausible = (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    plausible.then_some(token)
}

/// The token in a file; `Err(None)` when the file is absent or empty, `Err(Some(problem))` when it cannot be used.
pub fn read_token(path: &Path) -> Result<Secret, Option<String>> {
    let text = match files::read(path) {
        Ok(text) if text.trim().is_empty() => return Err(None),
        Ok(text) => text,
        Err(error) if files::is_absent(&error) => return Err(None),
        Err(error) => return Err(Some(format!("cannot be read: {}", plain(&error)))),
    };
    check_token(&text).map(Secret::new).ok_or_else(|| Some("does not hold a token".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GatewayAddress;
    use crate::http::tls::NamePolicy;
    use crate::pia::trust::Authority;
    use crate::testing::TempDir;

    fn account(file: &Path) -> Account {
        Account::new(None, Vec::new(), false, None, file.to_owned())
    }

    /// From the file: no gateway is asked.
    fn obtain(account: &mut Account) -> Result<Source, Error> {
        let address = GatewayAddress::At { host: "127.0.0.1".to_owned(), port: 1 };
        let authority = Authority::given(RootCertStore::empty());
        account.obtain(&mut Gateway::new(address, None, NamePolicy::Any, authority))
    }

    #[test]
    fn a_token_put_there_by_hand_is_used() {
        let dir = TempDir::new();
        let file = dir.path().join("token");
        std::fs::write(&file, "\n  abc123 \r\n").unwrap();
        let mut account = account(&file);
        assert_eq!(obtain(&mut account).unwrap(), Source::File);
        assert_eq!(account.token().unwrap().expose(), "abc123");
    }

    #[test]
    fn a_rejected_token_is_not_believed_again_until_the_file_changes() {
        let dir = TempDir::new();
        let file = dir.path().join("token");
        std::fs::write(&file, "old").unwrap();
        let mut account = account(&file);
        obtain(&mut account).unwrap();
        account.reject();
        assert!(matches!(obtain(&mut account).unwrap_err().cause, Cause::NoCredentials));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "old", "the file is the user's");
        std::fs::write(&file, "new").unwrap();
        assert_eq!(obtain(&mut account).unwrap(), Source::File);
        assert_eq!(account.token().unwrap().expose(), "new");
    }

    #[test]
    fn garbage_is_no_token() {
        let dir = TempDir::new();
        let file = dir.path().join("token");
        for garbage in ["two words", "ümlaut", "a\nb", &"x".repeat(MAX_TOKEN + 1)] {
            std::fs::write(&file, garbage).unwrap();
            assert_eq!(read_token(&file), Err(Some("does not hold a token".to_owned())));
        }
        for absent in ["", " \n"] {
            std::fs::write(&file, absent).unwrap();
            assert_eq!(read_token(&file), Err(None));
        }
        std::fs::write(&file, [0xff]).unwrap();
        assert!(matches!(read_token(&file), Err(Some(_))));
    }
}
