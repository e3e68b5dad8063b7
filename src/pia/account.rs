//! Tokens for the PIA account, read from the cache file or obtained by logging in: at PIA's public endpoints or, if all
//! of them fail, through the gateway. The keeper decides when a token is needed.

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

/// PIA's public login endpoints, in the order in which PIA's desktop client tries them. Both expect form data.
pub const LOGIN_URLS: [&str; 2] = [
    "https://www.privateinternetaccess.com/api/client/v2/token",
    "https://apiv2.privateinternetaccess.com/api/client/v2/token",
];
/// Maximum length of a token in bytes; PIA's tokens are 128 bytes long.
const MAX_TOKEN: usize = 4096;

pub struct Credentials {
    /// For example, `p1234567`.
    pub username: String,
    pub password: Secret,
}

impl Credentials {
    fn fields(&self) -> [(&str, &str); 2] {
        [("username", &self.username), ("password", self.password.expose())]
    }
}

/// Path of the token cache (`PIA_TOKEN_FILE`). Defaults to `token` in the service's runtime directory or, without such
/// a directory, to the file of the earlier Python daemon.
pub fn token_file(reader: &Reader) -> PathBuf {
    let folder = reader.get("RUNTIME_DIRECTORY").and_then(|list| list.split(':').next()).unwrap_or("/run/pia");
    match Path::new(folder) {
        folder if folder.is_dir() => reader.path("PIA_TOKEN_FILE", folder.join("token")),
        _ => reader.path("PIA_TOKEN_FILE", "/var/run/pia_token"),
    }
}

pub struct Account {
    credentials: Option<Credentials>,
    /// Public login URLs, tried in order.
    endpoints: Vec<Url>,
    /// True if a login through the gateway is tried after all endpoints have failed.
    in_tunnel: bool,
    /// Root certificates to trust for logins, in place of Mozilla's (`PIA_LOGIN_CA_CERT`).
    roots: Option<RootCertStore>,
    token_file: PathBuf,
    /// True if new tokens are written to `token_file`.
    persists: bool,
    /// Endpoints that have failed in the current round of logins.
    tried: Vec<Attempt>,
    /// True once a warning about an unusable token file has been logged.
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

    /// Reads the token from the cache file; logs in if the file holds no token or only the `refused` one.
    ///
    /// Each call tries one endpoint; after a failure, the next call tries the next endpoint. Rejected credentials or a
    /// lockout end the round.
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
                "cannot write PIA_TOKEN_FILE {}: {}; the token is kept in memory only, so every start logs in again",
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

    /// User name and password joined into one secret, to recognise credentials that PIA has rejected.
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

    /// Logs in at the next endpoint, or through the gateway after the last one.
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
        log::debug!("login at {at} failed: {}", error.cause);
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

/// Logs in through the gateway with a JSON body, as PIA's desktop client does when the website is blocked
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

fn failed(call: Call, cause: Cause) -> Error {
    let advice = match &cause {
        Cause::CredentialsRejected { .. } => "correct PIA_USERNAME and PIA_PASSWORD, then restart",
        Cause::NoCredentials => "put a new token into PIA_TOKEN_FILE, or set PIA_USERNAME and PIA_PASSWORD and restart",
        Cause::Lookup { .. } => "check DNS in /etc/resolv.conf and, if traffic goes through a VPN, that the VPN is up",
        Cause::Connect { .. } | Cause::NoRoute { .. } => "check that the VPN is up and allows outgoing connections",
        Cause::UnknownIssuer | Cause::NameMismatch { .. } => {
            "check for a proxy that intercepts TLS; if PIA_LOGIN_CA_CERT is set, check that it is the CA of PIA_LOGIN_URL"
        }
        _ => return Error::new(call, cause),
    };
    Error::new(call, cause).advise(Some(advice))
}

/// Error for credentials that PIA has already rejected; returned instead of logging in again.
pub fn rejected_before() -> Error {
    failed(Call::Login, rejected(true))
}

fn rejected(before: bool) -> Cause {
    Cause::CredentialsRejected { what: AuthMethod::Password, before }
}

/// Extracts the token from `{"token":"…"}`, or recognises a rejection (401) or a lockout (429 or `too_many_attempts`).
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

/// Trims `text`; `None` if the result cannot be a token. Accepts any printable ASCII, because tokens are
/// percent-encoded in URLs.
fn check_token(text: &str) -> Option<&str> {
    let token = text.trim();
    let plausible = (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    plausible.then_some(token)
}

/// Reads a token file; `Err(None)` if it is missing or empty, `Err(Some(problem))` if it is unusable.
pub fn read_token(path: &Path) -> Result<Secret, Option<String>> {
    let text = match files::read(path) {
        Ok(text) if text.trim().is_empty() => return Err(None),
        Ok(text) => text,
        Err(error) if files::is_absent(&error) => return Err(None),
        Err(error) => return Err(Some(format!("cannot be read: {}", io_message(&error)))),
    };
    check_token(&text).map(Secret::new).ok_or_else(|| Some("does not contain a token".to_owned()))
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

    /// Gets a token from the file; panics if it comes from a login.
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
    fn failed_logins_come_with_advice() {
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
            assert_eq!(read_token(&file), Err(Some("does not contain a token".to_owned())));
        }
        for absent in ["", " \n"] {
            std::fs::write(&file, absent).unwrap();
            assert_eq!(read_token(&file), Err(None));
        }
        std::fs::write(&file, [0xff]).unwrap();
        assert!(matches!(read_token(&file), Err(Some(_))));
    }
}
