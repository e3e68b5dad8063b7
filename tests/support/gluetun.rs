//! Stand-in for the port forwarding part of gluetun's control server, with one role for every route.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::{Reply, Request, Scripts, Server, lock, unique};

/// Routes of the forwarded port, in current and in older versions.
pub const CURRENT: &str = "/v1/portforward";
pub const OLD: &str = "/v1/openvpn/portforwarded";

/// The forwarded port, and counts of requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// 0 for none.
    pub port: u16,
    pub asked: usize,
    pub rejected: usize,
}

/// A running stand-in; its threads end when it is dropped.
pub struct Gluetun {
    /// Replies in place of the normal ones, by route.
    pub scripts: Arc<Scripts>,
    pub server: Server,
    pub key: String,
    state: Arc<Mutex<State>>,
}

impl Gluetun {
    /// Starts a stand-in; without `key` it generates one.
    pub fn start(address: SocketAddr, key: Option<String>, port: u16) -> Self {
        let key = key.unwrap_or_else(|| format!("{:016x}", unique()));
        let state = Arc::new(Mutex::new(State { port, ..State::default() }));
        let scripts = Arc::new(Scripts::default());
        let server = {
            let (key, state, scripts) = (key.clone(), Arc::clone(&state), Arc::clone(&scripts));
            Server::start(address, None, move |request| lock(&state).answer(&scripts, &key, request))
        };
        Self { scripts, server, key, state }
    }

    /// Changes or reads the state.
    pub fn set<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut lock(&self.state))
    }

    /// Value for `GLUETUN_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }
}

impl State {
    fn answer(&mut self, scripts: &Scripts, key: &str, request: &Request) -> Reply {
        self.asked += 1;
        if request.header("x-api-key") != Some(key) {
            self.rejected += 1;
            return Reply::text(401, "Unauthorized\n");
        }
        if let Some(reply) = scripts.take(request.path()) {
            return reply;
        }
        match request.path() {
            CURRENT if self.port == 0 => Reply::json(200, r#"{"port":0}"#),
            CURRENT => Reply::json(200, format!(r#"{{"port":{0},"ports":[{0}]}}"#, self.port)),
            OLD => Reply::text(301, "").header("Location", CURRENT),
            "/openvpn/portforwarded" => Reply::text(308, "").header("Location", OLD),
            _ => Reply::text(404, "404 page not found\n"),
        }
    }
}
