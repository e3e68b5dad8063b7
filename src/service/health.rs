//! The health of this moment: what is known, and what the kernel says of it now.

use jiff::Timestamp;

use crate::error::plain;
use crate::keeper::step::Listener;
use crate::keeper::tunnel::Way;
use crate::kernel::{self, Network};
use crate::pia::discover;
use crate::state::Presence;
use crate::views::status::{Health, Status};

/// How whoever wrote `status` is doing, `presence` says whether they run.
pub fn check(status: &Status, presence: &Presence) -> Health {
    let network = Network::snapshot();
    let way = way(status, &network);
    let listener = listener(status, &network, way.as_ref().and_then(|way| way.as_ref().ok()));
    status.health(presence, way, listener.as_ref(), Timestamp::now())
}

/// The same of ourselves.
pub fn check_own(status: &Status) -> Health {
    check(status, &Presence::Running(String::new()))
}

/// The way that the last bind took, as it is now; none where it was not known then.
fn way(status: &Status, network: &Network) -> Option<Result<Way, String>> {
    if status.follows && network.is_isolated() {
        return Some(Err("there is no network device but lo".to_owned()));
    }
    status.local_address.as_ref()?;
    let way = match &status.gateway {
        Some(gateway) => network.way(gateway.parse().ok()?),
        None => discover::way(network),
    };
    Some(way.map_err(|error| plain(&error)))
}

/// Who listens on the port now; none where the kernel did not show the client's socket to the service.
fn listener(status: &Status, network: &Network, way: Option<&Way>) -> Option<Listener> {
    let port = status.port.filter(|_| status.listener_seen)?;
    let witness = kernel::inspect(network, port, way, false).ok()?;
    // Where only the kernel tells, a UDP socket on a port that was left is no answer.
    Some(if status.is_silent() { witness.tcp } else { witness.listener().clone() })
}
