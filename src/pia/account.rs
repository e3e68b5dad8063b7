//! The account: a token from the cache file, or from a login at PIA's public endpoints or, when none of them can be
//! reached, at the gateway.

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

/// PIA's public login endpoints, in the order of PIA's own desktop client. Both take a form.
pub const LOGIN_URLS: [&str; 2] = [
    "https://www.privateinternetaccess.com/api/client/v2/token",
    "https://apiv2.privateinternetaccess.com/api/client/v2/token",
];
/// Bytes; PIA's tokens have 128. More is not a token.
const MAX_TOKEN: usize = 4096;

/// User name and password of a PIA account.
pub struct Credentials {
    /// `p1234567`.
    pub username: String,
    /// The account's password.
    pub password: Secret,
}

impl Credentials {
    fn fields(&self) -> [(&str, &str); 2] {
        [("username", &self.username), ("password", self.password.expose())]
    }
}

/// Where the token is cached: the Python daemon's place, and below /run/pia where a service has made that folder.
pub fn token_file(reader: &Reader) -> PathBuf {
    let folder = reader.get("RUNTIME_DIRECTORY").and_then(|list| list.split(':').next()).unwrap_or("/run/pia");
    match Path::new(folder) {
        folder if folder.is_dir() => reader.path("PIA_TOKEN_FILE", folder.join("token")),
        _ => reader.path("PIA_TOKEN_FILE", "/var/run/pia_token"),
    }
}

/// The account.
pub struct Account {
    credentials: Option<Credentials>,
    /// In the order in which they are tried.
    endpoints: Vec<Url>,
    /// Whether the gateway may be asked after them.
    in_tunnel: bool,
    /// Roots for the login instead of the public ones.
    roots: Option<RootCertStore>,
    token_file: PathBuf,
    /// A token from a login is written to the file.
    persists: bool,
    /// The endpoints that were tried in vain in this round.
    tried: Vec<Attempt>,
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
        Self { credentials, endpoints, in_tunnel, roots, token_file, persists: true, tried: Vec::new(), warned: false }
    }

    /// Gets a token: from the cache file, unless it holds the one that was `refused`, else by a login.
    ///
    /// An endpoint that cannot be reached or does not know the call leads to the next one; rejected credentials and a
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
                "PIA_TOKEN_FILE {}: {}; the token is kept in memory, and every start will log in",
                files::display_path(&self.token_file),
                io_message(&error)
            );
        }
        Ok(Progress::Done(Completed::Token { token, logged_in: true }))
    }

    /// Tokens are not written to the cache file.
    pub fn disable_persistence(&mut self) {
        self.persists = false;
    }

    /// What proves us; none without an account.
    pub fn credentials(&self) -> Option<Secret> {
        let credentials = self.credentials.as_ref()?;
        Some(Secret::new(format!("{}\0{}", credentials.username, credentials.password.expose())))
    }

    /// The file that caches the token.
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
                    log::warn!("PIA_TOKEN_FILE {} {problem}; it is not used", files::display_path(&self.token_file));
                }
                None
            }
        }
    }

    /// Asks the next endpoint.
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
        if matches!(error.retry, Retry::CredentialsRejected | Retry::LockedOut { .. }) {
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

/// As PIA's desktop client does where the website is blocked (`10.0.0.1:443/apiv2/token`); JSON.
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

/// The error of a step at the account.
fn failed(call: Call, cause: Cause) -> Error {
    let advice = match &cause {
        Cause::CredentialsRejected { .. } => "correct PIA_USERNAME and PIA_PASSWORD, then restart",
        Cause::NoCredentials => "put a new token into PIA_TOKEN_FILE, or set PIA_USERNAME and PIA_PASSWORD and restart",
        Cause::Lookup { .. } => {
            "DNS does not work here: check /etc/resolv.conf; through a VPN, check that the VPN is up"
        }
        Cause::Connect { .. } | Cause::NoRoute { .. } => "check that the VPN is up and lets this machine out",
        Cause::UnknownIssuer | Cause::NameMismatch { .. } => {
            "something intercepts the connection, or PIA_LOGIN_CA_CERT does not fit PIA_LOGIN_URL"
        }
        _ => return Error::new(call, cause),
    };
    Error::new(call, cause).advise(Some(advice))
}

/// The error where these credentials were rejected a while ago and are not tried again yet.
pub fn rejected_before() -> Error {
    failed(Call::Login, rejected(true))
}

fn rejected(before: bool) -> Cause {
    Cause::CredentialsRejected { what: AuthMethod::Password, before }
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
        return Err(rejected(false));
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

    /// From the file: no gateway is asked.
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
    fn a_token_put_there_manually_is_used() {
        let dir = TempDir::new();
        let file = dir.path().join("token");
        std::fs::write(&file, "\n  abc123 \r\n").unwrap();
        assert_eq!(token(&mut account(&file), None).unwrap(), "abc123");
    }

    #[test]
    fn a_refused_token_is_not_believed_again_until_the_file_changes() {
        let dir = TempDir::new();
        let file = dir.path().join("token");
        std::fs::write(&file, "old").unwrap();
        let mut account = account(&file);
        assert!(matches!(token(&mut account, Some("old")).unwrap_err().cause, Cause::NoCredentials));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "old", "the file is the user's");
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
            (Cause::LockedOut { retry_after: None }, "when the lockout is over"),
            (lookup, "DNS"),
        ] {
            let error = failed(Call::Login, cause);
            assert!(error.advice.contains(advice), "{error}: {}", error.advice);
        }
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
