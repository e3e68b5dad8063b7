//! The PIA account. A token comes from the cache file or else from a login: at PIA's public endpoints or, if all of
//! them fail, through the gateway. When to ask for a token is the keeper's decision.

use std::path::{Path, PathBuf};

use miniserde::json::Value;
use rustls::RootCertStore;

use super::gateway::Gateway;
use crate::config::Reader;
use crate::error::{Attempt, AuthMethod, Call, Cause, Error, Retry, io_message};
use crate::files::{self, Durability};
use crate::http::tls::tls_to;
use crate::http::url::Url;
use crate::http::{Connection, Content, Request, Response, encode_json};
use crate::json;
use crate::keeper::step::{Completed, Exchange, Progress};
use crate::kernel::Network;
use crate::secret::Secret;

/// PIA's public login endpoints, in the order that PIA's desktop client tries them. Both expect a form.
pub const LOGIN_URLS: [&str; 2] = [
    "https://www.privateinternetaccess.com/api/client/v2/token",
    "https://apiv2.privateinternetaccess.com/api/client/v2/token",
];
/// Longest text accepted as a token, in bytes; PIA's have 128.
const MAX_TOKEN: usize = 4096;

pub struct Credentials {
    /// Looks like `p1234567`.
    pub username: String,
    pub password: Secret,
}

impl Credentials {
    fn fields(&self) -> [(&str, &str); 2] {
        [("username", &self.username), ("password", self.password.expose())]
    }
}

/// Default: `token` in the service's runtime directory if that exists, otherwise the file of the Python daemon.
pub fn token_file(reader: &Reader) -> PathBuf {
    let folder = reader.get("RUNTIME_DIRECTORY").and_then(|list| list.split(':').next()).unwrap_or("/run/pia");
    match Path::new(folder) {
        folder if folder.is_dir() => reader.path("PIA_TOKEN_FILE", folder.join("token")),
        _ => reader.path("PIA_TOKEN_FILE", "/var/run/pia_token"),
    }
}

pub struct Account {
    credentials: Option<Credentials>,
    /// Tried in this order.
    endpoints: Vec<Url>,
    /// Whether a login through the gateway may follow when all endpoints have failed.
    in_tunnel: bool,
    /// Roots for logins in place of the public ones.
    roots: Option<RootCertStore>,
    token_file: PathBuf,
    /// Whether a token from a login is written to the file.
    persists: bool,
    /// Endpoints that have failed in this round.
    tried: Vec<Attempt>,
    /// Whether the log has a warning about an unusable cache file.
    warned: bool,
}

impl Account {
    pub fn new(
        credentials: Option<Credentials>,
        endpoints: Vec<Url>,
        in_tunnel: bool,
        roots: Option<RootCertStore>,
        token_file: PathBuf,
    ) -> Self {
        Self { credentials, endpoints, in_tunnel, roots, token_file, persists: true, tried: Vec::new(), warned: false }
    }

    /// Reads the token from the cache file, or logs in if the file has none or only the `refused` one.
    ///
    /// After a failed login the next endpoint follows, but rejected credentials and a lockout end the round.
    pub fn get_token(
        &mut self,
        refused: Option<&Secret>,
        gateway: &mut Gateway,
        network: &Network,
    ) -> Exchange<Completed> {
        if self.tried.is_empty()
            && let Some(token) = self.cached().filter(|token| Some(token) != refused)
        {
            return Ok(Progress::Done(Completed::Token { token, logged_in: false }));
        }
        let Progress::Done(token) = self.log_in(gateway, network)? else { return Ok(Progress::More) };
        if self.persists
            && let Err(error) = files::write(&self.token_file, token.expose().as_bytes(), Durability::Durable)
        {
            log::warn!(
                "cannot write PIA_TOKEN_FILE {}: {}; the token stays in memory, and every start logs in again",
                files::display_path(&self.token_file),
                io_message(&error)
            );
        }
        Ok(Progress::Done(Completed::Token { token, logged_in: true }))
    }

    /// Stops writing tokens to the cache file.
    pub fn disable_persistence(&mut self) {
        self.persists = false;
    }

    /// User name and password as one secret, to recognise a rejected pair.
    pub fn credentials(&self) -> Option<Secret> {
        let credentials = self.credentials.as_ref()?;
        Some(Secret::new(format!("{}\0{}", credentials.username, credentials.password.expose())))
    }

    pub fn token_file(&self) -> &Path {
        &self.token_file
    }

    fn cached(&mut self) -> Option<Secret> {
        match read_token(&self.token_file) {
            Ok(token) => Some(token),
            Err(problem) => {
                if let Some(problem) = problem
                    && !std::mem::replace(&mut self.warned, true)
                {
                    log::warn!("PIA_TOKEN_FILE {} {problem}; ignoring it", files::display_path(&self.token_file));
                }
                None
            }
        }
    }

    /// Tries the next endpoint.
    fn log_in(&mut self, gateway: &mut Gateway, network: &Network) -> Exchange<Secret> {
        let Some(credentials) = &self.credentials else {
            return Err(failed(Call::Token, Cause::NoCredentials));
        };
        let (at, result) = match self.endpoints.get(self.tried.len()) {
            Some(url) => (url.host.clone(), self.log_in_at(url, credentials).map(Progress::Done)),
            None => ("the gateway".to_owned(), log_in_in_tunnel(gateway, credentials, network)),
        };
        let error = match result {
            Ok(Progress::More) => return Ok(Progress::More),
            Ok(done) => {
                self.tried.clear();
                return Ok(done);
            }
            Err(error) => error,
        };
        if matches!(error.retry, Retry::CredentialsRejected | Retry::LockedOut(_)) {
            self.tried.clear();
            return Err(error);
        }
        log::debug!("login at {at}: {}", error.cause);
        self.tried.push(Attempt { at, error });
        let in_tunnel = self.in_tunnel && gateway.is_confidential(network);
        if self.tried.len() < self.endpoints.len() + usize::from(in_tunnel) {
            return Ok(Progress::More);
        }
        Err(Error::all_failed(Call::Login, std::mem::take(&mut self.tried)))
    }

    fn log_in_at(&self, endpoint: &Url, credentials: &Credentials) -> Result<Secret, Error> {
        let tls = tls_to(&endpoint.host, self.roots.as_ref()).map_err(|cause| failed(Call::Login, cause))?;
        let connection = Connection::new(endpoint.host.clone(), endpoint.port, endpoint.host_header(), Some(tls));
        let fields = credentials.fields();
        ask_for_token(connection, &endpoint.path, Content::Form(&fields), credentials)
    }
}

/// Logs in through the gateway with JSON, as PIA's desktop client does if the website is blocked
/// (`10.0.0.1:443/apiv2/token`).
fn log_in_in_tunnel(gateway: &mut Gateway, credentials: &Credentials, network: &Network) -> Exchange<Secret> {
    let Progress::Done(connection) = gateway.login_connection(Call::Login, network)? else { return Ok(Progress::More) };
    let json = encode_json(&credentials.fields());
    ask_for_token(connection, "/apiv2/token", Content::Json(&json), credentials).map(Progress::Done)
}

fn ask_for_token(
    mut connection: Connection,
    path: &str,
    content: Content,
    credentials: &Credentials,
) -> Result<Secret, Error> {
    let username = Secret::new(credentials.username.clone());
    let request = Request { headers: &[], secrets: &[&username, &credentials.password], ..Request::new(path, content) };
    connection.send(&request).and_then(|response| token_of(&response)).map_err(|cause| failed(Call::Login, cause))
}

/// Adds the advice for a failed call to PIA's account API.
fn failed(call: Call, cause: Cause) -> Error {
    let advice = match &cause {
        Cause::CredentialsRejected { .. } => "correct PIA_USERNAME and PIA_PASSWORD, then restart",
        Cause::NoCredentials => "put a new token into PIA_TOKEN_FILE, or set PIA_USERNAME and PIA_PASSWORD and restart",
        Cause::Lookup { .. } => {
            "DNS does not work here: check /etc/resolv.conf; if traffic goes through a VPN, check that it is up"
        }
        Cause::Connect { .. } | Cause::NoRoute { .. } => "check that the VPN is up and allows outgoing connections",
        Cause::UnknownIssuer | Cause::NameMismatch { .. } => {
            "check for a proxy that intercepts TLS; if PIA_LOGIN_CA_CERT is set, check that it fits PIA_LOGIN_URL"
        }
        _ => return Error::new(call, cause),
    };
    Error::new(call, cause).advise(Some(advice))
}

/// Error for credentials that PIA rejected earlier and that are not tried again yet.
pub fn rejected_before() -> Error {
    failed(Call::Login, rejected(true))
}

fn rejected(before: bool) -> Cause {
    Cause::CredentialsRejected { what: AuthMethod::Password, before }
}

/// Reads `{"token":"…"}`, a rejection (401), or a lockout (429 or `too_many_attempts`).
fn token_of(response: &Response) -> Result<Secret, Cause> {
    let fields = json::object(&response.text()).unwrap_or_default();
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if response.status == 429 || text("code") == Some("too_many_attempts") {
        return Err(Cause::LockedOut(response.retry_after()));
    }
    if response.status == 401 {
        return Err(rejected(false));
    }
    if !response.is_success() {
        return Err(response.unexpected());
    }
    let token = text("token").ok_or_else(|| Cause::field("token", "is missing"))?;
    check_token(token).map(Secret::new).ok_or_else(|| Cause::field("token", "is malformed"))
}

/// Trims `text`; `None` if it cannot be a token. Any printable ASCII may be one, because URLs carry it encoded.
fn check_token(text: &str) -> Option<&str> {
    let token = text.trim();
    let plausible = (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    plausible.then_some(token)
}

/// Reads a token file; `Err(None)` if it is absent or empty, `Err(Some(problem))` if it is unusable.
pub fn read_token(path: &Path) -> Result<Secret, Option<String>> {
    let text = match files::read(path) {
        Ok(text) if text.trim().is_empty() => return Err(None),
        Ok(text) => text,
        Err(error) if files::is_absent(&error) => return Err(None),
        Err(error) => return Err(Some(format!("cannot be read: {}", io_message(&error)))),
    };
    check_token(&text).map(Secret::new).ok_or_else(|| Some("does not hold a token".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tls::NamePolicy;
    use crate::pia::gateway::GatewayAddress;
    use crate::pia::trust::Authority;
    use crate::testing::TempDir;

    fn account(file: &Path) -> Account {
        Account::new(None, Vec::new(), false, None, file.to_owned())
    }

    /// Reads the token from the file alone.
    fn token(account: &mut Account, refused: Option<&str>) -> Result<String, Error> {
        let address = GatewayAddress::At { host: "127.0.0.1".to_owned(), port: 1 };
        let authority = Authority::given(RootCertStore::empty());
        let mut gateway = Gateway::new(address, None, NamePolicy::Any, authority);
        match account.get_token(refused.map(Secret::new).as_ref(), &mut gateway, &Network::default())? {
            Progress::Done(Completed::Token { token, logged_in: false }) => Ok(token.expose().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_token_from_the_user_is_used() {
        let dir = TempDir::new();
        let file = dir.path().join("token");
        std::fs::write(&file, "\n  abc123 \r\n").unwrap();
        assert_eq!(token(&mut account(&file), None).unwrap(), "abc123");
    }

    #[test]
    fn a_refused_token_is_ignored_until_the_file_changes() {
        let dir = TempDir::new();
        let file = dir.path().join("token");
        std::fs::write(&file, "old").unwrap();
        let mut account = account(&file);
        assert!(matches!(token(&mut account, Some("old")).unwrap_err().cause, Cause::NoCredentials));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "old", "the user's file is left alone");
        std::fs::write(&file, "new").unwrap();
        assert_eq!(token(&mut account, Some("old")).unwrap(), "new");
    }

    #[test]
    fn failures_of_a_login_lead_to_advice() {
        let connect = Cause::Connect { to: "h:443".to_owned(), error: std::io::ErrorKind::ConnectionRefused.into() };
        let mismatch = Cause::NameMismatch { expected: "a".to_owned(), carried: Vec::new() };
        let lookup = Cause::Lookup { name: "h".to_owned(), error: "no address".to_owned() };
        for (cause, advice) in [
            (rejected(false), "correct PIA_USERNAME and PIA_PASSWORD"),
            (Cause::NoCredentials, "put a new token into PIA_TOKEN_FILE"),
            (connect, "check that the VPN is up"),
            (Cause::UnknownIssuer, "PIA_LOGIN_CA_CERT"),
            (mismatch, "PIA_LOGIN_CA_CERT"),
            (Cause::LockedOut(None), "the lockout is over"),
            (lookup, "DNS"),
        ] {
            let error = failed(Call::Login, cause);
            assert!(error.advice.contains(advice), "{error}: {}", error.advice);
        }
    }

    #[test]
    fn garbage_is_not_a_token() {
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
