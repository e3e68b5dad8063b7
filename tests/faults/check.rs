//! What `check` says to somebody whose setup is broken: each leads to what to do with one read.

use std::any::Any;
use std::net::TcpListener;

use super::support::gluetun::Gluetun;
use super::support::netns::here;
use super::support::qbt;
use super::support::world::World;
use super::tunnel::{Wires, mount_over};
use super::{MEASURED, Row};

/// The longest line that anybody has to read.
const LONGEST: usize = 200;

/// A broken world, and what has to live as long.
type Broken = (World, Box<dyn Any>);

pub fn rows() -> Vec<Row> {
    let isolated = |name: &str, make: fn() -> Broken, fix: &'static str| {
        Row::isolated(format!("check: {name}"), move || drop(tells(&make().0, fix)))
    };
    let simple = |name: &str, spoil: fn(World) -> World, fix: &'static str| {
        Row::new(format!("check: {name}"), move || drop(tells(&spoil(World::new()), fix)))
    };
    vec![
        Row::isolated("check: the VPN is down".to_owned(), || {
            let output = tells(&without_vpn().0, "start the VPN, then check again");
            // Nobody on the LAN answers for the gateway, and the kernel asks for three seconds.
            assert!(output.contains("...  gateway        waiting for PIA's gateway, 10 s at most\n"), "{output}");
        }),
        isolated("DNS is dead", without_dns, "DNS does not work here: check /etc/resolv.conf"),
        isolated("the client listens on another device", elsewhere, "set its network interface to that of the VPN"),
        isolated(
            "a server without port forwarding",
            without_forwarding,
            "this server's region probably forwards no ports",
        ),
        simple(
            "the gateway is another server",
            |world| world.env("PIA_GATEWAY", "127.0.0.9:9"),
            "set PIA_GATEWAY=auto",
        ),
        simple(
            "the gateway's public address",
            |world| {
                world.pia.set(|state| state.outside_tunnel = true);
                world
            },
            "wrong gateway? set PIA_GATEWAY=auto",
        ),
        simple(
            "PIA's password is wrong",
            |world| world.env("PIA_PASSWORD", "x"),
            "correct PIA_USERNAME and PIA_PASSWORD",
        ),
        simple("the name is the region's", |world| world.env("PIA_HOSTNAME", "mexico"), "PIA_HOSTNAME=Sandbox-409-1a"),
        simple(
            "another CA",
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
            "check that qBittorrent runs",
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
            "qBittorrent does not know its name",
            |world| {
                world.qbt.set(|state| state.server_domain = Some("nas".into()));
                world
            },
            "use localhost in QBITTORRENT_HOST",
        ),
        Row::new("check: gluetun wants a key", || {
            let gluetun = Gluetun::start(([127, 0, 0, 1], 0).into(), None, 47047);
            let world = World::new()
                .env("PORT_SOURCE", "gluetun")
                .env("GLUETUN_URL", format!("http://{}", gluetun.server.address()));
            tells(&world, "give gluetun a role");
        }),
        Row::new("check: qBittorrent is behind a port mapping", || {
            // Its socket is in no table of this machine.
            let world = World::new();
            assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
            let output = world.setup.run_once(&["check"]).stdout;
            assert!(output.contains("no program here listens on the port: in a container it must share"), "{output}");
            show(&output);
        }),
    ]
}

/// Each line is short, and the last one is what to do; all of them.
#[track_caller]
fn tells(world: &World, fix: &str) -> String {
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
    here("link add eth0 type veth peer name lan");
    here("addr add 192.168.1.7/24 dev eth0");
    here("link set eth0 up");
    here("link set lan up");
    here("route add default via 192.168.1.1");
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
    here("route add 128.0.0.0/1 dev pialink");
    lan();
    (wires.world(), wires)
}

fn elsewhere() -> Broken {
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
