//! Current health, from the status document and the kernel's current routes and sockets.

use jiff::Timestamp;

use crate::error::io_message;
use crate::keeper::step::{Inspection, ListenState};
use crate::keeper::tunnel::GatewayRoute;
use crate::kernel::{self, Network};
use crate::state::Presence;
use crate::views::status::{Health, Status};

/// Health of the process that wrote `status`; `presence` shows whether that process is still running.
pub fn check(status: &Status, presence: &Presence) -> Health {
    let network = Network::snapshot(status.vpn_interface.as_deref());
    let route = route(status, &network);
    let listen_state = listen_state(status, &network, route.as_ref().and_then(|route| route.as_ref().ok()));
    status.health(presence, route, listen_state.as_ref(), Timestamp::now())
}

/// Health of this process, which is known to be running.
pub fn check_own(status: &Status) -> Health {
    check(status, &Presence::Running(String::new()))
}

/// Current route to the gateway of the last bind; `None` if that bind recorded no route.
fn route(status: &Status, network: &Network) -> Option<Result<GatewayRoute, String>> {
    if status.follows && network.is_isolated() {
        return Some(Err("only the loopback device is left".to_owned()));
    }
    status.local_address.as_ref()?;
    let route = match &status.gateway {
        Some(gateway) => network.route_to(gateway.parse().ok()?),
        None => network.default_route(),
    };
    Some(route.map_err(|error| io_message(&error)))
}

/// Current state of the sockets on the port; `None` if the kernel did not show the client's socket to the service either.
fn listen_state(status: &Status, network: &Network, route: Option<&GatewayRoute>) -> Option<ListenState> {
    let port = status.port.filter(|_| status.listener_seen)?;
    let of = Inspection { port, route: route.cloned(), peers: false, foreign: Vec::new() };
    let sockets = kernel::inspect(network, &of, None).ok()?;
    // If the client does not report whether it listens, rely on TCP alone: a client may keep a UDP socket on its previous port.
    Some(if status.reports_no_listening() { sockets.tcp } else { sockets.listen_state().clone() })
}
