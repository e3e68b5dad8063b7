//! `check`: goes the whole way step by step, says of each step whether it works or what to do, and changes nothing at the
//! torrent client.

use std::io::Write;

use crate::config::Config;
use crate::error::{Cause, Error, Op, Phase};
use crate::pia::account::Source;
use crate::pia::lease::Lease;
use crate::service::Parts;
use crate::torrent::{Connectivity, TorrentClient};

/// Runs the check; true if all is well.
pub fn run(config: Config, out: &mut dyn Write) -> bool {
    let mut lines = Lines { out, well: true };
    lines.ok("configuration", "is valid");
    for warning in &config.warnings {
        lines.note("configuration", warning);
    }
    let hostname = config.hostname.clone();
    let client_url = config.client_url.to_string();
    let token_file = config.token_file.display().to_string();
    let mut parts = Parts::new(config);
    let lease = check_pia(&mut lines, &mut parts, hostname.as_deref(), &token_file);
    check_client(&mut lines, parts.client.as_mut(), &client_url, lease.as_ref());
    parts.client.log_out();
    lines.well
}

struct Lines<'a> {
    out: &'a mut dyn Write,
    well: bool,
}

impl Lines<'_> {
    // A reader that went away is no reason to end before the check is complete.
    fn line(&mut self, verdict: &str, step: &str, text: &str) {
        let _ = writeln!(self.out, "{verdict:<5}{step:<15}{text}");
    }

    fn ok(&mut self, step: &str, text: &str) {
        self.line("ok", step, text);
    }

    fn note(&mut self, step: &str, text: &str) {
        self.line("note", step, text);
    }

    fn skip(&mut self, step: &str, why: &str) {
        self.line("skip", step, why);
    }

    fn fail(&mut self, step: &str, error: &Error) {
        self.well = false;
        self.line("FAIL", step, &format!("{error}; {}", error.remedy()));
    }

    fn fail_text(&mut self, step: &str, text: &str) {
        self.well = false;
        self.line("FAIL", step, text);
    }
}

fn check_pia(lines: &mut Lines, parts: &mut Parts, hostname: Option<&str>, token_file: &str) -> Option<Lease> {
    let has_token = match parts.account.obtain(&|| false) {
        Ok(Source::File) => {
            lines.ok("token", &format!("cached in {token_file}"));
            true
        }
        Ok(Source::Login) => {
            lines.ok("token", "logged in to PIA");
            true
        }
        Err(error) => {
            lines.fail("token", &error);
            false
        }
    };
    if !check_gateway(lines, parts, hostname) {
        for step in ["lease", "bind"] {
            lines.skip(step, "needs the gateway");
        }
        return parts.stored_lease();
    }
    let Some(lease) = check_lease(lines, parts, has_token) else {
        lines.skip("bind", "needs a lease");
        return None;
    };
    match parts.gateway.bind_port(&lease) {
        Ok(()) => lines.ok("bind", &format!("port {} is bound for 15 minutes", lease.port)),
        Err(error) => lines.fail("bind", &error),
    }
    Some(lease)
}

/// Connection, chain and name; one handshake tells them apart by how it fails.
fn check_gateway(lines: &mut Lines, parts: &mut Parts, hostname: Option<&str>) -> bool {
    let (tcp, tls, name) = ("gateway TCP", "gateway TLS", "gateway name");
    let address = parts.gateway.address();
    let connected = || format!("{address} answers");
    match parts.gateway.connect() {
        Ok(()) => {
            lines.ok(tcp, &connected());
            lines.ok(tls, "the certificate leads to PIA_CA_CERT");
            let names = parts.gateway.certificate_names().join(", ");
            match hostname {
                Some(hostname) => lines.ok(name, &format!("the certificate is for {hostname}")),
                None => lines.note(name, &format!("not checked: set PIA_HOSTNAME to {names}")),
            }
            true
        }
        Err(cause) => {
            let error = Error::new(Op::GetSignature, cause);
            match &error.cause {
                Cause::Lookup { .. }
                | Cause::Connect { .. }
                | Cause::Timeout { phase: Phase::Lookup | Phase::Connect, .. } => {
                    lines.fail(tcp, &error);
                    lines.skip(tls, "needs a connection");
                    lines.skip(name, "needs a connection");
                }
                Cause::NameMismatch { .. } => {
                    lines.ok(tcp, &connected());
                    lines.ok(tls, "the certificate leads to PIA_CA_CERT");
                    lines.fail(name, &error);
                }
                _ => {
                    lines.ok(tcp, &connected());
                    lines.fail(tls, &error);
                    lines.skip(name, "needs a certificate that can be trusted");
                }
            }
            false
        }
    }
}

fn check_lease(lines: &mut Lines, parts: &mut Parts, has_token: bool) -> Option<Lease> {
    if let Some(lease) = parts.stored_lease().filter(|lease| lease.expires_at > jiff::Timestamp::now()) {
        lines.ok("lease", &format!("port {} until {:.0}, stored", lease.port, lease.expires_at));
        return Some(lease);
    }
    if !has_token {
        lines.skip("lease", "needs a token");
        return None;
    }
    match new_lease(parts) {
        Ok(lease) => {
            let kept = match parts.store.save(&lease) {
                Ok(()) => "stored now",
                Err(_) => "not stored: STATE_DIR cannot be written to",
            };
            lines.ok("lease", &format!("port {} until {:.0}, {kept}", lease.port, lease.expires_at));
            Some(lease)
        }
        Err(error) => {
            lines.fail("lease", &error);
            None
        }
    }
}

/// With one new token and one repeat when the gateway does not accept the first.
fn new_lease(parts: &mut Parts) -> Result<Lease, Error> {
    let no_token = || Error::new(Op::TokenFile, Cause::NoCredentials);
    let token = parts.account.token().ok_or_else(no_token)?;
    match parts.gateway.get_signature(token) {
        Err(Error { cause: Cause::Refused { refusal: crate::error::Refusal::TokenRejected, .. }, .. }) => {
            parts.account.reject();
            parts.account.obtain(&|| false)?;
            parts.gateway.get_signature(parts.account.token().ok_or_else(no_token)?)
        }
        result => result,
    }
}

fn check_client(lines: &mut Lines, client: &mut dyn TorrentClient, url: &str, lease: Option<&Lease>) {
    let (reach, login, port, listening) = ("client", "client login", "client port", "client listens");
    let found = match client.port() {
        Ok(found) => found,
        Err(error) => {
            let reached = matches!(
                error.cause,
                Cause::CredentialsRejected { .. } | Cause::NoCredentials | Cause::Banned | Cause::HostRejected
            );
            if reached {
                lines.ok(reach, &format!("{} answers at {url}", client.name()));
                lines.fail(login, &error);
            } else {
                lines.fail(reach, &error);
                lines.skip(login, "needs the Web UI");
            }
            lines.skip(port, "needs a login");
            lines.skip(listening, "needs a login");
            return;
        }
    };
    lines.ok(reach, &format!("{} answers at {url}", client.name()));
    lines.ok(login, "accepted");
    match lease {
        None => lines.skip(port, &format!("is {}; there is no lease to compare it with", found.port)),
        Some(lease) if found.port == i64::from(lease.port) => lines.ok(port, &format!("is {}", found.port)),
        Some(lease) => lines.fail_text(
            port,
            &format!("is {}, the leased one is {}; start the service or run `once` to set it", found.port, lease.port),
        ),
    }
    match client.connectivity() {
        Ok(Connectivity::Disconnected) => lines.fail_text(
            listening,
            "no: nothing listens; another program may have the port, or the network interface in its settings is down",
        ),
        Ok(connectivity) => lines.ok(listening, &format!("yes ({connectivity})")),
        Err(error) => lines.fail(listening, &error),
    }
}
