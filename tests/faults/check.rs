//! `check` with a broken setup: its last line names the one thing to fix first.

use std::any::Any;
use std::net::TcpListener;

use super::support::gluetun::Gluetun;
use super::support::netns::ip_here;
use super::support::qbt;
use super::support::world::World;
use super::tunnel::{Wires, mount_over};
use super::{MEASURED, Row};

/// Limit for the length of a line, in characters.
const LONGEST: usize = 200;

/// A broken world, and whatever must live as long as it.
type Broken = (World, Box<dyn Any>);

pub fn rows() -> Vec<Row> {
    let isolated = |name: &str, make: fn() -> Broken, fix: &'static str| {
        Row::isolated(format!("check: {name}"), move || drop(assert_advises(&make().0, fix)))
    };
    let simple = |name: &str, spoil: fn(World) -> World, fix: &'static str| {
        Row::new(format!("check: {name}"), move || drop(assert_advises(&spoil(World::new()), fix)))
    };
    vec![
        Row::isolated("check: the VPN is down".to_owned(), || {
            let output = assert_advises(&without_vpn().0, "start the VPN, then check again");
            // No host on the LAN has the gateway's address, and the kernel's ARP requests take three seconds to fail.
            assert!(output.contains("...  gateway        waiting for PIA's gateway, up to 10 s\n"), "{output}");
        }),
        isolated("DNS does not work", without_dns, "check DNS in /etc/resolv.conf"),
        isolated(
            "the client is bound to a different device",
            wrong_device,
            "set the client's network interface to the VPN's",
        ),
        isolated("a server without port forwarding", without_forwarding, "this region probably has no port forwarding"),
        simple(
            "the gateway's address belongs to a different server",
            |world| world.env("PIA_GATEWAY", "127.0.0.9:9"),
            "set PIA_GATEWAY=auto",
        ),
        simple(
            "the gateway's address is the public one",
            |world| {
                world.pia.set(|state| state.outside_tunnel = true);
                world
            },
            "set PIA_GATEWAY=auto",
        ),
        simple(
            "PIA's password is wrong",
            |world| world.env("PIA_PASSWORD", "x"),
            "correct PIA_USERNAME and PIA_PASSWORD",
        ),
        simple(
            "PIA_HOSTNAME is the region's name",
            |world| world.env("PIA_HOSTNAME", "mexico"),
            "PIA_HOSTNAME=Sandbox-409-1a",
        ),
        simple(
            "PIA_CA_CERT holds a different CA",
            |world| {
                let other = world.setup.value("PIA_LOGIN_CA_CERT").to_owned();
                world.env("PIA_CA_CERT", other)
            },
            "unset PIA_CA_CERT",
        ),
        simple(
            "qBittorrent is not running",
            |world| {
                world.qbt.pause();
                world
            },
            "check qBittorrent and QBITTORRENT_HOST",
        ),
        simple(
            "qBittorrent's password is wrong",
            |world| world.env("QBITTORRENT_PASSWORD", "x"),
            "correct QBITTORRENT_USERNAME and QBITTORRENT_PASSWORD",
        ),
        simple(
            "qBittorrent's name has no address",
            |world| world.env("QBITTORRENT_HOST", "http://qbittorrent.invalid:8080"),
            "correct QBITTORRENT_HOST",
        ),
        simple(
            "qBittorrent rejects the host name",
            |world| {
                world.qbt.set(|state| state.server_domain = Some("nas".into()));
                world
            },
            "use localhost in QBITTORRENT_HOST",
        ),
        Row::new("check: gluetun requires an API key", || {
            let gluetun = Gluetun::start(([127, 0, 0, 1], 0).into(), None, 47047);
            let world = World::new()
                .env("PORT_SOURCE", "gluetun")
                .env("GLUETUN_URL", format!("http://{}", gluetun.server.address()));
            assert_advises(&world, "give gluetun a role");
        }),
        Row::new("check: qBittorrent is behind a port mapping", || {
            // The stand-in opens no socket, so this kernel lists none.
            let world = World::new();
            assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
            let output = world.setup.run_once(&["check"]).stdout;
            assert!(output.contains("nothing here listens on the port; a client in a container must"), "{output}");
            show(&output);
        }),
    ]
}

/// Asserts that every line of `check` is short and that the last one advises `fix`; returns the output.
#[track_caller]
fn assert_advises(world: &World, fix: &str) -> String {
    let output = world.setup.clone().env("LOG_LEVEL", "INFO").run_once(&["check"]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    let longest = output.stdout.lines().max_by_key(|line| line.chars().count()).unwrap_or_default();
    assert!(longest.chars().count() <= LONGEST, "{longest}");
    let last = output.stdout.lines().last().unwrap_or_default();
    assert!(last.starts_with(&format!("fix this first: {fix}")), "{fix:?}: {output:#?}");
    show(&output.stdout);
    output.stdout
}

fn show(output: &str) {
    for line in output.lines() {
        println!("{MEASURED}{line}");
    }
}

/// A LAN with its router, and no tunnel.
fn without_vpn() -> Broken {
    lan();
    let world = World::new().without(&["PIA_GATEWAY"]);
    (world, Box::new(()))
}

fn lan() {
    ip_here("link add eth0 type veth peer name lan");
    ip_here("addr add 192.168.1.7/24 dev eth0");
    ip_here("link set eth0 up");
    ip_here("link set lan up");
    ip_here("route add default via 192.168.1.1");
}

fn without_dns() -> Broken {
    let file = std::env::temp_dir().join(format!("resolv-{:016x}", super::support::unique()));
    std::fs::write(&file, "nameserver 127.0.0.53\noptions timeout:1 attempts:1\n").expect("a file");
    mount_over(&file, "/etc/resolv.conf");
    (World::new().without(&["PIA_LOGIN_URL"]), Box::new(()))
}

fn in_tunnel() -> (World, Wires) {
    let mut wires = Wires::new();
    wires.tunnel("10.10.229.5/19", "10.10.224.1", super::support::link::Quality::default());
    ip_here("route add 128.0.0.0/1 dev pialink");
    lan();
    (wires.world(), wires)
}

fn wrong_device() -> Broken {
    let (world, wires) = in_tunnel();
    world.qbt.set(|state: &mut qbt::State| state.port = 47047);
    let socket = TcpListener::bind("192.168.1.7:47047").expect("a socket on the LAN");
    (world, Box::new((wires, socket)))
}

fn without_forwarding() -> Broken {
    let (world, wires) = in_tunnel();
    world.pia.pause();
    (world, Box::new(wires))
}
