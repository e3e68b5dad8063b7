//! Errors that can occur once the settings have been accepted, with general advice for each cause.
//!
//! An error contains the failed call, the cause, when to retry, and advice. The advice in this file fits any remote; the module
//! for a particular remote can replace it. No error contains a secret: causes hold numbers, names from public certificates, and
//! excerpts of replies that are safe to show.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;

use crate::time::{human_duration, rfc3339};

/// A program that leases a port may take this long until it has one. After that, or after the same time without an answer, its port
/// counts as lost.
pub const SOURCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Stage of an exchange at which the deadline expired or the connection broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Lookup,
    Connect,
    Handshake,
    Send,
    /// Waiting for the reply's status line and headers, and reading them.
    Head,
    Body,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lookup => "looking up the name",
            Self::Connect => "connecting",
            Self::Handshake => "negotiating TLS",
            Self::Send => "sending the request",
            Self::Head => "waiting for the reply",
            Self::Body => "reading the reply",
        })
    }
}

/// The call that failed; the error message begins with its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Getting a token from PIA's account API.
    Login,
    /// Getting a token when no account is configured.
    Token,
    /// Fetching the CA that signs the gateways' certificates.
    FetchCa,
    GetSignature,
    BindPort,
    StoreLease,
    /// Finding the route to the gateway.
    Route,
    /// Reading the port from the program that leases it (`PORT_SOURCE`).
    PollSource,
    /// Asking the wrong provider for a port: a bug in this program.
    WrongProvider,
    /// Comparing the client's listen port with the leased one.
    ClientPort,
    /// Inspecting the client's socket.
    ClientSocket,
    /// A torrent client's name and the method called in its API.
    Client(&'static str),
    /// Sending a notification; contains the name of the variable that sets the URL.
    Notify(&'static str),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Login => "PIA login",
            Self::Token => "PIA token",
            Self::FetchCa => "PIA's CA",
            Self::GetSignature => "getSignature",
            Self::BindPort => "bindPort",
            Self::StoreLease => "lease",
            Self::Route => "tunnel",
            Self::PollSource => "port source",
            Self::WrongProvider => "port",
            Self::ClientPort => "client port",
            Self::ClientSocket => "client socket",
            Self::Client(name) | Self::Notify(name) => name,
        })
    }
}

/// Kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    Password,
    ApiKey,
}

#[derive(Debug)]
pub enum Cause {
    Lookup {
        name: String,
        error: String,
    },
    Connect {
        /// `host:port` as dialled.
        to: String,
        error: io::Error,
    },
    Timeout {
        phase: Phase,
        /// Deadline for the whole exchange, not the time spent in `phase`.
        after: Duration,
    },
    /// The remote closed the connection before the exchange was complete.
    Closed(Phase),
    /// The kernel has no route to the address.
    NoRoute {
        /// `host:port`, or only the address.
        to: String,
        error: io::Error,
    },
    /// The user or the system asked this program to stop.
    Stopping,
    /// Cancelled because the route to the remote has changed.
    RouteChanged,
    /// Any other connection failure.
    Broken {
        phase: Phase,
        error: io::Error,
    },
    NameMismatch {
        expected: String,
        carried: Vec<String>,
    },
    /// The certificate does not chain to a trusted root.
    UnknownIssuer,
    /// Contains the time on this system's clock when the certificate was rejected.
    CertificateExpired(Timestamp),
    /// Contains the time on this system's clock when the certificate was rejected.
    CertificateNotYetValid(Timestamp),
    /// Every one of several equivalent servers failed; the list is never empty.
    AllFailed(Vec<Attempt>),
    /// A certificate's SHA-256 differs from the pinned one.
    WrongCertificate {
        found: String,
        wanted: String,
    },
    NotTls,
    /// Any other TLS failure, with rustls' own message.
    Tls(String),
    NotHttp,
    TooLarge {
        /// `head` or `body`.
        what: &'static str,
        /// Bytes.
        limit: usize,
    },
    /// A reply with a malformed field.
    Field {
        /// Field name in the protocol.
        field: &'static str,
        /// Never contains the value of a secret field.
        problem: String,
    },
    /// An unsuccessful HTTP status.
    Http {
        status: u16,
        /// Start of the body, or only its length if the body may contain a secret.
        excerpt: String,
        retry_after: Option<Duration>,
    },
    CredentialsRejected {
        what: AuthMethod,
        /// They were rejected in an earlier run, so this run has not sent them again.
        before: bool,
    },
    /// Credentials are required, but none are set.
    NoCredentials,
    /// Too many logins; contains the server's `Retry-After`.
    LockedOut(Option<Duration>),
    File {
        path: String,
        error: io::Error,
    },
    /// An unsuccessful HTTP status with a body that must not be shown.
    HttpStatus(u16),
    /// No tunnel is up, so the gateway cannot be found.
    NoTunnel,
    /// A program of a different user listens where the torrent client has accepted our credentials.
    ListenerChanged {
        at: SocketAddr,
        /// `None` if the kernel shows no listener any more.
        user: Option<u32>,
        /// The user whose program accepted the credentials.
        before: u32,
    },
    /// The torrent client rejected our Host header with this HTTP status.
    HostRejected(u16),
    /// Deluge's web interface is not connected to its daemon.
    NotConnected,
    /// Deluge's web interface lists no daemon to connect to.
    NoDaemon,
    /// The program that leases the port has none.
    NoPort {
        /// Name of the program, with its address.
        source: String,
        since: Duration,
    },
    /// A failure specific to one remote. The text must stay the same while the failure repeats: a new text counts as a new failure.
    Other(String),
}

/// A failed attempt at one of several servers.
#[derive(Debug)]
pub struct Attempt {
    /// The server's name or address, as shown to the user.
    pub at: String,
    pub error: Error,
}

/// When and how to retry after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    Backoff,
    /// The remote asked for this wait in `Retry-After`.
    After(Duration),
    /// Too many logins; contains the server's `Retry-After`.
    LockedOut(Option<Duration>),
    /// Wrong credentials or a ban: retrying soon makes things worse.
    CredentialsRejected,
    TokenRefused,
    /// Only a different lease helps.
    LeaseRefused,
    /// The gateway refused without blaming the token or the lease.
    Refused,
}

impl Cause {
    /// Short form for a line that already names the server.
    fn brief(&self) -> String {
        match self {
            Self::Connect { error, .. } | Self::NoRoute { error, .. } => io_message(error),
            Self::Lookup { error, .. } => format!("cannot resolve the name: {error}"),
            cause => cause.to_string(),
        }
    }

    /// Unwraps `AllFailed` to its most informative cause; returns any other cause unchanged.
    pub fn most_informative(&self) -> &Self {
        match self {
            Self::AllFailed(attempts) => {
                most_informative(attempts).map_or(self, |attempt| attempt.error.cause.most_informative())
            }
            cause => cause,
        }
    }

    pub fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field { field, problem: problem.into() }
    }

    /// True for the same failure, apart from details that vary between attempts, such as times and excerpts.
    fn repeats(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::Http { status, .. }, Self::Http { status: before, .. }) => status == before,
            (Self::NoPort { since, .. }, Self::NoPort { since: before, .. }) => {
                (*since < SOURCE_TIMEOUT) == (*before < SOURCE_TIMEOUT)
            }
            (Self::LockedOut(_), Self::LockedOut(_))
            | (Self::CertificateExpired(_), Self::CertificateExpired(_))
            | (Self::CertificateNotYetValid(_), Self::CertificateNotYetValid(_)) => true,
            (Self::AllFailed(attempts), Self::AllFailed(before)) => {
                let same = |(a, b): (&Attempt, &Attempt)| a.at == b.at && a.error.cause.repeats(&b.error.cause);
                attempts.len() == before.len() && attempts.iter().zip(before).all(same)
            }
            // I/O errors are comparable only by their text.
            _ => self.to_string() == earlier.to_string(),
        }
    }

    /// Ranks causes by how much they explain: any answer beats a refused connection, which beats silence.
    fn rank(&self) -> u8 {
        match self {
            Self::NoRoute { .. } | Self::Timeout { .. } => 0,
            // As informative as a refused connection. Servers given by address are tried last, and the first attempt wins a tie,
            // so the DNS failure is the one shown.
            Self::Lookup { .. } => 1,
            Self::Connect { error, .. } => u8::from(error.kind() == io::ErrorKind::ConnectionRefused),
            _ => 2,
        }
    }

    fn retry(&self) -> Retry {
        match *self {
            Self::CredentialsRejected { .. } => Retry::CredentialsRejected,
            Self::LockedOut(retry_after) => Retry::LockedOut(retry_after),
            Self::Http { status: 429 | 503, retry_after: Some(wait), .. } => Retry::After(wait),
            _ => Retry::Backoff,
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Lookup { .. } => "check the name; if it is right, check DNS (/etc/resolv.conf)",
            Self::CertificateExpired(_) | Self::CertificateNotYetValid(_) => "check this system's clock",
            Self::LockedOut(_) => "wait until the lockout is over; no other action is needed",
            Self::ListenerChanged { .. } => {
                "nothing is sent to that program (see ss -tlnp); if it is the client, restart this service"
            }
            Self::RouteChanged => "check that the VPN is up",
            Self::Timeout { .. } | Self::Closed(_) | Self::Broken { .. } => {
                "if this keeps happening, check the network"
            }
            Self::TooLarge { .. } | Self::Field { .. } | Self::NotHttp => {
                "a different program may have answered: check the address"
            }
            _ => "if this keeps happening, check the server",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup { name, error } => write!(f, "cannot resolve {name}: {error}"),
            Self::Connect { to, error } => write!(f, "cannot connect to {to}: {}", io_message(error)),
            Self::Timeout { phase, after } => write!(f, "no answer within {} s while {phase}", after.as_secs()),
            Self::Closed(phase) => write!(f, "connection closed while {phase}"),
            Self::NoRoute { to, error } => write!(f, "no route to {to}: {}", io_message(error)),
            Self::Stopping => f.write_str("cancelled because this program is stopping"),
            Self::Broken { phase, error } => write!(f, "{} while {phase}", io_message(error)),
            Self::NameMismatch { expected, carried } if carried.is_empty() => {
                write!(f, "the certificate contains no name; expected {expected}")
            }
            Self::NameMismatch { expected, carried } => {
                write!(f, "the certificate is for {}, not for {expected}", carried.join(", "))
            }
            Self::UnknownIssuer => f.write_str("the certificate is not signed by the expected CA"),
            Self::CertificateExpired(at) => {
                write!(f, "the certificate has expired according to this system's clock ({})", rfc3339(*at))
            }
            Self::CertificateNotYetValid(at) => {
                write!(f, "the certificate is not valid yet according to this system's clock ({})", rfc3339(*at))
            }
            Self::AllFailed(attempts) => {
                write!(f, "all {} attempts failed", attempts.len())?;
                most_informative(attempts)
                    .map_or(Ok(()), |Attempt { at, error }| write!(f, "; {at}: {}", error.cause.brief()))
            }
            Self::WrongCertificate { .. } => f.write_str("received a different certificate than expected"),
            Self::ListenerChanged { at, user: Some(user), before } => {
                write!(f, "user {user} listens on {at} instead of user {before}")
            }
            Self::ListenerChanged { at, user: None, before } => {
                write!(f, "no listener of user {before} on {at} any more")
            }
            Self::RouteChanged => f.write_str("cancelled because the tunnel changed"),
            Self::NotTls => f.write_str("the server does not speak TLS"),
            Self::Tls(text) => write!(f, "TLS: {text}"),
            Self::NotHttp => f.write_str("the server does not speak HTTP"),
            Self::TooLarge { what, limit } => write!(f, "the {what} of the reply is larger than {limit} bytes"),
            Self::Field { field, problem } => write!(f, "bad reply: {field} {problem}"),
            Self::Http { status, excerpt, .. } if excerpt.is_empty() => write!(f, "HTTP {status}, empty body"),
            Self::Http { status, excerpt, .. } => write!(f, "HTTP {status}: {excerpt}"),
            Self::CredentialsRejected { what, before } => {
                f.write_str(match what {
                    AuthMethod::Password => "user name or password rejected",
                    AuthMethod::ApiKey => "API key rejected",
                })?;
                f.write_str(if *before { " earlier" } else { "" })
            }
            Self::NoCredentials => f.write_str("a password is required, but none is set"),
            Self::LockedOut(Some(wait)) => write!(f, "locked out for {} s after too many logins", wait.as_secs()),
            Self::LockedOut(None) => f.write_str("locked out after too many logins"),
            Self::File { path, error } => write!(f, "{path}: {}", io_message(error)),
            Self::HttpStatus(status) => write!(f, "HTTP {status}"),
            Self::NoTunnel => f.write_str("no VPN tunnel is up on this machine"),
            Self::HostRejected(status) => write!(f, "HTTP {status}: the Host header was rejected"),
            Self::NotConnected => f.write_str("the web interface is not connected to its daemon"),
            Self::NoDaemon => f.write_str("the web interface has no daemon to connect to"),
            Self::NoPort { source, since } if *since < SOURCE_TIMEOUT => write!(f, "{source} has no port now"),
            Self::NoPort { source, since } => write!(f, "{source} has had no port for {}", human_duration(*since)),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// The most informative attempt; the first one wins a tie.
fn most_informative(attempts: &[Attempt]) -> Option<&Attempt> {
    attempts.iter().rev().max_by_key(|attempt| attempt.error.cause.rank())
}

/// The system's message, for use within a sentence: begins in lower case, without Rust's ` (os error N)`.
pub fn io_message(error: &io::Error) -> String {
    let text = error.to_string();
    lower_first(text.split(" (os error").next().unwrap_or(&text))
}

/// Puts the first letter in lower case, unless the first word is an acronym or a unit (`UTF-8`, `KiB`, `I/O`).
pub fn lower_first(text: &str) -> String {
    let word = text.split(' ').next().unwrap_or(text).trim_end_matches([',', ':', ';', '.']);
    match word.split_at_checked(1) {
        Some((first, rest)) if rest.bytes().all(|byte| byte.is_ascii_lowercase()) => {
            first.to_ascii_lowercase() + &text[1..]
        }
        _ => text.to_owned(),
    }
}

#[derive(Debug)]
pub struct Error {
    pub call: Call,
    pub cause: Cause,
    pub retry: Retry,
    pub advice: &'static str,
}

impl Error {
    /// Builds an error with the cause's default retry and advice.
    pub fn new(call: Call, cause: Cause) -> Self {
        Self { call, retry: cause.retry(), advice: cause.advice(), cause }
    }

    /// Combines all failed `attempts` (at least one) into a single error. Flattens nested attempts, and takes `retry` and `advice`
    /// from the most informative one.
    pub fn all_failed(call: Call, attempts: Vec<Attempt>) -> Self {
        let mut flat = Vec::new();
        for Attempt { at, error } in attempts {
            match error.cause {
                Cause::AllFailed(inner) => flat.extend(inner),
                _ => flat.push(Attempt { at, error }),
            }
        }
        let best = most_informative(&flat).map(|attempt| &attempt.error);
        let (retry, advice) = best.map_or((Retry::Backoff, ""), |error| (error.retry, error.advice));
        let cause = if flat.len() == 1 { flat.remove(0).error.cause } else { Cause::AllFailed(flat) };
        Self { call, cause, retry, advice }
    }

    #[must_use]
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// Replaces the advice unless `advice` is `None`.
    #[must_use]
    pub fn advise(self, advice: Option<&'static str>) -> Self {
        Self { advice: advice.unwrap_or(self.advice), ..self }
    }

    /// Extra lines to show below the error: failed attempts grouped by reason, or two hashes to compare.
    pub fn details(&self) -> Vec<String> {
        let attempts = match &self.cause {
            Cause::AllFailed(attempts) => attempts,
            Cause::WrongCertificate { found, wanted } => {
                return vec![format!("received SHA-256: {found}"), format!("expected SHA-256: {wanted}")];
            }
            _ => return Vec::new(),
        };
        let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
        for Attempt { at, error } in attempts {
            let reason = error.cause.brief();
            match groups.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, places)) => places.push(at),
                None => groups.push((reason, vec![at])),
            }
        }
        groups.into_iter().map(|(reason, places)| format!("failed attempts: {}: {reason}", places.join(", "))).collect()
    }

    /// True if this is `earlier` again, and not a new failure; times, waits and excerpts may differ.
    pub fn repeats(&self, earlier: &Self) -> bool {
        self.call == earlier.call && self.cause.repeats(&earlier.cause)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.cause)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Connect { error, .. }
            | Cause::NoRoute { error, .. }
            | Cause::Broken { error, .. }
            | Cause::File { error, .. } => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup() -> Cause {
        Cause::Lookup { name: "h".to_owned(), error: "no address".to_owned() }
    }

    fn connect(error: io::ErrorKind) -> Cause {
        Cause::Connect { to: "10.0.0.1:19999".to_owned(), error: error.into() }
    }

    fn timeout(phase: Phase) -> Cause {
        Cause::Timeout { phase, after: Duration::from_secs(10) }
    }

    fn broken(phase: Phase) -> Cause {
        Cause::Broken { phase, error: io::ErrorKind::ConnectionReset.into() }
    }

    fn mismatch(carried: &[&str]) -> Cause {
        Cause::NameMismatch { expected: "mexico".to_owned(), carried: carried.iter().map(|&n| n.to_owned()).collect() }
    }

    fn http(status: u16, excerpt: &str) -> Cause {
        Cause::Http { status, excerpt: excerpt.to_owned(), retry_after: None }
    }

    fn locked(seconds: Option<u64>) -> Cause {
        Cause::LockedOut(seconds.map(Duration::from_secs))
    }

    fn moment() -> Timestamp {
        "2026-11-28T07:37:28.5Z".parse().unwrap()
    }

    fn expired() -> Cause {
        Cause::CertificateExpired(moment())
    }

    fn file() -> Cause {
        Cause::File { path: "/port".to_owned(), error: io::ErrorKind::PermissionDenied.into() }
    }

    #[test]
    fn a_repetition_is_distinguished_from_a_new_failure() {
        let bind = |cause| Error::new(Call::BindPort, cause);
        let at = |at: &str, cause| Attempt { at: at.to_owned(), error: bind(cause) };
        let both = |x, y| Cause::AllFailed(vec![at("x", x), at("y", y)]);
        let later = || Cause::CertificateExpired(moment() + Duration::from_secs(9));
        for (cause, next, repeats) in [
            (http(502, "request 1"), http(502, "request 2"), true),
            (http(502, "x"), http(503, "x"), false),
            (locked(Some(60)), locked(None), true),
            (expired(), later(), true),
            (expired(), Cause::CertificateNotYetValid(moment()), false),
            (timeout(Phase::Head), timeout(Phase::Head), true),
            (timeout(Phase::Head), timeout(Phase::Body), false),
            (file(), file(), true),
            (both(lookup(), expired()), both(lookup(), later()), true),
            (both(lookup(), expired()), both(expired(), lookup()), false),
            (both(lookup(), lookup()), lookup(), false),
        ] {
            assert_eq!(bind(next).repeats(&bind(cause)), repeats);
        }
        assert!(!Error::new(Call::GetSignature, file()).repeats(&bind(file())));
    }

    #[test]
    fn every_cause_has_its_text() {
        for (cause, text) in [
            (lookup(), "cannot resolve h: no address"),
            (connect(io::ErrorKind::ConnectionRefused), "cannot connect to 10.0.0.1:19999: connection refused"),
            (timeout(Phase::Lookup), "no answer within 10 s while looking up the name"),
            (timeout(Phase::Connect), "no answer within 10 s while connecting"),
            (Cause::Closed(Phase::Handshake), "connection closed while negotiating TLS"),
            (broken(Phase::Send), "connection reset while sending the request"),
            (timeout(Phase::Head), "no answer within 10 s while waiting for the reply"),
            (timeout(Phase::Body), "no answer within 10 s while reading the reply"),
            (mismatch(&[]), "the certificate contains no name; expected mexico"),
            (mismatch(&["mexico409", "x"]), "the certificate is for mexico409, x, not for mexico"),
            (Cause::UnknownIssuer, "the certificate is not signed by the expected CA"),
            (Cause::NotTls, "the server does not speak TLS"),
            (Cause::Tls("no cipher".to_owned()), "TLS: no cipher"),
            (Cause::NotHttp, "the server does not speak HTTP"),
            (Cause::TooLarge { what: "body", limit: 9 }, "the body of the reply is larger than 9 bytes"),
            (Cause::field("payload", "is missing"), "bad reply: payload is missing"),
            (http(502, ""), "HTTP 502, empty body"),
            (http(502, "later"), "HTTP 502: later"),
            (
                Cause::CredentialsRejected { what: AuthMethod::Password, before: false },
                "user name or password rejected",
            ),
            (Cause::CredentialsRejected { what: AuthMethod::ApiKey, before: true }, "API key rejected earlier"),
            (Cause::NoCredentials, "a password is required, but none is set"),
            (locked(Some(59)), "locked out for 59 s after too many logins"),
            (locked(None), "locked out after too many logins"),
            (Cause::HttpStatus(502), "HTTP 502"),
            (Cause::NoTunnel, "no VPN tunnel is up on this machine"),
            (Cause::HostRejected(421), "HTTP 421: the Host header was rejected"),
            (Cause::NotConnected, "the web interface is not connected to its daemon"),
            (Cause::NoDaemon, "the web interface has no daemon to connect to"),
            (Cause::Other("it is odd".to_owned()), "it is odd"),
            (file(), "/port: permission denied"),
        ] {
            assert_eq!(Error::new(Call::BindPort, cause).to_string(), format!("bindPort: {text}"));
        }
    }

    #[test]
    fn an_expired_or_future_certificate_shows_the_clock_at_the_time_of_the_check() {
        let clock = "according to this system's clock (2026-11-28T07:37:28Z)";
        for (cause, problem) in [
            (expired(), "the certificate has expired"),
            (Cause::CertificateNotYetValid(moment()), "the certificate is not valid yet"),
        ] {
            assert_eq!(cause.to_string(), format!("{problem} {clock}"));
            assert_eq!(cause.to_string(), format!("{problem} {clock}"), "the text changed");
        }
    }

    #[test]
    fn system_messages_begin_in_lower_case_but_keep_names_and_units() {
        for (text, message) in [
            ("Connection refused", "connection refused"),
            ("No such file or directory (os error 2)", "no such file or directory"),
            ("larger than 64 KiB", "larger than 64 KiB"),
            ("stream did not contain valid UTF-8", "stream did not contain valid UTF-8"),
            ("Not a XENIX named type file", "not a XENIX named type file"),
            ("UTF-8 is expected", "UTF-8 is expected"),
            ("KiB are missing", "KiB are missing"),
            ("I/O error", "I/O error"),
            ("TLS is needed", "TLS is needed"),
            ("A message", "a message"),
            ("", ""),
        ] {
            assert_eq!(io_message(&io::Error::other(text)), message);
        }
    }

    #[test]
    fn the_most_informative_failure_wins() {
        let attempt = |cause| Attempt { at: "x".to_owned(), error: Error::new(Call::Token, cause) };
        let all = |causes: Vec<Cause>| Error::all_failed(Call::Login, causes.into_iter().map(attempt).collect());
        let silent = || timeout(Phase::Connect);
        let busy = || Cause::Http { status: 503, excerpt: String::new(), retry_after: Some(Duration::from_secs(9)) };
        for causes in
            [vec![busy(), silent()], vec![silent(), busy()], vec![busy(), connect(io::ErrorKind::HostUnreachable)]]
        {
            assert_eq!(all(causes).retry, Retry::After(Duration::from_secs(9)));
        }
        let refused = connect(io::ErrorKind::ConnectionRefused);
        assert_eq!(all(vec![refused, lookup()]).advice, "if this keeps happening, check the server");
        assert!(all(vec![lookup(), silent()]).advice.contains("DNS"), "the most informative one, not the last");
        // Nested attempts count like direct ones.
        let inner = Attempt { at: "y".to_owned(), error: all(vec![silent(), expired()]) };
        let nested = Error::all_failed(Call::Login, vec![attempt(lookup()), inner]);
        assert!(
            nested.to_string().starts_with("PIA login: all 3 attempts failed; x: the certificate has expired"),
            "{nested}"
        );
        assert_eq!(nested.details().len(), 3, "{:?}", nested.details());
        let twice = all(vec![silent(), silent(), lookup()]);
        assert_eq!(twice.details()[0], "failed attempts: x, x: no answer within 10 s while connecting");
        assert_eq!(nested.advice, "check this system's clock");
        assert_eq!(all(vec![silent()]).to_string(), "PIA login: no answer within 10 s while connecting");
    }

    #[test]
    fn callers_can_override_retry_and_advice() {
        let error = Error::new(Call::Route, locked(Some(7)));
        assert_eq!(error.retry, Retry::LockedOut(Some(Duration::from_secs(7))));
        assert_eq!(error.advice, "wait until the lockout is over; no other action is needed");
        let error = error.with_retry(Retry::Backoff).advise(None);
        assert_eq!(error.retry, Retry::Backoff);
        assert_eq!(error.advise(Some("better")).advice, "better");
    }
}
