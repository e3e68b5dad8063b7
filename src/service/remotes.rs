//! Runs each step against its remote, one exchange at a time. Makes no decisions, except that a different user's program gets no
//! credentials of the client.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::error::{Call, Cause, Error, Retry};
use crate::keeper::step::{Completed, Exchange, Progress, Step};
use crate::keeper::tunnel::GatewayRoute;
use crate::keeper::{self, Keeper, Remote, Setup};
use crate::kernel::{self, Network};
use crate::pia::{Pia, account};
use crate::secret::Secret;
use crate::settings::{PortProvider, Settings};
use crate::state::State;
use crate::time::Now;
use crate::torrent::TorrentClient;
use crate::views::status::remote_name;

pub struct Remotes {
    pub port: PortProvider,
    pub client: Box<dyn TorrentClient>,
    client_owner: Rc<ClientOwner>,
}

/// User who owns the client's listener on this machine, so that the credentials never go to a local program of a different user
/// that has taken the port of a client that is down. In memory only: after a restart or a reload, the client may have a new user.
#[derive(Default)]
struct ClientOwner {
    /// User whose program has accepted the credentials.
    accepted: Cell<Option<u32>>,
    /// User at the last connection.
    latest: Cell<Option<u32>>,
}

impl ClientOwner {
    /// Lets a request pass unless a different user's program listens. Every program of root's is trusted.
    fn guard(&self, local: SocketAddr, remote: SocketAddr) -> Result<(), Cause> {
        // Only a connection within this machine has the same address at both ends.
        if local.ip() != remote.ip() && !remote.ip().is_loopback() {
            return Ok(());
        }
        let user = kernel::listener_owner(remote);
        self.latest.set(user);
        match self.accepted.get() {
            Some(before) if user != Some(before) && user != Some(0) => {
                Err(Cause::ListenerChanged { at: remote, user, before })
            }
            _ => Ok(()),
        }
    }
}

impl Remotes {
    /// Builds the remotes, and a keeper that starts with the lease that an earlier run stored. Sends nothing.
    pub fn new(settings: Settings, state: &State, hands_off: bool, seed: u64, now: Now) -> (Self, Keeper) {
        let Settings { mut port, mut client, interval, isolation, .. } = settings;
        let origin = match &mut port {
            PortProvider::Pia(pia) => {
                if state.is_read_only() {
                    pia.disable_persistence();
                }
                keeper::Origin::Lease(pia.store.load().unwrap_or_else(|problem| {
                    log::warn!("{} {problem}; a new lease will replace it", pia.store.path().display());
                    None
                }))
            }
            PortProvider::Source(source) => {
                let (name, poll_interval) = (source.name(), source.poll_interval());
                keeper::Origin::Source { name, poll_interval, advice: source.no_port_advice() }
            }
        };
        let setup = Setup { interval, origin, profile: client.profile(), hands_off, isolation, seed };
        let client_owner = Rc::new(ClientOwner::default());
        if client.credentials().is_some() {
            let owner = Rc::clone(&client_owner);
            client.guard_by(Rc::new(move |local, remote| owner.guard(local, remote)));
        }
        (Self { port, client, client_owner }, Keeper::new(setup, now))
    }

    /// Credentials for a remote, and the error to report if the remote rejected them recently.
    fn credentials(&self, remote: Remote) -> Option<(Secret, Error)> {
        match (remote, &self.port) {
            (Remote::Account, PortProvider::Pia(pia)) => Some((pia.account.credentials()?, account::rejected_before())),
            (Remote::Client, _) => Some((self.client.credentials()?, self.client.rejected_before())),
            _ => None,
        }
    }

    /// Resumes the waits that began when credentials were rejected in earlier runs, because a few failed logins in a row get the
    /// user's address banned.
    pub fn restore_rejections(&self, keeper: &mut Keeper, state: &State, now: Now) {
        for remote in [Remote::Account, Remote::Client] {
            if let Some((credentials, error)) = self.credentials(remote)
                && let Some(ago) = state.rejected_ago(remote_name(remote), &credentials, now.wall)
            {
                keeper.remember_rejection(now, remote, error, ago);
            }
        }
    }

    /// Records for the next run whether the remote rejected or accepted the credentials.
    pub fn store_rejection(&self, step: &Step, result: &Exchange<Completed>, state: &State, now: Now) {
        let remote = step.remote();
        let rejected = match result {
            Err(error) if error.retry == Retry::CredentialsRejected => true,
            // A completed call proves that the remote accepts the credentials.
            Ok(Progress::Done(_)) if matches!(step, Step::GetToken { .. } | Step::ReadPort) => false,
            _ => return,
        };
        if let Some((credentials, _)) = self.credentials(remote) {
            state.remember_rejection(remote_name(remote), rejected.then_some(&credentials), now.wall);
        }
    }

    /// Runs one exchange of `step`.
    pub fn execute(&mut self, step: &Step, network: &Network) -> Exchange<Completed> {
        let client = self.client.as_mut();
        let set = |exchange: Exchange<()>| Ok(exchange?.map(|()| Completed::PortSet));
        match step {
            Step::ReadPort => {
                let port = client.port()?;
                let owner = &self.client_owner;
                if let Progress::Done(_) = port {
                    owner.accepted.set(owner.accepted.get().or(owner.latest.get()));
                }
                Ok(port.map(Completed::Port))
            }
            Step::SetPort(port) => set(client.set_port(*port, false)),
            Step::BounceAway { other, .. } => set(client.set_port(*other, false)),
            Step::BounceBack(port) => set(client.set_port(*port, true)),
            Step::Inspect(of) => {
                // A client on another machine has no sockets in this kernel.
                let api =
                    client.dialled().filter(|client| network.has_address(client.ip())).map(|client| client.port());
                let seen = api.and_then(|api| kernel::inspect(network, of, Some(api)).ok());
                Ok(Progress::Done(Completed::Inspected(seen)))
            }
            Step::Confirm(_) => Ok(client.connectivity()?.map(Completed::Reachability)),
            Step::CheckInbound => Ok(client.inbound()?.map(Completed::Inbound)),
            Step::Reannounce => Ok(client.reannounce()?.map(|()| Completed::Reannounced)),
            Step::GetToken { refused } => self.pia()?.get_token(refused.as_ref(), network),
            Step::GetSignature { token } => {
                Ok(self.pia()?.gateway.get_signature(token, network)?.map(Completed::Leased))
            }
            Step::StoreLease(lease) => self.pia()?.store(lease),
            Step::Bind(lease) => self.pia()?.gateway.bind(lease, network),
            Step::PollSource => match &mut self.port {
                PortProvider::Source(source) => Ok(source.port()?.map(Completed::Source)),
                PortProvider::Pia(_) => Err(wrong_provider()),
            },
            Step::Wait(_) | Step::Exit => Ok(Progress::More),
        }
    }

    fn pia(&mut self) -> Result<&mut Pia, Error> {
        match &mut self.port {
            PortProvider::Pia(pia) => Ok(pia),
            PortProvider::Source(_) => Err(wrong_provider()),
        }
    }

    /// The gateway's address and the current route to the gateway, or the route into the tunnel while the address is unknown.
    /// `None` until a gateway given by name has been looked up.
    pub fn route(&self, network: &Network) -> Option<(Option<SocketAddr>, Result<GatewayRoute, Error>)> {
        let (gateway, route) = match &self.port {
            PortProvider::Pia(pia) => (pia.gateway.dialled(), pia.gateway.route(network)?),
            // The program that leases the port uses the same tunnel.
            PortProvider::Source(_) => (None, network.default_route()),
        };
        if route.as_ref().is_err_and(|error| !kernel::is_no_route(error)) {
            return None;
        }
        let to = || match (gateway, self.follows()) {
            (Some(gateway), _) => gateway.to_string(),
            (None, None) => "the gateway".to_owned(),
            (None, Some(_)) => "the Internet".to_owned(),
        };
        let advice = "check that the VPN is up; the service continues as soon as there is a route";
        let no_route = |error| Error::new(Call::Route, Cause::NoRoute { to: to(), error }).advise(Some(advice));
        Some((gateway, route.map_err(no_route)))
    }

    pub fn forget_gateway(&mut self) {
        if let PortProvider::Pia(pia) = &mut self.port {
            pia.gateway.forget();
        }
    }

    /// Accepts a client that runs as a different user from now on.
    pub fn forget_client_owner(&self) {
        self.client_owner.accepted.set(None);
    }

    /// Closes all connections before a wait, because the remotes would close idle connections anyway.
    pub fn disconnect(&mut self) {
        match &mut self.port {
            PortProvider::Pia(pia) => pia.gateway.disconnect(),
            PortProvider::Source(source) => source.disconnect(),
        }
        self.client.disconnect();
    }

    pub fn describe_source(&self) -> String {
        match &self.port {
            PortProvider::Pia(pia) => format!("gateway {}", pia.gateway.address()),
            PortProvider::Source(source) => format!("port from {}", source.name()),
        }
    }

    /// Name of the program whose port we follow; `None` if we lease the port.
    pub fn follows(&self) -> Option<String> {
        match &self.port {
            PortProvider::Source(source) => Some(source.name()),
            PortProvider::Pia(_) => None,
        }
    }
}

/// Error for a bug in this program: the keeper requested a step that the configured port provider does not support.
fn wrong_provider() -> Error {
    let cause = "requested from the wrong provider; this is a bug in this program".to_owned();
    Error::new(Call::WrongProvider, Cause::Other(cause))
}
