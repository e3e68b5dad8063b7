//! The errors of everything that can fail after the settings were accepted, with the advice that does for any remote.
//!
//! An error names the call, the cause, what it means for the next try and what to do. Whoever makes it knows its remote and may
//! know better than the general rows in here, which name none. Nothing in here holds a secret: causes carry figures, names
//! that a certificate shows to everybody, and excerpts of replies that were redacted when they were read.

use std::fmt;
use std::io;
use std::time::Duration;

use jiff::Timestamp;

use crate::time::rfc3339;

/// The part of an exchange in which a deadline fired or a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Looking up a name.
    Lookup,
    /// TCP connect.
    Connect,
    /// TLS handshake.
    Handshake,
    /// Sending the request.
    Send,
    /// Waiting for and reading the head of the reply.
    Head,
    /// Reading the body of the reply.
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

/// The call that failed, as errors name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Getting a token from PIA's account API.
    Login,
    /// Getting a token without an account to log in with.
    Token,
    /// Fetching the CA that signs the gateways' certificates.
    FetchCa,
    GetSignature,
    BindPort,
    StoreLease,
    /// Finding the route to the gateway.
    Route,
    /// Asking the program that leases the port in our place.
    PollSource,
    /// Asking for a port what does not have one: a bug of ours.
    WrongProvider,
    /// Comparing the client's listen port with the leased one.
    ClientPort,
    /// Inspecting the client's socket.
    ClientSocket,
    /// A client's own call, in that client's words.
    Client(&'static str),
    /// Sending a notification to the URL in this variable.
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

/// What somebody shows to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// User name and password.
    Password,
    /// An API key.
    ApiKey,
}

/// What went wrong.
#[derive(Debug)]
pub enum Cause {
    /// A name could not be resolved.
    Lookup {
        /// The name.
        name: String,
        /// The resolver's words.
        error: String,
    },
    /// No TCP connection.
    Connect {
        /// `host:port` as dialled.
        to: String,
        /// The system's error.
        error: io::Error,
    },
    /// The deadline of the request passed.
    Timeout {
        /// What was going on.
        phase: Phase,
        /// The whole deadline.
        after: Duration,
    },
    /// The remote ended the connection too early.
    Closed {
        /// What was going on.
        phase: Phase,
    },
    /// The kernel knows no route to an address.
    NoRoute {
        /// `host:port` or the address.
        to: String,
        /// The system's error.
        error: io::Error,
    },
    /// We were asked to end.
    Stopping,
    /// It was given up, because the route to the remote is another one now.
    RouteChanged,
    /// Any other failure of the connection.
    Broken {
        /// What was going on.
        phase: Phase,
        /// The system's error.
        error: io::Error,
    },
    /// The certificate is not for the configured name.
    NameMismatch {
        /// The name that was asked for.
        expected: String,
        /// The names that the certificate does carry.
        carried: Vec<String>,
    },
    /// The certificate does not lead to a trusted root.
    UnknownIssuer,
    /// The certificate's time is over, by our clock.
    CertificateExpired {
        /// Our clock when the certificate was refused.
        at: Timestamp,
    },
    /// The certificate's time has not begun, by our clock.
    CertificateNotYetValid {
        /// Our clock when the certificate was refused.
        at: Timestamp,
    },
    /// Several servers that would do were tried, and each one failed; never empty.
    AllFailed(Vec<Attempt>),
    /// Another certificate came than the one that is known by its SHA-256.
    WrongCertificate {
        /// What it has.
        found: String,
        /// What it should have.
        wanted: String,
    },
    /// The remote does not speak TLS.
    NotTls,
    /// Any other TLS failure, in rustls' words.
    Tls(String),
    /// The remote does not speak HTTP.
    NotHttp,
    /// A reply beyond our limits.
    TooLarge {
        /// What was too large: head or body.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// A malformed reply: the field and what is wrong with it.
    Field {
        /// The field's name in the protocol.
        field: &'static str,
        /// What is wrong; never the value of a secret field.
        problem: String,
    },
    /// A reply that is no success.
    Http {
        /// The HTTP status.
        status: u16,
        /// What may be shown of the body.
        excerpt: String,
        /// `Retry-After`, when it was sent.
        retry_after: Option<Duration>,
    },
    /// User name, password or API key are not accepted.
    CredentialsRejected {
        /// Which of them.
        what: AuthMethod,
        /// It was said a while ago, and not asked again.
        before: bool,
    },
    /// There are no credentials, and they are needed.
    NoCredentials,
    /// Too many logins.
    LockedOut {
        /// How long to wait, when the remote said so.
        retry_after: Option<Duration>,
    },
    /// A file cannot be read or written.
    File {
        /// Its path.
        path: String,
        /// The system's error.
        error: io::Error,
    },
    /// An HTTP status that is no success, with a body that may not be shown.
    HttpStatus(u16),
    /// No tunnel in which to find the gateway.
    NoTunnel,
    /// The torrent client does not accept our Host header.
    HostRejected {
        /// The HTTP status of its reply.
        status: u16,
    },
    /// The web interface of the torrent client has no connection to its daemon.
    NotConnected,
    /// The web interface of the torrent client has no daemon to connect to.
    NoDaemon,
    /// What only this remote can do wrong, in words that stay the same while it repeats.
    Other(String),
}

/// One of several servers that were tried.
#[derive(Debug)]
pub struct Attempt {
    /// Which one, for people.
    pub at: String,
    /// Why it did not do.
    pub error: Error,
}

/// What a failure means for the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Try again after the backoff.
    Backoff,
    /// The remote said when to come back.
    After(Duration),
    /// Locked out after too many logins.
    LockedOut {
        /// For how long, if the remote said so.
        retry_after: Option<Duration>,
    },
    /// User name, password or key are wrong, or we are banned: trying again makes it worse.
    CredentialsRejected,
    /// The token is not accepted.
    TokenRefused,
    /// The lease is not accepted, so that only another one helps.
    LeaseRefused,
    /// The remote refused for a reason of its own.
    Refused,
}

impl Cause {
    /// In the words that are left where it was is said already.
    fn brief(&self) -> String {
        match self {
            Self::Connect { error, .. } | Self::NoRoute { error, .. } => io_message(error),
            Self::Lookup { error, .. } => format!("no address for that name, {error}"),
            cause => cause.to_string(),
        }
    }

    /// The one that says most, where there are several.
    pub fn most_informative(&self) -> &Self {
        match self {
            Self::AllFailed(attempts) => {
                most_informative(attempts).map_or(self, |attempt| attempt.error.cause.most_informative())
            }
            cause => cause,
        }
    }

    /// A malformed field of a reply.
    pub fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field { field, problem: problem.into() }
    }

    /// Without what changes from one attempt to the next.
    fn fingerprint(&self) -> String {
        match self {
            Self::Http { status, .. } => format!("HTTP {status}"),
            Self::LockedOut { .. } => "locked out".to_owned(),
            Self::CertificateExpired { .. } => "certificate expired".to_owned(),
            Self::CertificateNotYetValid { .. } => "certificate not valid yet".to_owned(),
            Self::AllFailed(attempts) => {
                let fingerprints: Vec<_> = attempts
                    .iter()
                    .map(|Attempt { at, error }| format!("{at}: {}", error.cause.fingerprint()))
                    .collect();
                fingerprints.join("; ")
            }
            _ => self.to_string(),
        }
    }

    /// How much it says: a server that answers, if wrongly, says more than one that refuses, and that more than silence.
    fn rank(&self) -> u8 {
        match self {
            Self::NoRoute { .. } | Self::Timeout { .. } => 0,
            // Without names nobody is found, and who can be reached without one is asked last.
            Self::Lookup { .. } => 1,
            Self::Connect { error, .. } => u8::from(error.kind() == io::ErrorKind::ConnectionRefused),
            _ => 2,
        }
    }

    fn retry(&self) -> Retry {
        match *self {
            Self::CredentialsRejected { .. } => Retry::CredentialsRejected,
            Self::LockedOut { retry_after } => Retry::LockedOut { retry_after },
            Self::Http { status: 429 | 503, retry_after: Some(wait), .. } => Retry::After(wait),
            _ => Retry::Backoff,
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Self::Lookup { .. } => "check the name; if it is right, DNS does not work here: check /etc/resolv.conf",
            Self::CertificateExpired { .. } | Self::CertificateNotYetValid { .. } => "set this system's clock",
            Self::LockedOut { .. } => "nothing to do: it is tried again when the lockout is over",
            Self::Timeout { .. } | Self::Closed { .. } | Self::Broken { .. } => {
                "nothing to do if it passes: it is tried again; else check the network"
            }
            Self::TooLarge { .. } | Self::Field { .. } | Self::NotHttp => {
                "something else than expected answers: check the address"
            }
            _ => "nothing to do if it passes: it is tried again",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup { name, error } => write!(f, "cannot resolve {name}: {error}"),
            Self::Connect { to, error } => write!(f, "cannot connect to {to}: {}", io_message(error)),
            Self::Timeout { phase, after } => {
                write!(f, "no answer within {} s while {phase}", after.as_secs())
            }
            Self::Closed { phase } => write!(f, "the connection was closed while {phase}"),
            Self::NoRoute { to, error } => write!(f, "no way to {to}: {}", io_message(error)),
            Self::Stopping => f.write_str("not asked any more, because we were asked to end"),
            Self::Broken { phase, error } => write!(f, "{} while {phase}", io_message(error)),
            Self::NameMismatch { expected, carried } if carried.is_empty() => {
                write!(f, "the certificate carries no name at all, {expected} was asked for")
            }
            Self::NameMismatch { expected, carried } => {
                write!(f, "the certificate is for {}, not for {expected}", carried.join(", "))
            }
            Self::UnknownIssuer => f.write_str("the certificate is not signed by the CA that it should be"),
            Self::CertificateExpired { at } => {
                write!(f, "the certificate has expired by this system's clock ({})", rfc3339(*at))
            }
            Self::CertificateNotYetValid { at } => {
                write!(f, "the certificate is not valid yet by this system's clock ({})", rfc3339(*at))
            }
            Self::AllFailed(attempts) => {
                write!(f, "{} were tried in vain", attempts.len())?;
                most_informative(attempts)
                    .map_or(Ok(()), |Attempt { at, error }| write!(f, ", {at}: {}", error.cause.brief()))
            }
            Self::WrongCertificate { .. } => f.write_str("another certificate came in its place"),
            Self::RouteChanged => f.write_str("given up, because the tunnel has changed"),
            Self::NotTls => f.write_str("whoever answers does not speak TLS"),
            Self::Tls(text) => write!(f, "TLS: {text}"),
            Self::NotHttp => f.write_str("whoever answers does not speak HTTP"),
            Self::TooLarge { what, limit } => {
                write!(f, "the {what} of the reply is larger than {limit} bytes")
            }
            Self::Field { field, problem } => write!(f, "bad reply: {field} {problem}"),
            Self::Http { status, excerpt, .. } if excerpt.is_empty() => {
                write!(f, "HTTP {status}, empty body")
            }
            Self::Http { status, excerpt, .. } => write!(f, "HTTP {status}: {excerpt}"),
            Self::CredentialsRejected { what, before } => {
                f.write_str(match what {
                    AuthMethod::Password => "wrong user name or password",
                    AuthMethod::ApiKey => "the API key is not accepted",
                })?;
                f.write_str(if *before { ", as it said a while ago" } else { "" })
            }
            Self::NoCredentials => f.write_str("a password is needed and none is set"),
            Self::LockedOut { retry_after: Some(wait) } => {
                write!(f, "locked out after too many logins, for {} s", wait.as_secs())
            }
            Self::LockedOut { retry_after: None } => f.write_str("locked out after too many logins"),
            Self::File { path, error } => write!(f, "{path}: {}", io_message(error)),
            Self::HttpStatus(status) => write!(f, "HTTP {status}"),
            Self::NoTunnel => f.write_str("no VPN tunnel is up here"),
            Self::HostRejected { status } => write!(f, "the Host header is not accepted (HTTP {status})"),
            Self::NotConnected => f.write_str("its web interface cannot connect to the daemon"),
            Self::NoDaemon => f.write_str("its web interface knows no daemon"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// The attempt that says most; of equals the first.
fn most_informative(attempts: &[Attempt]) -> Option<&Attempt> {
    attempts.iter().rev().max_by_key(|attempt| attempt.error.cause.rank())
}

/// The system's message without Rust's ` (os error N)`, to be continued in the middle of a sentence.
pub fn io_message(error: &io::Error) -> String {
    let text = error.to_string();
    lower_first(text.split(" (os error").next().unwrap_or(&text))
}

/// `text` with its first word in lower case if that is an ordinary capitalised word, unlike `UTF-8`, `KiB` and `I/O`.
pub fn lower_first(text: &str) -> String {
    let word = text.split(' ').next().unwrap_or(text).trim_end_matches([',', ':', ';', '.']);
    match word.split_at_checked(1) {
        Some((first, rest)) if rest.bytes().all(|byte| byte.is_ascii_lowercase()) => {
            first.to_ascii_lowercase() + &text[1..]
        }
        _ => text.to_owned(),
    }
}

/// A failed call.
#[derive(Debug)]
pub struct Error {
    pub call: Call,
    /// What went wrong.
    pub cause: Cause,
    /// What it means for the next try.
    pub retry: Retry,
    /// What the user can do about it.
    pub advice: &'static str,
}

impl Error {
    /// An error of `call`, with the meaning and the advice of the general rows.
    pub fn new(call: Call, cause: Cause) -> Self {
        Self { call, retry: cause.retry(), advice: cause.advice(), cause }
    }

    /// The error of `call` when each of `attempts`, which are one or more, has failed. Attempts within them count like the
    /// rest; meaning and advice are those of the most telling one.
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

    /// The same with another meaning.
    #[must_use]
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// The same with better advice, if there is any.
    #[must_use]
    pub fn advise(self, advice: Option<&'static str>) -> Self {
        Self { advice: advice.unwrap_or(self.advice), ..self }
    }

    /// What one line has no room for, a line each: what was tried, by how it failed, and figures to compare.
    pub fn details(&self) -> Vec<String> {
        let attempts = match &self.cause {
            Cause::AllFailed(attempts) => attempts,
            Cause::WrongCertificate { found, wanted } => {
                return vec![format!("its SHA-256 is {found}"), format!("it should be {wanted}")];
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
        groups.into_iter().map(|(reason, places)| format!("tried in vain: {}: {reason}", places.join(", "))).collect()
    }

    /// The error without what changes from one attempt to the next, to tell a repetition from something new.
    pub fn fingerprint(&self) -> String {
        format!("{}: {}", self.call, self.cause.fingerprint())
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
        Cause::LockedOut { retry_after: seconds.map(Duration::from_secs) }
    }

    fn moment() -> Timestamp {
        "2026-11-28T07:37:28.5Z".parse().unwrap()
    }

    fn expired() -> Cause {
        Cause::CertificateExpired { at: moment() }
    }

    fn file() -> Cause {
        Cause::File { path: "/port".to_owned(), error: io::ErrorKind::PermissionDenied.into() }
    }

    #[test]
    fn a_repetition_is_distinguished_from_a_new_failure() {
        let fingerprint = |cause| Error::new(Call::BindPort, cause).fingerprint();
        assert_eq!(fingerprint(http(502, "request 1")), fingerprint(http(502, "request 2")));
        assert_ne!(fingerprint(http(502, "x")), fingerprint(http(503, "x")));
        assert_eq!(fingerprint(locked(Some(60))), fingerprint(locked(Some(59))));
        assert_eq!(fingerprint(expired()), "bindPort: certificate expired", "without the time");
        assert_eq!(fingerprint(timeout(Phase::Head)), "bindPort: no answer within 10 s while waiting for the reply");
    }

    #[test]
    fn every_cause_has_its_text() {
        for (cause, text) in [
            (lookup(), "cannot resolve h: no address"),
            (connect(io::ErrorKind::ConnectionRefused), "cannot connect to 10.0.0.1:19999: connection refused"),
            (timeout(Phase::Lookup), "no answer within 10 s while looking up the name"),
            (timeout(Phase::Connect), "no answer within 10 s while connecting"),
            (Cause::Closed { phase: Phase::Handshake }, "the connection was closed while negotiating TLS"),
            (broken(Phase::Send), "connection reset while sending the request"),
            (timeout(Phase::Head), "no answer within 10 s while waiting for the reply"),
            (timeout(Phase::Body), "no answer within 10 s while reading the reply"),
            (mismatch(&[]), "the certificate carries no name at all, mexico was asked for"),
            (mismatch(&["mexico409", "x"]), "the certificate is for mexico409, x, not for mexico"),
            (Cause::UnknownIssuer, "the certificate is not signed by the CA that it should be"),
            (Cause::NotTls, "whoever answers does not speak TLS"),
            (Cause::Tls("no cipher".to_owned()), "TLS: no cipher"),
            (Cause::NotHttp, "whoever answers does not speak HTTP"),
            (Cause::TooLarge { what: "body", limit: 9 }, "the body of the reply is larger than 9 bytes"),
            (Cause::field("payload", "is missing"), "bad reply: payload is missing"),
            (http(502, ""), "HTTP 502, empty body"),
            (http(502, "later"), "HTTP 502: later"),
            (Cause::CredentialsRejected { what: AuthMethod::Password, before: false }, "wrong user name or password"),
            (
                Cause::CredentialsRejected { what: AuthMethod::ApiKey, before: true },
                "the API key is not accepted, as it said a while ago",
            ),
            (Cause::NoCredentials, "a password is needed and none is set"),
            (locked(Some(59)), "locked out after too many logins, for 59 s"),
            (locked(None), "locked out after too many logins"),
            (Cause::HttpStatus(502), "HTTP 502"),
            (Cause::NoTunnel, "no VPN tunnel is up here"),
            (Cause::HostRejected { status: 421 }, "the Host header is not accepted (HTTP 421)"),
            (Cause::NotConnected, "its web interface cannot connect to the daemon"),
            (Cause::NoDaemon, "its web interface knows no daemon"),
            (Cause::Other("it is odd".to_owned()), "it is odd"),
            (file(), "/port: permission denied"),
        ] {
            assert_eq!(Error::new(Call::BindPort, cause).to_string(), format!("bindPort: {text}"));
        }
    }

    #[test]
    fn a_certificate_out_of_its_time_shows_our_clock_of_then() {
        let clock = "by this system's clock (2026-11-28T07:37:28Z)";
        for (cause, problem) in [
            (expired(), "the certificate has expired"),
            (Cause::CertificateNotYetValid { at: moment() }, "the certificate is not valid yet"),
        ] {
            assert_eq!(cause.to_string(), format!("{problem} {clock}"));
            assert_eq!(cause.to_string(), format!("{problem} {clock}"), "the same text twice");
        }
    }

    #[test]
    fn messages_of_the_system_begin_in_lower_case_and_keep_names_and_units() {
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
    fn the_most_informative_of_several_failures_counts() {
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
        assert_eq!(all(vec![refused, lookup()]).advice, "nothing to do if it passes: it is tried again");
        assert!(all(vec![lookup(), silent()]).advice.contains("DNS"), "the first of equals");
        // What one attempt brings along counts like the rest.
        let inner = Attempt { at: "y".to_owned(), error: all(vec![silent(), expired()]) };
        let nested = Error::all_failed(Call::Login, vec![attempt(lookup()), inner]);
        assert!(
            nested.to_string().starts_with("PIA login: 3 were tried in vain, x: the certificate has expired"),
            "{nested}"
        );
        assert_eq!(nested.details().len(), 3, "{:?}", nested.details());
        let twice = all(vec![silent(), silent(), lookup()]);
        assert_eq!(twice.details()[0], "tried in vain: x, x: no answer within 10 s while connecting");
        assert_eq!(nested.advice, "set this system's clock");
        assert!(nested.fingerprint().contains("x: no answer within 10 s while connecting; x: certificate expired"));
        assert_eq!(all(vec![silent()]).to_string(), "PIA login: no answer within 10 s while connecting");
    }

    #[test]
    fn the_maker_of_an_error_can_override_retry_and_advice() {
        let error = Error::new(Call::Route, locked(Some(7)));
        assert_eq!(error.retry, Retry::LockedOut { retry_after: Some(Duration::from_secs(7)) });
        assert_eq!(error.advice, "nothing to do: it is tried again when the lockout is over");
        let error = error.with_retry(Retry::Backoff).advise(None);
        assert_eq!(error.retry, Retry::Backoff);
        assert_eq!(error.advise(Some("better")).advice, "better");
    }
}
