//! `check`: the loop with another observer. The same steps and the same decisions; of each it is said whether it works or what to do, and the
//! torrent client is left as it is.

use std::io::{self, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::error::{Call, Cause, Error, Phase};
use crate::keeper::step::{Completed, Connectivity, Exchange, Progress, Step};
use crate::keeper::{Notice, Outcome, Remote, Visibility};
use crate::service::{Observer, Remotes, Service, describe_inbound, details, truncated, with_advice};
use crate::settings::{PortProvider, Settings};
use crate::state::State;
use crate::text::one_line;
use crate::time::{self, rfc3339};

/// What is told where PIA is spoken to, in the order in which the loop works.
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
/// The same where somebody else leases the port.
const ROWS_FOLLOWING: [&str; 7] = ["settings", "tunnel", "source", "client", "port", "listener", "inbound"];
/// What to do where there is no tunnel.
const START_VPN: &str = "start the VPN, then check again";
/// A step that takes longer than this is told at once. Less than the second after which the search for a gateway ends, or it
/// would be told when it is over.
const SLOW_STEP: Duration = Duration::from_millis(750);

/// Runs the check; true if all is well. `colours` is for a terminal.
pub fn run(settings: Settings, out: &mut dyn Write, colours: bool) -> bool {
    let follows = matches!(settings.port, PortProvider::Source(_));
    let rows = if follows { &ROWS_FOLLOWING[..] } else { &ROWS[..] };
    let slow = report_slow_steps();
    let mut observer = CheckObserver {
        out,
        colours,
        rows,
        printed: Vec::new(),
        fix: None,
        port_unset: false,
        service_running: false,
        has_stored_lease: false,
        no_device: false,
        peer_seen: false,
        slow,
    };
    observer.ok("settings", &settings.origin);
    for warning in &settings.warnings {
        observer.note("settings", warning);
    }
    let state = State::open_read_only(&settings.state_dir);
    observer.service_running = state.is_read_only();
    if observer.service_running {
        observer.note("settings", "the service runs: it keeps its lease, and nothing is written here");
    }
    let mut service = Service::quiet(settings, state, true);
    observer.tunnel(&service);
    let snapshot = service.keeper().snapshot();
    let has_stored_lease =
        snapshot.port.zip(snapshot.expires_at).map(|(port, end)| format!("port {port} until {}, stored", rfc3339(end)));
    observer.has_stored_lease = has_stored_lease.is_some();
    let complete = service.run_once(&mut observer);
    for (remote, trouble) in service.keeper().snapshot().troubles {
        // What an earlier run left is of no step of this one.
        let row = row_of(remote, &trouble.error);
        if matches!(trouble.error.cause, Cause::CredentialsRejected { before: true, .. })
            && !observer.printed.contains(&row)
        {
            observer.fail(row, &trouble.error);
        }
    }
    if let Some(has_stored_lease) = has_stored_lease.filter(|_| !observer.printed.contains(&"lease")) {
        observer.line(Mark::Ok, "lease", &has_stored_lease);
    }
    observer.end(complete)
}

/// How a line begins.
#[derive(Clone, Copy)]
enum Mark {
    Ok,
    Note,
    Fail,
    Skipped,
    More,
}

impl Mark {
    /// Its word, and its colour on a terminal (ECMA-48).
    fn label(self) -> (&'static str, &'static str) {
        match self {
            Self::Ok => ("ok", "32"),
            Self::Note => ("note", "33"),
            Self::Fail => ("FAIL", "1;31"),
            Self::Skipped => ("-", "2"),
            Self::More => ("", "2"),
        }
    }
}

/// Tells people what the loop does.
#[allow(clippy::struct_excessive_bools, reason = "facts, each by itself")]
struct CheckObserver<'a> {
    out: &'a mut dyn Write,
    colours: bool,
    rows: &'static [&'static str],
    /// The rows that something was said of.
    printed: Vec<&'static str>,
    /// What has to be done first: the row, and what can be typed.
    fix: Option<(&'static str, String)>,
    /// The client has another port, which the service will set.
    port_unset: bool,
    /// The service runs.
    service_running: bool,
    /// There is a lease of an earlier run.
    has_stored_lease: bool,
    /// The gateway is looked for, and no VPN device is here.
    no_device: bool,
    /// A peer from outside is connected.
    peer_seen: bool,
    slow: Sender<Option<(&'static str, &'static str)>>,
}

impl CheckObserver<'_> {
    // A reader that went away is no reason to end before the check is complete.
    fn write(&mut self, mark: Mark, row: &str, text: &str) {
        let (word, colour) = mark.label();
        let text = one_line(text);
        let _ = if self.colours {
            writeln!(self.out, "\u{1b}[{colour}m{word:<5}\u{1b}[0m{row:<15}{text}")
        } else {
            writeln!(self.out, "{word:<5}{row:<15}{text}")
        };
    }

    fn line(&mut self, mark: Mark, row: &'static str, text: &str) {
        let _ = self.slow.send(None);
        self.printed.push(row);
        self.write(mark, row, text);
    }

    /// What stands before `row` and was not said was not needed, or not reached.
    fn skip_to(&mut self, row: &'static str, reason: &str) {
        let row_index = self.row_index(row);
        if self.printed.iter().any(|printed| self.row_index(printed) > row_index) {
            return;
        }
        for row in &self.rows[..row_index] {
            if !self.printed.contains(row) {
                let text = match *row {
                    "account" if self.has_stored_lease => "not needed: the stored lease is bound without a login",
                    _ => reason,
                };
                self.line(Mark::Skipped, row, text);
            }
        }
    }

    fn row_index(&self, row: &str) -> usize {
        self.rows.iter().position(|known| *known == row).unwrap_or(self.rows.len())
    }

    fn ok(&mut self, row: &'static str, text: &str) {
        self.skip_to(row, "not needed");
        self.line(Mark::Ok, row, text);
    }

    fn note(&mut self, row: &'static str, text: &str) {
        self.skip_to(row, "not needed");
        self.line(Mark::Note, row, &truncated(text, ""));
    }

    fn fail(&mut self, row: &'static str, error: &Error) {
        self.fail_with(row, &with_advice(error), fix(row, error));
        for line in details(error) {
            self.write(Mark::More, "", &line);
        }
    }

    fn fail_with(&mut self, row: &'static str, text: &str, fix: String) {
        self.skip_to(row, "not reached");
        self.line(Mark::Fail, row, text);
        if self.fix.as_ref().is_none_or(|(known, _)| self.row_index(row) < self.row_index(known)) {
            self.fix = Some((row, fix));
        }
    }

    /// The route to the gateway, or into the tunnel where that has to be found.
    fn tunnel(&mut self, service: &Service) {
        if service.has_no_tunnel() {
            self.fail_with("tunnel", &format!("{}; {START_VPN}", Cause::NoTunnel), START_VPN.to_owned());
            return;
        }
        // Without a route the loop itself says so; a name has to be looked up first.
        let Some(Ok(route)) = service.route() else { return };
        let device = route.device.as_ref().map_or("an unknown device", |device| &device.name);
        let through = route.hop.map_or(String::new(), |hop| format!(" by way of {hop}"));
        if route.is_tunnel() {
            self.ok("tunnel", &format!("{device}, our address in it is {}{through}", route.local));
        } else {
            self.no_device = service.searches_for_gateway();
            let text = format!(
                "{device} ({}{through}) is no VPN device of this machine: right only if another machine runs the VPN",
                route.local
            );
            self.note("tunnel", &text);
        }
    }

    /// What an exchange with the gateway has shown of it: whether it is there, and whether it is who it should be.
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
            self.ok("certificate", &format!("is signed by the CA and is for {hostname}"));
        } else {
            let names = names.join(", ");
            self.note(
                "certificate",
                &format!("is signed by the CA; its name is not checked: set PIA_HOSTNAME={names}"),
            );
        }
    }

    fn completed(&mut self, completed: &Completed, remotes: &Remotes) {
        match completed {
            Completed::Token { logged_in: true, .. } => self.ok("account", "logged in to PIA"),
            Completed::Token { .. } => {
                if let PortProvider::Pia(pia) = &remotes.port {
                    self.ok("account", &format!("there is a token in {}", pia.account.token_file().display()));
                }
            }
            Completed::Source(Some(port)) => self.ok("source", &format!("{} has port {port}", remotes.source_name())),
            Completed::Source(None) => {
                let fix = "turn port forwarding on there, in a region that has it";
                let text = format!("{} has no port now; {fix}", remotes.source_name());
                self.fail_with("source", &text, fix.to_owned());
            }
            Completed::Port(_) => {
                let client = remotes.client.as_ref();
                self.ok("client", &format!("{} answers at {} and lets us in", client.name(), client.address()));
            }
            Completed::Inspected(Some(sockets)) => self.peer_seen |= sockets.incoming_peer,
            Completed::Leased(_)
            | Completed::Stored
            | Completed::Bound { .. }
            | Completed::PortSet
            | Completed::Inspected(None)
            | Completed::Reachability(_)
            | Completed::Reannounced
            | Completed::Inbound(_) => {}
        }
    }

    /// `retries_at_once` says that there is another way, which is taken at once.
    fn failed(&mut self, remote: Remote, error: &Error, retries_at_once: bool) {
        let row = row_of(remote, error);
        match row {
            // Whoever checks before the first start has done nothing wrong.
            "port" if !self.service_running => {
                self.port_unset = true;
                self.note("port", &format!("{}; the service will set it", error.cause));
            }
            "gateway" if matches!(error.cause, Cause::NoTunnel) => {
                self.skip_to(row, "not reached");
                self.line(Mark::Skipped, row, "not looked for without a tunnel");
            }
            "gateway" if self.no_device => {
                self.fail_with(row, &truncated(&error.to_string(), &format!("; {START_VPN}")), START_VPN.to_owned());
            }
            "bind" if retries_at_once => self.note("bind", &format!("{error}; asking for another lease")),
            _ => self.fail(row, error),
        }
    }

    /// What was not reached, and what all of it comes to.
    fn end(&mut self, complete: bool) -> bool {
        let reason = match &self.fix {
            Some((row, _)) => format!("not tried: first '{row}' has to work"),
            None if self.port_unset => "not looked at before the port is set".to_owned(),
            None => "not needed".to_owned(),
        };
        for row in self.rows {
            if !self.printed.contains(row) {
                self.line(Mark::Skipped, row, &reason);
            }
        }
        let (colour, label) = match &self.fix {
            Some((_, fix)) => ("1;31", format!("fix this first: {fix}")),
            None if self.port_unset => ("32", "all is well: start the service, which sets the port".to_owned()),
            None if complete => ("32", "all is well".to_owned()),
            None => ("1;31", "not everything could be tried: check again".to_owned()),
        };
        let label = one_line(&label);
        let _ = if self.colours {
            writeln!(self.out, "\n\u{1b}[{colour}m{label}\u{1b}[0m")
        } else {
            writeln!(self.out, "\n{label}")
        };
        self.fix.is_none() && (complete || self.port_unset)
    }
}

/// What can be typed, or done, about an error.
fn fix(row: &str, error: &Error) -> String {
    match error.cause.most_informative() {
        Cause::NameMismatch { carried, .. } if row == "certificate" && !carried.is_empty() => {
            format!("PIA_HOSTNAME={}", carried[0])
        }
        _ => error.advice.to_owned(),
    }
}

/// The row of an error.
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

/// Whether somebody answered, if not as it should be.
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
            | Cause::CertificateExpired { .. }
            | Cause::CertificateNotYetValid { .. }
            | Cause::NotTls
            | Cause::Tls(_)
    )
}

/// Whom a step waits for.
fn waits_for(step: &Step) -> Option<(&'static str, &'static str)> {
    match step {
        Step::GetToken { .. } => Some(("account", "PIA's website")),
        Step::GetSignature { .. } => Some(("gateway", "PIA's gateway")),
        Step::Bind(_) => Some(("bind", "PIA's gateway")),
        Step::PollSource => Some(("source", "whoever has the port")),
        Step::ReadPort | Step::Confirm(_) => Some(("client", "the torrent client")),
        _ => None,
    }
}

/// A step is blocking, so somebody else tells that it takes long. It ends with its sender.
fn report_slow_steps() -> Sender<Option<(&'static str, &'static str)>> {
    let (sender, steps) = channel::<Option<(&'static str, &'static str)>>();
    std::thread::spawn(move || {
        let mut current = None;
        loop {
            let next = match current {
                None => steps.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(_) => steps.recv_timeout(SLOW_STEP),
            };
            match (next, current.take()) {
                (Ok(step), _) => current = step,
                (Err(RecvTimeoutError::Timeout), Some((row, who))) => {
                    let _ = writeln!(io::stdout(), "{:<5}{row:<15}waiting for {who}, 10 s at most", "...");
                }
                (Err(_), _) => return,
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
        if let Step::GetSignature { .. } | Step::Bind(_) = step {
            match result {
                Ok(Progress::Done(_)) => self.gateway(remotes, None),
                Err(error) => self.gateway(remotes, Some(error)),
                Ok(Progress::More) => {}
            }
        }
        if let (Step::Bind(lease), true, false) =
            (step, self.printed.contains(&"certificate"), self.printed.contains(&"lease"))
        {
            self.ok("lease", &format!("port {} until {}, stored", lease.port, rfc3339(lease.expires_at)));
        }
        let Ok(Progress::Done(completed)) = result else { return };
        // The socket is looked at when the port is right.
        if let (Step::Inspect { port, .. }, false) = (step, self.printed.contains(&"port")) {
            self.ok("port", &format!("is {port}"));
        }
        self.completed(completed, remotes);
    }

    fn outcome(&mut self, outcome: &Outcome) {
        let Some((_, notice)) = &outcome.notice else { return };
        match notice {
            Notice::TokenRefused(error) => self.note("account", &format!("{error}; getting another token")),
            Notice::Leased { lease, .. } => {
                self.ok("lease", &format!("port {} until {}", lease.port, rfc3339(lease.expires_at)));
            }
            Notice::StoreFailed { lease, error } => {
                let text =
                    format!("port {}; it cannot be stored, so the service gets another: {}", lease.port, error.cause);
                self.note("lease", &text);
            }
            Notice::Bound(port) => self.ok("bind", &format!("port {port} is bound for 15 minutes")),
            Notice::Listening { connectivity, visibility, .. } => self.listens(*connectivity, *visibility),
            Notice::Clock(_) | Notice::ClockJumped(_) => {
                let now = rfc3339(time::now().wall);
                self.line(
                    Mark::Note,
                    "clock",
                    &format!("this system's clock ({now}) differs from the gateway's: set it"),
                );
            }
            Notice::Failed { error, next, .. } => self.failed(outcome.remote, error, next.is_zero()),
            _ => {}
        }
    }
}

impl CheckObserver<'_> {
    fn listens(&mut self, connectivity: Connectivity, visibility: Visibility) {
        match visibility {
            Visibility::Confirmed => self.ok("listener", "yes"),
            Visibility::TcpOnly => self.note("listener", "by TCP alone: nobody listens on its port by UDP"),
            Visibility::Hidden => {
                let text = "it says so, but no program here listens on the port: in a container it must share the VPN's \
                            network (network_mode), not map its ports";
                self.note("listener", text);
            }
            Visibility::Unknown => self.note("listener", "not known: it is not on this machine, and does not say"),
        }
        if self.peer_seen || connectivity == Connectivity::Connected {
            self.ok("inbound", "peers from outside reach it");
        } else {
            self.note("inbound", describe_inbound(connectivity));
        }
    }
}
