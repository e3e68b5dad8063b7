//! The health of this moment: what is known, and what the kernel says of it now.

use jiff::Timestamp;

use crate::error::io_message;
use crate::keeper::step::ListenState;
use crate::keeper::tunnel::GatewayRoute;
use crate::kernel::{self, Network};
use crate::pia::discover;
use crate::state::Presence;
use crate::views::status::{Health, Status};

/// How whoever wrote `status` is doing, `presence` says whether they run.
pub fn check(status: &Status, presence: &Presence) -> Health {
    let network = Network::snapshot();
    let route = route(status, &network);
    let listen_state = listen_state(status, &network, route.as_ref().and_then(|route| route.as_ref().ok()));
    status.health(presence, route, listen_state.as_ref(), Timestamp::now())
}

/// The same of ourselves.
pub fn check_own(status: &Status) -> Health {
    check(status, &Presence::Running(String::new()))
}

/// The route that the last bind took, as it is now; none where it was not known then.
fn route(status: &Status, network: &Network) -> Option<Result<GatewayRoute, String>> {
    if status.follows && network.is_isolated() {
        return Some(Err("there is no network device but lo".to_owned()));
    }
    status.local_address.as_ref()?;
    let route = match &status.gateway {
        Some(gateway) => network.route_to(gateway.parse().ok()?),
        None => discover::route(network),
    };
    Some(route.map_err(|error| io_message(&error)))
}

/// Who listens on the port now; none where the kernel did not show the client's socket to the service.
fn listen_state(status: &Status, network: &Network, route: Option<&GatewayRoute>) -> Option<ListenState> {
    let port = status.port.filter(|_| status.listener_seen)?;
    let sockets = kernel::inspect(network, port, route, false).ok()?;
    // Where only the kernel tells, a UDP socket on a port that was left is no answer.
    Some(if status.reports_no_listening() { sockets.tcp } else { sockets.listen_state().clone() })
}
