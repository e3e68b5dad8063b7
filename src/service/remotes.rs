//! A step to its remote: what the keeper asks for is done here, one exchange at a time.

use std::net::SocketAddr;

use crate::error::{Call, Cause, Error, Retry};
use crate::keeper::step::{Completed, Exchange, Progress, Step};
use crate::keeper::tunnel::GatewayRoute;
use crate::keeper::{self, Keeper, Remote, Setup};
use crate::kernel::{self, Network};
use crate::pia::{Pia, account, discover};
use crate::secret::Secret;
use crate::settings::{PortProvider, Settings};
use crate::state::State;
use crate::time::Now;
use crate::torrent::TorrentClient;
use crate::views::status::remote_name;

/// The remotes, built from settings; nothing is sent by building them.
pub struct Remotes {
    /// Who knows the port.
    pub port: PortProvider,
    /// The torrent client.
    pub client: Box<dyn TorrentClient>,
}

impl Remotes {
    /// Builds the remotes, and a keeper that knows what earlier runs left in `state`.
    pub fn new(settings: Settings, state: &State, hands_off: bool, seed: u64, now: Now) -> (Self, Keeper) {
        let Settings { mut port, client, interval, isolation, .. } = settings;
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
            PortProvider::Source(source) => keeper::Origin::Source { poll_interval: source.poll_interval() },
        };
        let setup = Setup { interval, origin, profile: client.profile(), hands_off, isolation, seed };
        (Self { port, client }, Keeper::new(setup, now))
    }

    /// What proves us to a remote, and the error where it was rejected a while ago.
    fn credentials(&self, remote: Remote) -> Option<(Secret, Error)> {
        match (remote, &self.port) {
            (Remote::Account, PortProvider::Pia(pia)) => Some((pia.account.credentials()?, account::rejected_before())),
            (Remote::Client, _) => Some((self.client.credentials()?, self.client.rejected_before())),
            _ => None,
        }
    }

    /// Has the keeper respect what an earlier run was told: a few rejected logins in a row ban the user's address.
    pub fn restore_rejections(&self, keeper: &mut Keeper, state: &State, now: Now) {
        for remote in [Remote::Account, Remote::Client] {
            if let Some((credentials, error)) = self.credentials(remote)
                && let Some(ago) = state.rejected_ago(remote_name(remote), &credentials, now.wall)
            {
                keeper.remember_rejection(now, remote, error, ago);
            }
        }
    }

    /// Keeps what a step has shown of the credentials for the next run.
    pub fn store_rejection(&self, step: &Step, result: &Exchange<Completed>, state: &State, now: Now) {
        let remote = step.remote();
        let rejected = match result {
            Err(error) if error.retry == Retry::CredentialsRejected => true,
            // A call that was answered shows that we are let in.
            Ok(Progress::Done(_)) if matches!(step, Step::GetToken { .. } | Step::ReadPort) => false,
            _ => return,
        };
        if let Some((credentials, _)) = self.credentials(remote) {
            state.remember_rejection(remote_name(remote), rejected.then_some(&credentials), now.wall);
        }
    }

    /// Carries `step` out, as far as one exchange leads.
    pub fn execute(&mut self, step: &Step, network: &Network) -> Exchange<Completed> {
        let client = self.client.as_mut();
        let set = |exchange: Exchange<()>| Ok(exchange?.map(|()| Completed::PortSet));
        match step {
            Step::ReadPort => Ok(client.port()?.map(Completed::Port)),
            Step::SetPort(port) => set(client.set_port(*port, false)),
            Step::BounceAway { other, .. } => set(client.set_port(*other, false)),
            Step::BounceBack(port) => set(client.set_port(*port, true)),
            Step::Inspect { port, route, peers } => {
                // Of a client that is somewhere else the kernel knows nothing.
                let here = client.dialled().is_some_and(|client| network.has_address(client.ip()));
                let seen = here.then(|| kernel::inspect(network, *port, route.as_ref(), *peers).ok());
                Ok(Progress::Done(Completed::Inspected(seen.flatten())))
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

    /// The gateway's address, if it is known, and the route to it or to wherever the tunnel leads; none where the gateway is a
    /// name that was not looked up yet.
    pub fn route(&self, network: &Network) -> Option<(Option<SocketAddr>, Result<GatewayRoute, Error>)> {
        let (gateway, route) = match &self.port {
            PortProvider::Pia(pia) => (pia.gateway.dialled(), pia.gateway.route(network)?),
            // Whoever binds the port does so through the same tunnel.
            PortProvider::Source(_) => (None, discover::route(network)),
        };
        let to = || gateway.map_or("the gateway".to_owned(), |gateway| gateway.to_string());
        let advice = "check that the VPN is up: it goes on as soon as there is a route again";
        let no_route = |error| Error::new(Call::Route, Cause::NoRoute { to: to(), error }).advise(Some(advice));
        Some((gateway, route.map_err(no_route)))
    }

    /// The tunnel is another one.
    pub fn forget_gateway(&mut self) {
        if let PortProvider::Pia(pia) = &mut self.port {
            pia.gateway.forget();
        }
    }

    /// Closes the connections, before a wait that the remotes would not sit through.
    pub fn disconnect(&mut self) {
        match &mut self.port {
            PortProvider::Pia(pia) => pia.gateway.disconnect(),
            PortProvider::Source(source) => source.disconnect(),
        }
        self.client.disconnect();
    }

    /// Who knows the port, for the log.
    pub fn describe_source(&self) -> String {
        match &self.port {
            PortProvider::Pia(pia) => format!("gateway {}", pia.gateway.address()),
            PortProvider::Source(source) => format!("port from {}", source.name()),
        }
    }

    /// The name of whoever else leases the port.
    pub fn source_name(&self) -> String {
        match &self.port {
            PortProvider::Source(source) => source.name(),
            PortProvider::Pia(_) => "PIA".to_owned(),
        }
    }
}

/// The keeper knows where its port comes from and asks nobody else.
fn wrong_provider() -> Error {
    Error::new(
        Call::WrongProvider,
        Cause::Other("is asked of somebody who does not know it: this is a bug of ours".to_owned()),
    )
}
