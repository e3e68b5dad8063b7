//! `check`: runs the service's loop once, with an observer that prints a row for each part: what works, and what to fix. Never
//! changes the torrent client.

use std::io::{self, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use jiff::Timestamp;

use crate::error::{Call, Cause, Error, Phase};
use crate::keeper::step::{Completed, Connectivity, Exchange, Progress, Step};
use crate::keeper::{Notice, Outcome, Remote, Visibility};
use crate::service::{Observer, Remotes, Service, describe_inbound, details, truncated, with_advice};
use crate::settings::{PortProvider, Settings};
use crate::state::State;
use crate::text::one_line;
use crate::time::rfc3339;

/// Rows printed if this program leases the port, in the order of the loop's steps.
const ROWS: [&str; 12] = [
    "settings",
    "tunnel",
    "account",
    "CA",
    "gateway",
    "certificate",
    "lease",
    "bind",
    "client",
    "port",
    "listener",
    "inbound",
];
/// Rows printed if another program leases the port.
const ROWS_FOLLOWING: [&str; 7] = ["settings", "tunnel", "source", "client", "port", "listener", "inbound"];
const START_VPN: &str = "start the VPN, then check again";
/// A step that takes longer than this is reported as slow. Under 1 s, because a search for the gateway fails after 1 s.
const SLOW_STEP: Duration = Duration::from_millis(750);

/// Runs the check and prints its rows to `out`. Returns true if nothing needs fixing.
pub fn run(settings: Settings, out: &mut dyn Write, colours: bool) -> bool {
    let follows = matches!(settings.port, PortProvider::Source(_));
    let rows = if follows { &ROWS_FOLLOWING[..] } else { &ROWS[..] };
    let state = State::open_read_only(&settings.state_dir);
    let mut observer = CheckObserver {
        out,
        colours,
        rows,
        printed: Vec::new(),
        fix: None,
        port_unset: false,
        service_running: state.is_read_only(),
        stored_lease: None,
        no_device: false,
        peer_seen: false,
        slow: report_slow_steps(),
    };
    observer.ok("settings", &settings.origin);
    for warning in &settings.warnings {
        observer.note("settings", warning);
    }
    if observer.service_running {
        observer.note("settings", "the service is running and owns the stored lease, so this check writes nothing");
    }
    let mut service = Service::quiet(settings, state, true);
    observer.tunnel(&service);
    let snapshot = service.keeper().snapshot();
    observer.stored_lease =
        snapshot.port.zip(snapshot.expires_at).map(|(port, end)| format!("port {port} until {}, stored", rfc3339(end)));
    let complete = service.run_once(&mut observer);
    for (remote, trouble) in service.keeper().snapshot().troubles {
        // Credentials that were rejected in an earlier run are not sent again, so no step has reported them.
        let row = row_of(remote, &trouble.error);
        if matches!(trouble.error.cause, Cause::CredentialsRejected { before: true, .. })
            && !observer.printed.contains(&row)
        {
            observer.fail(row, &trouble.error);
        }
    }
    if let Some(lease) = observer.stored_lease.take().filter(|_| !observer.printed.contains(&"lease")) {
        observer.line(OK, "lease", &lease);
    }
    observer.end(complete)
}

/// Status word at the start of a line.
#[derive(Clone, Copy)]
struct Mark {
    word: &'static str,
    /// On a terminal (an ECMA-48 code).
    colour: &'static str,
}

const OK: Mark = Mark { word: "ok", colour: "32" };
const NOTE: Mark = Mark { word: "note", colour: "33" };
const FAIL: Mark = Mark { word: "FAIL", colour: "1;31" };
const SKIPPED: Mark = Mark { word: "-", colour: "2" };
/// A further line of the same row.
const MORE: Mark = Mark { word: "", colour: "2" };

/// Turns the loop's steps and outcomes into rows.
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
struct CheckObserver<'a> {
    out: &'a mut dyn Write,
    colours: bool,
    rows: &'static [&'static str],
    /// Rows that have at least one line so far.
    printed: Vec<&'static str>,
    /// Row of the problem to fix first, and how to fix it.
    fix: Option<(&'static str, String)>,
    /// The client is set to a different port, and no service is running that would correct it.
    port_unset: bool,
    service_running: bool,
    /// Text of the row `lease`, if a lease was stored before this check.
    stored_lease: Option<String>,
    /// The gateway has to be found by a search, but this machine has no VPN device.
    no_device: bool,
    /// The kernel reported an incoming peer within the last minute.
    peer_seen: bool,
    slow: Sender<Option<(&'static str, &'static str)>>,
}

impl CheckObserver<'_> {
    // Ignores errors, such as a closed pipe, because the exit code still matters.
    fn write(&mut self, mark: Mark, row: &str, text: &str) {
        let word = self.coloured(mark, &format!("{:<5}", mark.word));
        let _ = writeln!(self.out, "{word}{row:<15}{}", one_line(text));
    }

    fn coloured(&self, mark: Mark, text: &str) -> String {
        if self.colours { format!("\u{1b}[{}m{text}\u{1b}[0m", mark.colour) } else { text.to_owned() }
    }

    fn line(&mut self, mark: Mark, row: &'static str, text: &str) {
        let _ = self.slow.send(None);
        self.printed.push(row);
        self.write(mark, row, text);
    }

    /// Prints each row before `row` that has no line yet as skipped, with `reason`.
    fn skip_to(&mut self, row: &'static str, reason: &str) {
        let row_index = self.row_index(row);
        if self.printed.iter().any(|printed| self.row_index(printed) > row_index) {
            return;
        }
        for row in &self.rows[..row_index] {
            if !self.printed.contains(row) {
                let text = match *row {
                    "account" if self.stored_lease.is_some() => {
                        "not needed: the stored lease can be bound without a login"
                    }
                    _ => reason,
                };
                self.line(SKIPPED, row, text);
            }
        }
    }

    fn row_index(&self, row: &str) -> usize {
        self.rows.iter().position(|known| *known == row).unwrap_or(self.rows.len())
    }

    fn ok(&mut self, row: &'static str, text: &str) {
        self.skip_to(row, "not needed");
        self.line(OK, row, text);
    }

    fn note(&mut self, row: &'static str, text: &str) {
        self.skip_to(row, "not needed");
        self.line(NOTE, row, &truncated(text, ""));
    }

    fn fail(&mut self, row: &'static str, error: &Error) {
        // A setting that is ready to copy, or else the error's advice.
        let fix = match error.cause.most_informative() {
            Cause::NameMismatch { carried, .. } if row == "certificate" && !carried.is_empty() => {
                format!("PIA_HOSTNAME={}", carried[0])
            }
            _ => error.advice.to_owned(),
        };
        self.fail_with(row, &with_advice(error), fix);
        for line in details(error) {
            self.write(MORE, "", &line);
        }
    }

    fn fail_with(&mut self, row: &'static str, text: &str, fix: String) {
        self.skip_to(row, "not reached");
        self.line(FAIL, row, text);
        if self.fix.as_ref().is_none_or(|(known, _)| self.row_index(row) < self.row_index(known)) {
            self.fix = Some((row, fix));
        }
    }

    /// Prints the route to the gateway, or into the tunnel if the gateway is still unknown.
    fn tunnel(&mut self, service: &Service) {
        if service.has_no_tunnel() {
            self.fail_with("tunnel", &format!("{}; {START_VPN}", Cause::NoTunnel), START_VPN.to_owned());
            return;
        }
        // If the route is an error, the loop reports it. A gateway given by name has no route until its name has been resolved.
        let Some(Ok(route)) = service.route() else { return };
        let device = route.device.as_ref().map_or("an unknown device", |device| &device.name);
        let through = route.hop.map_or(String::new(), |hop| format!(" via {hop}"));
        if route.is_tunnel() {
            self.ok("tunnel", &format!("{device}, local address {}{through}", route.local));
        } else {
            self.no_device = service.searches_for_gateway();
            let text = format!(
                "{device} ({}{through}) is not a VPN device, which is right only if the VPN runs on another machine",
                route.local
            );
            self.note("tunnel", &text);
        }
    }

    /// Prints the rows `CA`, `gateway` and `certificate`, if the gateway was reached.
    fn gateway(&mut self, remotes: &Remotes, error: Option<&Error>) {
        let PortProvider::Pia(pia) = &remotes.port else { return };
        let gateway = &pia.gateway;
        let reached = error.is_none_or(|error| error.call != Call::FetchCa && is_beyond_connect(&error.cause));
        if !reached || self.printed.contains(&"certificate") {
            return;
        }
        if !self.printed.contains(&"gateway") {
            self.ok("CA", &gateway.authority());
            let how = gateway.how_found().map_or(String::new(), |how| format!(", found: {how}"));
            self.ok("gateway", &format!("{} answers{how}", gateway.address()));
        }
        let Some(names) = gateway.certificate_names() else { return };
        if let Some(hostname) = gateway.hostname() {
            self.ok("certificate", &format!("is signed by the CA and issued for {hostname}"));
        } else {
            let names = names.join(", ");
            let text = format!("is signed by the CA; to check its name as well, set PIA_HOSTNAME={names}");
            self.note("certificate", &text);
        }
    }

    fn completed(&mut self, completed: &Completed, remotes: &Remotes) {
        match completed {
            Completed::Token { logged_in: true, .. } => self.ok("account", "logged in to PIA"),
            Completed::Token { .. } => {
                if let PortProvider::Pia(pia) = &remotes.port {
                    self.ok("account", &format!("using the token in {}", pia.account.token_file().display()));
                }
            }
            Completed::Source(Some(port)) => {
                self.ok("source", &format!("{} has port {port}", remotes.follows().unwrap_or_default()));
            }
            Completed::Source(None) => {
                let fix = "turn on port forwarding in the VPN, and connect to a region that supports it";
                let text = format!("{} has no port now; {fix}", remotes.follows().unwrap_or_default());
                self.fail_with("source", &text, fix.to_owned());
            }
            Completed::Port(_) => {
                let client = remotes.client.as_ref();
                self.ok("client", &format!("{} answers at {} and grants access", client.name(), client.address()));
            }
            Completed::Inspected(Some(sockets)) => self.peer_seen |= sockets.incoming_peer,
            // Either without a row, or reported by an outcome.
            _ => {}
        }
    }

    /// Prints a failed step. `retries_at_once` is true if the loop does not wait before its next step.
    fn failed(&mut self, remote: Remote, error: &Error, retries_at_once: bool) {
        let row = row_of(remote, error);
        match row {
            // Unless the service is running, a different port in the client is not a failure.
            "port" if !self.service_running => {
                self.port_unset = true;
                self.note("port", &format!("{}; the service will set it", error.cause));
            }
            "gateway" if matches!(error.cause, Cause::NoTunnel) => {
                self.skip_to(row, "not reached");
                self.line(SKIPPED, row, "cannot be searched for without a tunnel");
            }
            "gateway" if self.no_device => {
                self.fail_with(row, &truncated(&error.to_string(), &format!("; {START_VPN}")), START_VPN.to_owned());
            }
            "bind" if retries_at_once => self.note("bind", &format!("{error}; getting a new lease")),
            _ => self.fail(row, error),
        }
    }

    fn listens(&mut self, connectivity: Connectivity, visibility: Visibility) {
        match visibility {
            Visibility::Confirmed => self.ok("listener", "yes"),
            Visibility::TcpOnly => self.note("listener", "over TCP only; no UDP socket is open on the port"),
            Visibility::Hidden => {
                let text = "the client reports that it listens, but nothing here listens on the port; a client in a \
                            container must share the VPN's network (network_mode) instead of publishing ports";
                self.note("listener", text);
            }
            Visibility::Unknown => self.note("listener", "unknown: neither visible here nor reported by the client"),
        }
        if self.peer_seen || connectivity == Connectivity::Connected {
            self.ok("inbound", "peers can connect to the client");
        } else {
            self.note("inbound", describe_inbound(connectivity));
        }
    }

    /// Prints each row that has no line yet as skipped, and then the conclusion. Returns true if nothing needs fixing.
    fn end(&mut self, complete: bool) -> bool {
        let (reason, mark, conclusion) = match &self.fix {
            Some((row, fix)) => (format!("skipped until '{row}' works"), FAIL, format!("fix this first: {fix}")),
            None if self.port_unset => {
                let conclusion = "all is well: start the service to set the port".to_owned();
                ("skipped until the port is set".to_owned(), OK, conclusion)
            }
            None if complete => ("not needed".to_owned(), OK, "all is well".to_owned()),
            None => ("not needed".to_owned(), FAIL, "some steps could not run; run check again".to_owned()),
        };
        for row in self.rows {
            if !self.printed.contains(row) {
                self.line(SKIPPED, row, &reason);
            }
        }
        let conclusion = self.coloured(mark, &one_line(&conclusion));
        let _ = writeln!(self.out, "\n{conclusion}");
        self.fix.is_none() && (complete || self.port_unset)
    }
}

fn row_of(remote: Remote, error: &Error) -> &'static str {
    let cause = error.cause.most_informative();
    match (remote, error.call) {
        (_, Call::Route) => "tunnel",
        (_, Call::FetchCa) => "CA",
        (Remote::Account, _) => "account",
        (Remote::Gateway, Call::PollSource) => "source",
        (Remote::Gateway, _) if is_of_certificate(cause) => "certificate",
        (Remote::Gateway, Call::GetSignature | Call::BindPort) if !is_beyond_connect(cause) => "gateway",
        (Remote::Gateway, Call::GetSignature) => "lease",
        (Remote::Gateway, Call::BindPort) => "bind",
        (Remote::Gateway, _) => "gateway",
        (Remote::Client, Call::ClientPort) => "port",
        (Remote::Client, Call::ClientSocket) => "listener",
        (Remote::Client, _) => "client",
    }
}

/// True if the remote answered, even with an error.
fn is_beyond_connect(cause: &Cause) -> bool {
    !matches!(
        cause.most_informative(),
        Cause::Lookup { .. }
            | Cause::Connect { .. }
            | Cause::NoRoute { .. }
            | Cause::Timeout { phase: Phase::Lookup | Phase::Connect, .. }
            | Cause::NoTunnel
            | Cause::Other(_)
    )
}

fn is_of_certificate(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::NameMismatch { .. }
            | Cause::UnknownIssuer
            | Cause::CertificateExpired(_)
            | Cause::CertificateNotYetValid(_)
            | Cause::NotTls
            | Cause::Tls(_)
    )
}

/// A step's row, and the name of the remote that the step waits for.
fn waits_for(step: &Step) -> Option<(&'static str, &'static str)> {
    match step {
        Step::GetToken { .. } => Some(("account", "PIA's website")),
        Step::GetSignature { .. } => Some(("gateway", "PIA's gateway")),
        Step::Bind(_) => Some(("bind", "PIA's gateway")),
        Step::PollSource => Some(("source", "the port source")),
        Step::ReadPort | Step::Confirm(_) => Some(("client", "the torrent client")),
        _ => None,
    }
}

/// Starts a thread that reports slow steps: the main thread cannot, because a step blocks it. The thread ends when the sender is
/// dropped.
fn report_slow_steps() -> Sender<Option<(&'static str, &'static str)>> {
    let (sender, steps) = channel::<Option<(&'static str, &'static str)>>();
    std::thread::spawn(move || {
        while let Ok(mut current) = steps.recv() {
            while let Some((row, who)) = current {
                let next = steps.recv_timeout(SLOW_STEP);
                if next == Err(RecvTimeoutError::Timeout) {
                    let _ = writeln!(io::stdout(), "{:<5}{row:<15}waiting for {who}, up to 10 s", "...");
                }
                current = next.ok().flatten();
            }
        }
    });
    sender
}

impl Observer for CheckObserver<'_> {
    fn step_started(&mut self, step: &Step) {
        let _ = self.slow.send(waits_for(step));
    }

    fn step_finished(&mut self, step: &Step, result: &Exchange<Completed>, remotes: &Remotes) {
        let _ = self.slow.send(None);
        if let (Step::GetSignature { .. } | Step::Bind(_), Ok(Progress::Done(_)) | Err(_)) = (step, result) {
            self.gateway(remotes, result.as_ref().err());
        }
        if let (Step::Bind(lease), true, false) =
            (step, self.printed.contains(&"certificate"), self.printed.contains(&"lease"))
        {
            self.ok("lease", &format!("port {} until {}, stored", lease.port, rfc3339(lease.expires_at)));
        }
        let Ok(Progress::Done(completed)) = result else { return };
        // The loop inspects the socket only if the client has the right port.
        if let (Step::Inspect(of), false) = (step, self.printed.contains(&"port")) {
            self.ok("port", &format!("is {}", of.port));
        }
        self.completed(completed, remotes);
    }

    fn outcome(&mut self, outcome: &Outcome) {
        let Some((_, notice)) = &outcome.notice else { return };
        match notice {
            Notice::TokenRefused(error) => self.note("account", &format!("{error}; getting a new token")),
            Notice::Leased { lease, .. } => {
                self.ok("lease", &format!("port {} until {}", lease.port, rfc3339(lease.expires_at)));
            }
            Notice::StoreFailed { lease, error } => {
                let text =
                    format!("port {}; not stored, so the service gets a different one: {}", lease.port, error.cause);
                self.note("lease", &text);
            }
            Notice::Bound(port) | Notice::Rebound { port, .. } => {
                self.ok("bind", &format!("port {port} is bound for 15 minutes"));
            }
            Notice::Listening { connectivity, visibility, .. } => self.listens(*connectivity, *visibility),
            Notice::Clock(_) | Notice::ClockJumped(_) => {
                let now = rfc3339(Timestamp::now());
                let text = format!("this system's clock ({now}) differs from the gateway's; set the clock");
                self.line(NOTE, "clock", &text);
            }
            Notice::Failed { error, next, .. } => self.failed(outcome.remote, error, next.is_zero()),
            _ => {}
        }
    }
}
