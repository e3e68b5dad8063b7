//! `check`: goes the whole way step by step, says of each step whether it works or what to do, and changes nothing at the
//! torrent client.

use std::io::Write;

use crate::config::{Config, Source};
use crate::error::{Cause, Error, Op, Phase, Refusal};
use crate::pia::lease::Lease;
use crate::pia::{Pia, account};
use crate::service::{Parts, PortSource};
use crate::source::Followed;
use crate::torrent::{Connectivity, TorrentClient};

/// Runs the check; true if all is well.
pub fn run(config: Config, out: &mut dyn Write) -> bool {
    let mut lines = Lines { out, well: true };
    lines.ok("configuration", "is valid");
    for warning in &config.warnings {
        lines.note("configuration", warning);
    }
    let client_url = config.client_url.to_string();
    let (hostname, token_file) = match &config.source {
        Source::Pia(pia) => (pia.hostname.clone(), pia.token_file.display().to_string()),
        Source::Followed(_) => (None, String::new()),
    };
    let Parts { source, mut client } = Parts::new(config, false);
    let port = match source {
        PortSource::Pia(mut pia) => check_pia(&mut lines, &mut pia, hostname.as_deref(), &token_file),
        PortSource::Followed { followed, .. } => check_followed(&mut lines, followed),
    };
    check_client(&mut lines, client.as_mut(), &client_url, port);
    client.log_out();
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

fn check_followed(lines: &mut Lines, mut followed: Followed) -> Option<u16> {
    match followed.port() {
        Ok(Some(port)) => {
            lines.ok("port source", &format!("{} has port {port}", followed.name()));
            Some(port)
        }
        Ok(None) => {
            lines.fail_text("port source", &format!("{} has no port now; is port forwarding on?", followed.name()));
            None
        }
        Err(error) => {
            lines.fail("port source", &error);
            None
        }
    }
}

fn check_pia(lines: &mut Lines, pia: &mut Pia, hostname: Option<&str>, token_file: &str) -> Option<u16> {
    let has_token = match pia.get_token() {
        Ok(account::Source::File) => {
            lines.ok("token", &format!("cached in {token_file}"));
            true
        }
        Ok(account::Source::Login) => {
            lines.ok("token", "logged in to PIA");
            true
        }
        Err(error) => {
            lines.fail("token", &error);
            false
        }
    };
    if !check_gateway(lines, pia, hostname) {
        for step in ["lease", "bind"] {
            lines.skip(step, "needs the gateway");
        }
        return pia.lease.as_ref().map(|lease| lease.port);
    }
    if !check_lease(lines, pia, has_token) {
        lines.skip("bind", "needs a lease");
        return None;
    }
    let mut bound = pia.bind_port();
    if let Err(error) = &bound
        && let Cause::Refused { refusal, .. } = &error.cause
        && refusal.is_of_the_lease()
        && has_token
    {
        lines.note("bind", &format!("{error}; asking for another lease"));
        if !check_new_lease(lines, pia) {
            lines.skip("bind", "needs a lease");
            return None;
        }
        bound = pia.bind_port();
    }
    match bound {
        Ok(port) => lines.ok("bind", &format!("port {port} is bound for 15 minutes")),
        Err(error) => lines.fail("bind", &error),
    }
    pia.lease.as_ref().map(|lease| lease.port)
}

/// Connection, chain and name; one handshake tells them apart by how it fails.
fn check_gateway(lines: &mut Lines, pia: &mut Pia, hostname: Option<&str>) -> bool {
    let (ca, tcp, tls, name) = ("gateway CA", "gateway TCP", "gateway TLS", "gateway name");
    let result = pia.gateway.connect(Op::GetSignature);
    let address = pia.gateway.dialled().map_or("a candidate".to_owned(), |_| pia.gateway.address());
    let connected = || format!("{address} answers");
    let trusted = "the certificate leads to the CA";
    let error = match result {
        Ok(()) => {
            let how = pia.gateway.how_found().map_or(String::new(), |how| format!(", found: {how}"));
            lines.ok(tcp, &format!("{}{how}", connected()));
            lines.ok(tls, trusted);
            let names = pia.gateway.certificate_names().join(", ");
            match hostname {
                Some(hostname) => lines.ok(name, &format!("the certificate is for {hostname}")),
                None => lines.note(name, &format!("not checked: set PIA_HOSTNAME to {names}")),
            }
            return true;
        }
        Err(error) => error,
    };
    match error.cause.most_telling() {
        _ if error.op == Op::FetchCa => {
            lines.fail(ca, &error);
            for step in [tcp, tls, name] {
                lines.skip(step, "needs the CA");
            }
        }
        Cause::Lookup { .. }
        | Cause::NoTunnel
        | Cause::Connect { .. }
        | Cause::Timeout { phase: Phase::Lookup | Phase::Connect, .. } => {
            lines.fail(tcp, &error);
            lines.skip(tls, "needs a connection");
            lines.skip(name, "needs a connection");
        }
        Cause::NameMismatch { .. } => {
            lines.ok(tcp, &connected());
            lines.ok(tls, trusted);
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

fn describe(lease: &Lease, whence: &str) -> String {
    format!("port {} until {:.0}, {whence}", lease.port, lease.expires_at)
}

/// Whether there is a lease to bind: the stored one, whatever our clock says of its end, else a new one. The gateway tells
/// whether it has expired.
fn check_lease(lines: &mut Lines, pia: &mut Pia, has_token: bool) -> bool {
    if let Some(lease) = &pia.lease {
        lines.ok("lease", &describe(lease, "stored"));
        return true;
    }
    if !has_token {
        lines.skip("lease", "needs a token");
        return false;
    }
    check_new_lease(lines, pia)
}

fn check_new_lease(lines: &mut Lines, pia: &mut Pia) -> bool {
    match new_lease(pia) {
        Ok(lease) => {
            let whence = if pia.is_saved() { "stored now" } else { "not stored: STATE_DIR cannot be written to" };
            lines.ok("lease", &describe(&lease, whence));
            true
        }
        Err(error) => {
            lines.fail("lease", &error);
            false
        }
    }
}

/// With one new token and one repeat when the gateway does not accept the first.
fn new_lease(pia: &mut Pia) -> Result<Lease, Error> {
    match pia.get_signature() {
        Err(Error { cause: Cause::Refused { refusal: Refusal::TokenRejected, .. }, .. }) => {
            pia.account.reject();
            pia.get_token()?;
            pia.get_signature().cloned()
        }
        result => result.cloned(),
    }
}

fn check_client(lines: &mut Lines, client: &mut dyn TorrentClient, url: &str, wanted: Option<u16>) {
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
    match wanted {
        None => lines.skip(port, &format!("is {}; there is no port to compare it with", found.port)),
        Some(wanted) if found.port == i64::from(wanted) => lines.ok(port, &format!("is {wanted}")),
        Some(wanted) => lines.fail_text(
            port,
            &format!("is {}, the leased one is {}; start the service or run `once` to set it", found.port, wanted),
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
