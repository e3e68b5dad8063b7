//! `check`: the loop, narrated. The same steps and the same decisions; of each it is said whether it works or what to do, and the
//! torrent client is left as it is.

use std::io::Write;

use crate::error::{Cause, Error, Phase};
use crate::keeper::client::{PORT, SOCKET};
use crate::keeper::step::{Done, Exchange, Progress, Step};
use crate::keeper::{News, Peer, Verdict};
use crate::service::{Ear, Peers, Service, with_advice};
use crate::settings::{PortPeer, Settings};
use crate::state::State;
use crate::time::{self, shown};

/// Runs the check; true if all is well.
pub fn run(settings: Settings, out: &mut dyn Write) -> bool {
    let mut narrator = Narrator { out, well: true, said: Vec::new() };
    narrator.line("ok", "configuration", "is valid");
    for warning in &settings.warnings {
        narrator.line("note", "configuration", warning);
    }
    let state = State::visit(&settings.state_dir);
    if state.is_guest() {
        narrator.line("note", "state", "the service runs: it keeps its lease, and nothing is written here");
    }
    let mut service = Service::quiet(settings, state, true);
    let snapshot = service.keeper().snapshot();
    let follows = snapshot.follows;
    if let (Some(port), Some(end)) = (snapshot.port, snapshot.expires_at) {
        narrator.line("ok", "lease", &format!("port {port} until {}, stored", shown(end)));
    }
    let done = service.run_once(&mut narrator);
    for (peer, trouble) in service.keeper().snapshot().troubles {
        // What an earlier run left is of no step of this one.
        let step = match peer {
            Peer::Account => "account",
            Peer::Gateway => "gateway",
            Peer::Client => "client",
        };
        if matches!(trouble.error.cause, Cause::CredentialsRejected { status: None }) && !narrator.said.contains(&step)
        {
            narrator.fail(step, &trouble.error);
        }
    }
    let pia = ["account", "gateway", "certificate", "lease", "bind"];
    let rows = if follows { &["port source"][..] } else { &pia[..] };
    for row in rows.iter().chain(&["client", "client port", "client listens"]) {
        if !narrator.said.contains(row) {
            narrator.line("-", row, "not tried");
        }
    }
    done && narrator.well
}

/// Tells people what the loop does.
struct Narrator<'a> {
    out: &'a mut dyn Write,
    well: bool,
    /// The rows that something was said of.
    said: Vec<&'static str>,
}

impl Narrator<'_> {
    // A reader that went away is no reason to end before the check is complete.
    fn line(&mut self, verdict: &str, row: &'static str, text: &str) {
        self.said.push(row);
        let _ = writeln!(self.out, "{verdict:<5}{row:<15}{}", crate::text::one_line(text));
    }

    fn ok(&mut self, row: &'static str, text: &str) {
        self.line("ok", row, text);
    }

    fn fail(&mut self, row: &'static str, error: &Error) {
        self.well = false;
        self.line("FAIL", row, &with_advice(error));
    }

    /// What an exchange with the gateway has shown of it: whether it is there, and whether it is who it should be.
    fn gateway(&mut self, peers: &Peers, error: Option<&Error>) {
        let PortPeer::Pia(pia) = &peers.port else { return };
        let gateway = &pia.gateway;
        let reached = error.is_none_or(|error| is_beyond_connect(&error.cause));
        if !reached || self.said.contains(&"certificate") {
            return;
        }
        if !self.said.contains(&"gateway") {
            let how = gateway.how_found().map_or(String::new(), |how| format!(", found: {how}"));
            self.ok("gateway", &format!("{} answers{how}", gateway.address()));
        }
        let Some(names) = gateway.certificate_names() else { return };
        let names = names.join(", ");
        if let Some(hostname) = gateway.hostname() {
            self.ok("certificate", &format!("leads to the CA and is for {hostname}"));
        } else {
            let text = format!("leads to the CA; its name is not checked: set PIA_HOSTNAME to {names}");
            self.line("note", "certificate", &text);
        }
    }

    fn done(&mut self, done: &Done, peers: &Peers) {
        match done {
            Done::Token { logged_in: true, .. } => self.ok("account", "logged in to PIA"),
            Done::Token { .. } => {
                if let PortPeer::Pia(pia) = &peers.port {
                    self.ok("account", &format!("token cached in {}", pia.account.token_file().display()));
                }
            }
            Done::Source(Some(port)) => self.ok("port source", &format!("{} has port {port}", peers.source_name())),
            Done::Source(None) => {
                self.well = false;
                let text = format!("{} has no port now; is port forwarding on?", peers.source_name());
                self.line("FAIL", "port source", &text);
            }
            Done::Port(_) => {
                let client = peers.client.as_ref();
                self.ok("client", &format!("{} answers at {} and lets us in", client.name(), client.address()));
            }
            Done::Leased(_)
            | Done::Stored
            | Done::Bound { .. }
            | Done::Set
            | Done::Inspected(_)
            | Done::Reachability(_)
            | Done::Announced
            | Done::Inbound(_) => {}
        }
    }
}

/// Whether somebody answered, if not as it should be.
fn is_beyond_connect(cause: &Cause) -> bool {
    match cause {
        Cause::Lookup { .. }
        | Cause::Connect { .. }
        | Cause::NoRoute { .. }
        | Cause::Timeout { phase: Phase::Lookup | Phase::Connect, .. } => false,
        Cause::AllFailed(attempts) => attempts.iter().any(|attempt| is_beyond_connect(&attempt.error.cause)),
        _ => true,
    }
}

fn is_of_certificate(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::NameMismatch { .. }
            | Cause::UnknownIssuer
            | Cause::CertificateExpired
            | Cause::CertificateNotYetValid
            | Cause::NotTls
            | Cause::Tls(_)
    )
}

impl Ear for Narrator<'_> {
    fn step(&mut self, step: &Step, result: &Exchange<Done>, peers: &Peers) {
        let at_gateway = matches!(step, Step::GetSignature { .. } | Step::Bind(_));
        match result {
            Ok(Progress::Done(done)) => {
                if at_gateway {
                    self.gateway(peers, None);
                }
                self.done(done, peers);
            }
            Err(error) if at_gateway => self.gateway(peers, Some(error)),
            Ok(Progress::More) | Err(_) => {}
        }
    }

    fn verdict(&mut self, verdict: &Verdict) {
        let Some((_, news)) = &verdict.news else { return };
        match news {
            News::TokenRefused(error) => self.line("note", "account", &format!("{error}; getting another token")),
            News::Leased { lease, .. } => {
                self.ok("lease", &format!("port {} until {}", lease.port, shown(lease.expires_at)));
            }
            News::NotStored { lease, error } => {
                let text =
                    format!("port {}; {}: it is not stored, so the service gets another", lease.port, error.cause);
                self.line("note", "lease", &text);
            }
            News::Bound(port) => self.ok("bind", &format!("port {port} is bound for 15 minutes")),
            News::Listens { port, connectivity } => {
                self.ok("client port", &format!("is {port}"));
                self.ok("client listens", &format!("yes ({connectivity})"));
            }
            News::Clock(_) | News::ClockJumped(_) => {
                let now = shown(time::now().wall);
                self.line("note", "clock", &format!("this system's clock ({now}) differs from the gateway's: set it"));
            }
            News::Failed { error, next, .. } => self.failed(verdict.peer, error, next.is_zero()),
            _ => {}
        }
    }
}

impl Narrator<'_> {
    /// `goes_on` says that there is another way, which is taken at once.
    fn failed(&mut self, peer: Peer, error: &Error, goes_on: bool) {
        let row = match (peer, error.step) {
            (Peer::Account, _) => "account",
            (Peer::Gateway, "port source") => "port source",
            (Peer::Gateway, _) if is_of_certificate(&error.cause) => "certificate",
            (Peer::Gateway, "getSignature" | "bindPort") if !is_beyond_connect(&error.cause) => "gateway",
            (Peer::Gateway, "getSignature") => "lease",
            (Peer::Gateway, "bindPort") => "bind",
            (Peer::Gateway, _) => "gateway",
            (Peer::Client, PORT) => "client port",
            (Peer::Client, SOCKET) => "client listens",
            (Peer::Client, _) => "client",
        };
        if row == "client listens" {
            self.ok("client port", "is the leased one");
        }
        if goes_on && row == "bind" {
            self.line("note", "bind", &format!("{error}; asking for another lease"));
        } else {
            self.fail(row, error);
        }
    }
}
