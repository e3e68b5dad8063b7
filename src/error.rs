//! The errors of everything that can fail after the configuration was accepted, and the one table of what to do next.
//!
//! An error names the step (`Op`) and the cause. Nothing in here holds a secret: causes carry figures, names that a
//! certificate shows to everybody, and excerpts of replies that were redacted when they were read.

use std::fmt;
use std::io;
use std::time::Duration;

/// The step that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Getting a token from PIA's account API.
    Login,
    /// Reading or writing the token cache.
    TokenFile,
    /// Fetching the CA that signs the gateways' certificates.
    FetchCa,
    /// Finding a way to the gateway, before anything is sent.
    Tunnel,
    /// `getSignature` on the gateway.
    GetSignature,
    /// `bindPort` on the gateway.
    BindPort,
    /// Asking somebody else for the port (`PORT_SOURCE`).
    PortSource,
    /// Logging in to the torrent client.
    ClientLogin,
    /// Reading the torrent client's listen port.
    ClientPort,
    /// Setting the torrent client's listen port.
    ClientSetPort,
    /// Asking the torrent client whether it listens.
    ClientListening,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Login => "PIA login",
            Self::TokenFile => "PIA token",
            Self::FetchCa => "PIA's CA",
            Self::Tunnel => "tunnel",
            Self::GetSignature => "getSignature",
            Self::BindPort => "bindPort",
            Self::PortSource => "port source",
            Self::ClientLogin => "qBittorrent login",
            Self::ClientPort => "qBittorrent preferences",
            Self::ClientSetPort => "qBittorrent setPreferences",
            Self::ClientListening => "qBittorrent transfer/info",
        })
    }
}

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

/// Why PIA's gateway did not do as asked (facts: the error rows of PIA's own scripts and clients).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 401 on getSignature: the token is not accepted, or this is not the tunnel's gateway.
    TokenRejected,
    /// 401 `bad signature` on bindPort: the stored payload is not accepted.
    BadSignature,
    /// 409: the port is taken on this server.
    Busy,
    /// The lease is past its expiry.
    Expired,
    /// `no auth data`: the token was missing in the URL.
    NoAuthData,
    /// Anything else the gateway says in its own JSON.
    Other,
}

impl Refusal {
    /// Whether the lease is not accepted any more, so that only another one helps.
    pub fn is_of_the_lease(self) -> bool {
        matches!(self, Self::BadSignature | Self::Busy | Self::Expired)
    }
}

/// What went wrong.
#[derive(Debug)]
#[non_exhaustive]
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
    /// The peer ended the connection too early.
    Closed {
        /// What was going on.
        phase: Phase,
    },
    /// The kernel knows no way to an address.
    NoRoute {
        /// `host:port` or the address.
        to: String,
        /// The system's error.
        error: io::Error,
    },
    /// We were asked to end.
    Stopping,
    /// No tunnel is to be seen in which a gateway could be.
    NoTunnel,
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
    CertificateExpired,
    /// The certificate's time has not begun, by our clock.
    CertificateNotYetValid,
    /// A CA certificate is another one than the pinned one.
    NotPinned {
        /// The SHA-256 of what came, hexadecimal; none if there was no certificate.
        found: Option<String>,
        /// The pinned SHA-256.
        pin: String,
    },
    /// Several servers that would do were tried, and each one failed; never empty.
    AllFailed(Vec<Attempt>),
    /// The peer does not speak TLS.
    NotTls,
    /// Any other TLS failure, in rustls' words.
    Tls(String),
    /// The peer does not speak HTTP.
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
    /// A reply that is neither success nor a refusal we know.
    Http {
        /// The HTTP status.
        status: u16,
        /// Up to 200 characters of the body, redacted.
        excerpt: String,
        /// `Retry-After`, when it was sent.
        retry_after: Option<Duration>,
    },
    /// The gateway refused.
    Refused {
        /// Which refusal.
        refusal: Refusal,
        /// The HTTP status.
        status: u16,
        /// Up to 200 characters of the message, redacted.
        excerpt: String,
    },
    /// User name, password or API key are not accepted.
    CredentialsRejected {
        /// The HTTP status.
        status: u16,
    },
    /// There are no credentials, and they are needed.
    NoCredentials,
    /// Too many logins.
    LockedOut {
        /// How long to wait, when the peer said so.
        retry_after: Option<Duration>,
    },
    /// qBittorrent banned our address after failed logins.
    Banned,
    /// qBittorrent does not accept the Host header.
    HostRejected,
    /// The client did not take the port.
    PortNotTaken {
        /// What we set.
        wanted: u16,
        /// What it says it has.
        found: i64,
    },
    /// The client has the port in its settings and nothing listens.
    NotListening {
        /// The port.
        port: u16,
    },
    /// A file that exists cannot be read.
    File {
        /// Its path.
        path: String,
        /// The system's error.
        error: io::Error,
    },
}

/// One of several servers that were tried.
#[derive(Debug)]
pub struct Attempt {
    /// Which one, for people.
    pub at: String,
    /// Why it did not do.
    pub cause: Cause,
}

impl Cause {
    /// A malformed field of a reply.
    pub fn field(field: &'static str, problem: impl Into<String>) -> Self {
        Self::Field { field, problem: problem.into() }
    }

    /// The cause when each of `attempts` has failed; they are one or more. Attempts within them count like the rest.
    pub fn all_failed(mut attempts: Vec<Attempt>) -> Self {
        if attempts.len() == 1 {
            return attempts.remove(0).cause;
        }
        let flat = attempts.into_iter().flat_map(|attempt| match attempt.cause {
            Self::AllFailed(inner) => inner,
            _ => vec![attempt],
        });
        Self::AllFailed(flat.collect())
    }

    /// Without what changes from one attempt to the next.
    fn gist(&self) -> String {
        match self {
            Self::Http { status, .. } => format!("HTTP {status}"),
            Self::LockedOut { .. } => "locked out".to_owned(),
            Self::CertificateExpired | Self::CertificateNotYetValid => format!("{self:?}"),
            Self::AllFailed(attempts) => {
                let gists: Vec<_> =
                    attempts.iter().map(|Attempt { at, cause }| format!("{at}: {}", cause.gist())).collect();
                gists.join("; ")
            }
            _ => self.to_string(),
        }
    }

    /// The cause to go by: of several, the one that says most. A server that answers, if wrongly, says more than
    /// one that refuses, and that more than silence.
    pub fn most_telling(&self) -> &Self {
        let Self::AllFailed(attempts) = self else { return self };
        let tells = |cause: &Self| match cause {
            Self::Lookup { .. } | Self::NoRoute { .. } | Self::NoTunnel | Self::Timeout { .. } => 0,
            Self::Connect { error, .. } => u8::from(error.kind() == io::ErrorKind::ConnectionRefused),
            _ => 2,
        };
        attempts.iter().map(|attempt| &attempt.cause).rev().max_by_key(|cause| tells(cause)).unwrap_or(self)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup { name, error } => write!(f, "cannot resolve {name}: {error}"),
            Self::Connect { to, error } => write!(f, "cannot connect to {to}: {}", plain(error)),
            Self::Timeout { phase, after } => {
                write!(f, "no answer within {} s while {phase}", after.as_secs())
            }
            Self::Closed { phase } => write!(f, "the peer closed the connection while {phase}"),
            Self::NoRoute { to, error } => write!(f, "no way to {to}: {}", plain(error)),
            Self::Stopping => f.write_str("not asked any more, because we were asked to end"),
            Self::NoTunnel => f.write_str("there is no tunnel in which the gateway could be"),
            Self::Broken { phase, error } => write!(f, "{} while {phase}", plain(error)),
            Self::NameMismatch { expected, carried } if carried.is_empty() => {
                write!(f, "the certificate carries no name at all, {expected} was asked for")
            }
            Self::NameMismatch { expected, carried } => {
                write!(f, "the certificate is for {}, not for {expected}", carried.join(", "))
            }
            Self::UnknownIssuer => f.write_str("the certificate is not signed by the configured CA"),
            Self::CertificateExpired => {
                write!(f, "the certificate has expired by this system's clock ({})", today())
            }
            Self::CertificateNotYetValid => {
                write!(f, "the certificate is not valid yet by this system's clock ({})", today())
            }
            Self::NotPinned { found: None, .. } => f.write_str("no certificate in it"),
            Self::NotPinned { found: Some(found), pin } => {
                write!(f, "the SHA-256 of its certificate is {found} and not {pin}")
            }
            Self::AllFailed(attempts) => {
                for (index, Attempt { at, cause }) in attempts.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}{at}: {cause}")?;
                }
                Ok(())
            }
            Self::NotTls => f.write_str("the peer does not speak TLS"),
            Self::Tls(text) => write!(f, "TLS: {text}"),
            Self::NotHttp => f.write_str("the peer does not speak HTTP"),
            Self::TooLarge { what, limit } => {
                write!(f, "the {what} of the reply is larger than {limit} bytes")
            }
            Self::Field { field, problem } => write!(f, "bad reply: {field} {problem}"),
            Self::Http { status, excerpt, .. } if excerpt.is_empty() => {
                write!(f, "HTTP {status}, empty body")
            }
            Self::Http { status, excerpt, .. } | Self::Refused { status, excerpt, .. } => {
                write!(f, "HTTP {status}: {excerpt}")
            }
            Self::CredentialsRejected { status } => write!(f, "credentials rejected (HTTP {status})"),
            Self::NoCredentials => f.write_str("credentials are needed and none are set"),
            Self::LockedOut { retry_after: Some(wait) } => {
                write!(f, "locked out after too many logins, for {} s", wait.as_secs())
            }
            Self::LockedOut { retry_after: None } => f.write_str("locked out after too many logins"),
            Self::Banned => f.write_str("our address is banned after failed logins"),
            Self::HostRejected => f.write_str("the Host header is not accepted (HTTP 401)"),
            Self::PortNotTaken { wanted, found } => {
                write!(f, "port {wanted} was set, {found} is what it has")
            }
            Self::NotListening { port } => write!(f, "port {port} is set and nothing listens on it"),
            Self::File { path, error } => write!(f, "{path}: {}", plain(error)),
        }
    }
}

/// The system's words without Rust's ` (os error N)`.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn today() -> String {
    format!("{:.0}", jiff::Timestamp::now())
}

/// A failed step.
#[derive(Debug)]
pub struct Error {
    /// The step.
    pub op: Op,
    /// What went wrong.
    pub cause: Cause,
}

impl Error {
    /// An error of the step `op`.
    pub fn new(op: Op, cause: Cause) -> Self {
        Self { op, cause }
    }

    /// The error without what changes from one attempt to the next, to tell a repetition from something new.
    pub fn gist(&self) -> String {
        format!("{}: {}", self.op, self.cause.gist())
    }

    /// What the user can do about it: the one table.
    pub fn remedy(&self) -> &'static str {
        let cause = self.cause.most_telling();
        if let Some(advice) = self.specific_remedy(cause) {
            return advice;
        }
        match cause {
            Cause::Lookup { .. } => "check the name and this host's DNS",
            Cause::CertificateExpired | Cause::CertificateNotYetValid => "check this system's clock",
            Cause::LockedOut { .. } => "nothing to do: it is tried again when the lockout is over",
            // At whichever step the CA was needed.
            Cause::NotPinned { .. } => {
                "it is neither used nor stored: get ca.rsa.4096.crt from PIA in another way and name it in PIA_CA_CERT"
            }
            Cause::Timeout { .. } | Cause::Closed { .. } | Cause::Broken { .. } => {
                "nothing to do if it passes: it is tried again; else check the network"
            }
            Cause::TooLarge { .. } | Cause::Field { .. } | Cause::NotHttp => {
                "something else than expected answers: check the address"
            }
            _ => "nothing to do if it passes: it is tried again",
        }
    }

    fn specific_remedy(&self, cause: &Cause) -> Option<&'static str> {
        let advice = match self.op {
            Op::Login | Op::TokenFile => match cause {
                Cause::CredentialsRejected { .. } => {
                    "check PIA_USERNAME and PIA_PASSWORD, then restart; the next try is in 30 minutes"
                }
                Cause::NoCredentials => {
                    "put a new token into PIA_TOKEN_FILE, or set PIA_USERNAME and PIA_PASSWORD and restart"
                }
                Cause::Connect { .. } => "check that this host reaches the internet through the tunnel",
                Cause::UnknownIssuer | Cause::NameMismatch { .. } => {
                    "something intercepts the connection, or PIA_LOGIN_CA_CERT does not fit PIA_LOGIN_URL"
                }
                _ => return None,
            },
            Op::FetchCa => match cause {
                Cause::NotPinned { .. } => return None,
                _ => "it is tried again; or get ca.rsa.4096.crt from PIA in another way and name it in PIA_CA_CERT",
            },
            Op::Tunnel => "check that the VPN is up: it goes on as soon as there is a route again",
            Op::GetSignature | Op::BindPort => match cause {
                Cause::Connect { error, .. } if error.kind() == io::ErrorKind::ConnectionRefused => {
                    "this server's region probably has no port forwarding (no US region has): connect the VPN elsewhere"
                }
                Cause::NoTunnel => "check that the VPN is up; if it is, set PIA_GATEWAY to the tunnel's gateway",
                Cause::Connect { .. } | Cause::NoRoute { .. } | Cause::Timeout { phase: Phase::Connect, .. } => {
                    "check that the VPN is up and that PIA_GATEWAY is the tunnel's gateway"
                }
                Cause::NameMismatch { .. } => "set PIA_HOSTNAME to the name that the certificate is for",
                Cause::UnknownIssuer => {
                    "PIA_CA_CERT must be unset or PIA's CA (ca.rsa.4096.crt); if it is, PIA_GATEWAY is wrong"
                }
                Cause::NotTls | Cause::Tls(_) => "check that PIA_GATEWAY is the tunnel's gateway",
                Cause::Refused { refusal: Refusal::TokenRejected, .. } => {
                    "wrong gateway? PIA_GATEWAY must be the address inside the tunnel, never the server's public one"
                }
                Cause::Refused { refusal: Refusal::Busy, .. } => {
                    "a new port is asked for; if it stays, connect the VPN to another server"
                }
                Cause::Refused { refusal: Refusal::BadSignature | Refusal::Expired, .. } => {
                    "nothing to do: a new signature is asked for"
                }
                Cause::Refused { refusal: Refusal::NoAuthData, .. } => "this is a bug of ours: please report it",
                _ => return None,
            },
            Op::PortSource => match cause {
                Cause::CredentialsRejected { .. } => {
                    "set HTTP_CONTROL_SERVER_AUTH_DEFAULT_ROLE='{\"auth\":\"apikey\",\"apikey\":\"KEY\"}' for gluetun and \
                     GLUETUN_API_KEY to the same KEY"
                }
                Cause::Connect { .. } => "check that gluetun runs and that GLUETUN_URL is its control server",
                Cause::Http { status: 300..500, .. } => {
                    "this gluetun is too old or GLUETUN_URL is not its control server"
                }
                Cause::Field { .. } | Cause::File { .. } => "check what PORT_SOURCE names",
                _ => return None,
            },
            Op::ClientLogin | Op::ClientPort | Op::ClientSetPort | Op::ClientListening => match cause {
                Cause::Connect { .. } => "check that qBittorrent runs and that QBITTORRENT_HOST is its Web UI",
                Cause::CredentialsRejected { .. } => {
                    "check QBITTORRENT_USERNAME and QBITTORRENT_PASSWORD (or QBITTORRENT_API_KEY), then restart; the next \
                     try is in 30 minutes, so that qBittorrent does not ban us"
                }
                Cause::NoCredentials => {
                    "set QBITTORRENT_USERNAME and QBITTORRENT_PASSWORD, or QBITTORRENT_API_KEY, or let qBittorrent bypass \
                     authentication for this address"
                }
                Cause::Banned => {
                    "correct the password, then restart qBittorrent or wait until its ban ends; the next try is in 30 minutes"
                }
                Cause::HostRejected => {
                    "add QBITTORRENT_HOST's name to 'Server domains' in qBittorrent's Web UI settings, or use localhost"
                }
                Cause::NotTls => {
                    "the Web UI speaks plain HTTP (a broken certificate does that too): use http:// in QBITTORRENT_HOST"
                }
                Cause::NotHttp | Cause::Closed { phase: Phase::Head } => {
                    "if the Web UI is set to HTTPS, use https:// in QBITTORRENT_HOST"
                }
                Cause::UnknownIssuer => "set QBITTORRENT_CA_CERT to the CA of the Web UI's certificate",
                Cause::NameMismatch { .. } => "use one of those names in QBITTORRENT_HOST",
                Cause::NotListening { .. } => {
                    "another program may have the port, or qBittorrent's network interface setting is wrong or down"
                }
                Cause::PortNotTaken { .. } => "look for something else that sets qBittorrent's port",
                Cause::Http { status: 404 | 405, .. } => {
                    "check that QBITTORRENT_HOST is qBittorrent's Web UI, with its path prefix"
                }
                Cause::Http { status: 300..=399, .. } => "use the address that it redirects to in QBITTORRENT_HOST",
                _ => return None,
            },
        };
        Some(advice)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.op, self.cause)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

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

    fn refused(refusal: Refusal) -> Cause {
        Cause::Refused { refusal, status: 401, excerpt: "no".to_owned() }
    }

    fn locked(seconds: Option<u64>) -> Cause {
        Cause::LockedOut { retry_after: seconds.map(Duration::from_secs) }
    }

    fn file() -> Cause {
        Cause::File { path: "/port".to_owned(), error: io::ErrorKind::PermissionDenied.into() }
    }

    #[test]
    fn a_repetition_is_told_from_something_new() {
        let gist = |cause| Error::new(Op::BindPort, cause).gist();
        assert_eq!(gist(http(502, "request 1")), gist(http(502, "request 2")));
        assert_ne!(gist(http(502, "x")), gist(http(503, "x")));
        assert_eq!(gist(locked(Some(60))), gist(locked(Some(59))));
        assert_eq!(gist(Cause::CertificateExpired), "bindPort: CertificateExpired", "without the time");
        assert_eq!(gist(timeout(Phase::Head)), "bindPort: no answer within 10 s while waiting for the reply");
    }

    #[test]
    fn every_cause_says_what_is_wrong() {
        for (cause, text) in [
            (lookup(), "cannot resolve h: no address"),
            (connect(io::ErrorKind::ConnectionRefused), "cannot connect to 10.0.0.1:19999: connection refused"),
            (timeout(Phase::Lookup), "no answer within 10 s while looking up the name"),
            (timeout(Phase::Connect), "no answer within 10 s while connecting"),
            (Cause::Closed { phase: Phase::Handshake }, "the peer closed the connection while negotiating TLS"),
            (broken(Phase::Send), "connection reset while sending the request"),
            (timeout(Phase::Head), "no answer within 10 s while waiting for the reply"),
            (timeout(Phase::Body), "no answer within 10 s while reading the reply"),
            (mismatch(&[]), "the certificate carries no name at all, mexico was asked for"),
            (mismatch(&["mexico409", "x"]), "the certificate is for mexico409, x, not for mexico"),
            (Cause::UnknownIssuer, "the certificate is not signed by the configured CA"),
            (Cause::NoTunnel, "there is no tunnel in which the gateway could be"),
            (Cause::NotTls, "the peer does not speak TLS"),
            (Cause::Tls("no cipher".to_owned()), "TLS: no cipher"),
            (Cause::NotHttp, "the peer does not speak HTTP"),
            (Cause::TooLarge { what: "body", limit: 9 }, "the body of the reply is larger than 9 bytes"),
            (Cause::field("payload", "is missing"), "bad reply: payload is missing"),
            (http(502, ""), "HTTP 502, empty body"),
            (http(502, "later"), "HTTP 502: later"),
            (refused(Refusal::Busy), "HTTP 401: no"),
            (Cause::CredentialsRejected { status: 403 }, "credentials rejected (HTTP 403)"),
            (Cause::NoCredentials, "credentials are needed and none are set"),
            (locked(Some(59)), "locked out after too many logins, for 59 s"),
            (locked(None), "locked out after too many logins"),
            (Cause::Banned, "our address is banned after failed logins"),
            (Cause::HostRejected, "the Host header is not accepted (HTTP 401)"),
            (Cause::PortNotTaken { wanted: 1, found: 2 }, "port 1 was set, 2 is what it has"),
            (Cause::NotListening { port: 1 }, "port 1 is set and nothing listens on it"),
            (file(), "/port: permission denied"),
        ] {
            assert_eq!(Error::new(Op::BindPort, cause).to_string(), format!("bindPort: {text}"));
        }
    }

    #[test]
    fn a_certificate_out_of_its_time_shows_our_clock() {
        for (cause, problem) in [
            (Cause::CertificateExpired, "the certificate has expired"),
            (Cause::CertificateNotYetValid, "the certificate is not valid yet"),
        ] {
            let text = cause.to_string();
            let (told, clock) = text.strip_suffix(')').unwrap().split_once(" by this system's clock (").unwrap();
            assert_eq!(told, problem);
            let age = Timestamp::now().duration_since(clock.parse().unwrap());
            assert!((0..60).contains(&age.as_secs()), "{text}");
        }
    }

    #[test]
    fn of_several_failures_the_most_telling_one_is_advised_about() {
        let failed = |causes: Vec<Cause>| {
            let attempts = causes.into_iter().map(|cause| Attempt { at: "x".to_owned(), cause }).collect();
            Error::new(Op::GetSignature, Cause::all_failed(attempts))
        };
        let silent = || timeout(Phase::Connect);
        let refusing = || connect(io::ErrorKind::ConnectionRefused);
        let unreachable = || connect(io::ErrorKind::HostUnreachable);
        for (causes, advice) in [
            (vec![refusing(), silent()], "no port forwarding"),
            (vec![refusing(), unreachable()], "no port forwarding"),
            (vec![unreachable(), refusing()], "no port forwarding"),
            (vec![refused(Refusal::Busy), refusing(), silent()], "connect the VPN to another server"),
        ] {
            let error = failed(causes);
            assert!(error.remedy().contains(advice), "{error}: {}", error.remedy());
        }
        // What a login at the gateway brings along counts like the rest.
        let inner = Cause::all_failed(["c", "d"].map(|at| Attempt { at: at.to_owned(), cause: silent() }).into());
        let nested = failed(vec![lookup(), inner]);
        assert_eq!(nested.to_string().matches("; ").count(), 2, "{nested}");
        assert!(nested.remedy().contains("DNS"), "{}", nested.remedy());
        let expired = failed(vec![Cause::CertificateExpired, silent()]);
        assert!(expired.gist().contains("x: CertificateExpired; x: no answer"), "{}", expired.gist());
        let pinned = || Cause::NotPinned { found: None, pin: "1f".to_owned() };
        let at_login = Error::new(
            Op::Login,
            Cause::all_failed(["a", "b"].map(|at| Attempt { at: at.to_owned(), cause: pinned() }).into()),
        );
        assert!(at_login.remedy().contains("name it in PIA_CA_CERT"), "{}", at_login.remedy());
        assert_eq!(failed(vec![silent()]).to_string(), "getSignature: no answer within 10 s while connecting");
        let both = failed(vec![Cause::NotTls, Cause::NotHttp]).to_string();
        assert_eq!(both, "getSignature: x: the peer does not speak TLS; x: the peer does not speak HTTP");
    }

    #[test]
    fn advice_depends_on_the_step_and_the_cause() {
        let rejected = || Cause::CredentialsRejected { status: 401 };
        let field = || Cause::field("port", "is missing");
        let closed = |phase| Cause::Closed { phase };
        for (op, cause, advice) in [
            (Op::Login, rejected(), "check PIA_USERNAME and PIA_PASSWORD"),
            (Op::TokenFile, Cause::NoCredentials, "put a new token into PIA_TOKEN_FILE"),
            (Op::Login, connect(io::ErrorKind::ConnectionRefused), "reaches the internet"),
            (Op::Login, Cause::UnknownIssuer, "PIA_LOGIN_CA_CERT"),
            (Op::Login, mismatch(&[]), "PIA_LOGIN_CA_CERT"),
            (Op::Login, locked(None), "when the lockout is over"),
            (Op::Login, lookup(), "DNS"),
            (Op::FetchCa, Cause::NotPinned { found: None, pin: "1f".to_owned() }, "neither used nor stored"),
            (Op::FetchCa, http(404, ""), "it is tried again; or get"),
            (Op::GetSignature, connect(io::ErrorKind::ConnectionRefused), "no port forwarding"),
            (Op::GetSignature, connect(io::ErrorKind::HostUnreachable), "check that the VPN is up"),
            (Op::BindPort, timeout(Phase::Connect), "check that the VPN is up"),
            (Op::GetSignature, Cause::NoTunnel, "set PIA_GATEWAY"),
            (Op::BindPort, timeout(Phase::Head), "check the network"),
            (Op::BindPort, closed(Phase::Handshake), "check the network"),
            (Op::BindPort, broken(Phase::Send), "check the network"),
            (Op::BindPort, mismatch(&["mexico409"]), "set PIA_HOSTNAME"),
            (Op::BindPort, Cause::UnknownIssuer, "if it is, PIA_GATEWAY is wrong"),
            (Op::BindPort, Cause::NotTls, "check that PIA_GATEWAY is the tunnel's gateway"),
            (Op::BindPort, Cause::Tls("no cipher".to_owned()), "check that PIA_GATEWAY is the tunnel's gateway"),
            (Op::BindPort, Cause::CertificateExpired, "check this system's clock"),
            (Op::BindPort, Cause::CertificateNotYetValid, "check this system's clock"),
            (Op::BindPort, Cause::TooLarge { what: "body", limit: 9 }, "check the address"),
            (Op::BindPort, Cause::NotHttp, "check the address"),
            (Op::BindPort, field(), "check the address"),
            (Op::BindPort, http(502, ""), "nothing to do if it passes"),
            (Op::GetSignature, refused(Refusal::TokenRejected), "never the server's public one"),
            (Op::GetSignature, refused(Refusal::NoAuthData), "a bug of ours"),
            (Op::BindPort, refused(Refusal::Busy), "connect the VPN to another server"),
            (Op::BindPort, refused(Refusal::BadSignature), "nothing to do: a new signature is asked for"),
            (Op::BindPort, refused(Refusal::Expired), "nothing to do: a new signature is asked for"),
            (Op::BindPort, refused(Refusal::Other), "nothing to do if it passes"),
            (Op::PortSource, rejected(), "GLUETUN_API_KEY"),
            (Op::PortSource, connect(io::ErrorKind::ConnectionRefused), "check that gluetun runs"),
            (Op::PortSource, http(404, ""), "too old"),
            (Op::PortSource, http(500, ""), "nothing to do if it passes"),
            (Op::PortSource, field(), "check what PORT_SOURCE names"),
            (Op::PortSource, file(), "check what PORT_SOURCE names"),
            (Op::ClientLogin, connect(io::ErrorKind::ConnectionRefused), "check that qBittorrent runs"),
            (Op::ClientLogin, rejected(), "check QBITTORRENT_USERNAME and QBITTORRENT_PASSWORD"),
            (Op::ClientLogin, Cause::NoCredentials, "set QBITTORRENT_USERNAME and QBITTORRENT_PASSWORD"),
            (Op::ClientLogin, Cause::Banned, "wait until its ban ends"),
            (Op::ClientPort, Cause::HostRejected, "'Server domains'"),
            (Op::ClientPort, Cause::NotTls, "use http://"),
            (Op::ClientPort, Cause::NotHttp, "use https://"),
            (Op::ClientPort, closed(Phase::Head), "use https://"),
            (Op::ClientPort, closed(Phase::Body), "check the network"),
            (Op::ClientPort, Cause::UnknownIssuer, "set QBITTORRENT_CA_CERT"),
            (Op::ClientPort, mismatch(&["nas"]), "use one of those names"),
            (Op::ClientPort, http(302, ""), "the address that it redirects to"),
            (Op::ClientPort, http(404, ""), "with its path prefix"),
            (Op::ClientSetPort, http(405, ""), "with its path prefix"),
            (Op::ClientSetPort, Cause::PortNotTaken { wanted: 1, found: 2 }, "something else that sets"),
            (Op::ClientListening, Cause::NotListening { port: 1 }, "another program may have the port"),
        ] {
            let error = Error::new(op, cause);
            assert!(error.remedy().contains(advice), "{error}: {}", error.remedy());
        }
    }
}
