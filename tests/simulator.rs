//! The simulator of PIA as a program of its own, for daemons that run in containers and booted systems: with it, if
//! asked for, the stand-in for qBittorrent and gluetun's control server. It tells by files how it can be reached and
//! what it was asked, and is told by a file what to do; nothing but its own directory is touched.
mod support;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use support::gluetun::Gluetun;
use support::pia::{self, Pia};
use support::qbt::{self, Flavour, Qbt};

const HELP: &str = "\
usage: simulator [OPTION VALUE]... DIRECTORY

Serves until SIGTERM. Writes into DIRECTORY:
  gateway-ca.pem login-ca.pem
  env        the daemon's variables, NAME=value; it is there as soon as everything listens
  counts     what was asked so far, NAME=value; complaints must stay 0
and carries out what is appended to DIRECTORY/commands, a line each:
  port N                      the next signature is for this port, and gluetun has it now (0: none)
  gateway|login|qbittorrent|gluetun down|up
  gateway restart             loses its bindings
  tokens revoke               no token made so far is accepted

  --address ADDRESS           of everything that listens (127.0.0.1)
  --gateway-port N --login-port N                             (any free one)
  --qbittorrent-port N        starts the stand-in for qBittorrent; 0 is any free one
  --gluetun-port N            starts gluetun's control server; 0 is any free one
  --port N                    the first forwarded port (47047)
  --pia NAME:PASSWORD --qbittorrent NAME:PASSWORD --gluetun KEY (made up)
";

/// How soon a command is carried out and counts are told.
const POLL: Duration = Duration::from_millis(20);

struct Options {
    directory: PathBuf,
    address: IpAddr,
    gateway_port: u16,
    login_port: u16,
    qbittorrent_port: Option<u16>,
    gluetun_port: Option<u16>,
    forwarded: u16,
    pia: Option<(String, String)>,
    qbittorrent: Option<(String, String)>,
    gluetun: Option<String>,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            directory: PathBuf::new(),
            address: Ipv4Addr::LOCALHOST.into(),
            gateway_port: 0,
            login_port: 0,
            qbittorrent_port: None,
            gluetun_port: None,
            forwarded: 47047,
            pia: None,
            qbittorrent: None,
            gluetun: None,
        };
        while let Some(name) = arguments.next() {
            if !name.starts_with('-') {
                options.directory = name.into();
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let port = || value.parse().map_err(|_| format!("{name} {value}: not a port"));
            let login = || {
                let pair = value.split_once(':').ok_or_else(|| format!("{name}: no colon"))?;
                Ok::<_, String>((pair.0.to_owned(), pair.1.to_owned()))
            };
            match name.as_str() {
                "--address" => options.address = value.parse().map_err(|_| format!("{value}: not an address"))?,
                "--gateway-port" => options.gateway_port = port()?,
                "--login-port" => options.login_port = port()?,
                "--qbittorrent-port" => options.qbittorrent_port = Some(port()?),
                "--gluetun-port" => options.gluetun_port = Some(port()?),
                "--port" => options.forwarded = port()?,
                "--pia" => options.pia = Some(login()?),
                "--qbittorrent" => options.qbittorrent = Some(login()?),
                "--gluetun" => options.gluetun = Some(value),
                _ => return Err(format!("{name}: no such option")),
            }
        }
        if options.directory.as_os_str().is_empty() { Err("no directory".into()) } else { Ok(options) }
    }
}

struct Simulator {
    directory: PathBuf,
    pia: Pia,
    qbt: Option<Qbt>,
    gluetun: Option<Gluetun>,
    /// How many bytes of the file with the commands were carried out.
    done: usize,
    told: String,
}

impl Simulator {
    fn start(options: Options) -> io::Result<Self> {
        fs::create_dir_all(&options.directory)?;
        for stale in ["env", "counts"] {
            let _ = fs::remove_file(options.directory.join(stale));
        }
        fs::write(options.directory.join("commands"), "")?;

        let pia = Pia::with(pia::Options {
            address: options.address,
            gateway_port: options.gateway_port,
            login_port: options.login_port,
            ..pia::Options::default()
        });
        pia.set(|state| {
            state.next_port = options.forwarded.into();
            if let Some((username, password)) = &options.pia {
                (state.username, state.password) = (username.clone(), password.clone());
            }
        });
        let qbt = options.qbittorrent_port.map(|port| {
            let (address, flavour) = (options.address, Flavour::V5_3);
            let qbt = Qbt::with(qbt::Options { address, port, flavour, ..qbt::Options::default() });
            if let Some((username, password)) = &options.qbittorrent {
                qbt.set(|state| (state.username, state.password) = (username.clone(), password.clone()));
            }
            qbt
        });
        let gluetun = options
            .gluetun_port
            .map(|port| Gluetun::start((options.address, port).into(), options.gluetun.clone(), options.forwarded));

        let simulator = Self { directory: options.directory, pia, qbt, gluetun, done: 0, told: String::new() };
        fs::write(simulator.directory.join("gateway-ca.pem"), simulator.pia.ca_pem())?;
        fs::write(simulator.directory.join("login-ca.pem"), simulator.pia.login_ca_pem())?;
        write_whole(&simulator.directory.join("env"), &simulator.env())?;
        Ok(simulator)
    }

    /// What the daemon is to be told, in the form of an environment file: values hold nothing that needs quotes.
    fn env(&self) -> String {
        let mut text = String::new();
        let mut set = |name: &str, value: &str| {
            let _ = writeln!(text, "{name}={value}");
        };
        let path = |name: &str| self.directory.join(name).display().to_string();
        set("PIA_GATEWAY", &self.pia.gateway().to_string());
        set("PIA_HOSTNAME", self.pia.host_name());
        set("PIA_CA_CERT", &path("gateway-ca.pem"));
        set("PIA_LOGIN_URL", &self.pia.login_url());
        set("PIA_LOGIN_CA_CERT", &path("login-ca.pem"));
        self.pia.set(|state| {
            set("PIA_USERNAME", &state.username);
            set("PIA_PASSWORD", &state.password);
        });
        if let Some(qbt) = &self.qbt {
            set("QBITTORRENT_HOST", &qbt.url());
            qbt.set(|state| {
                set("QBITTORRENT_USERNAME", &state.username);
                set("QBITTORRENT_PASSWORD", &state.password);
            });
        }
        if let Some(gluetun) = &self.gluetun {
            set("GLUETUN_URL", &gluetun.url());
            set("GLUETUN_API_KEY", &gluetun.key);
        }
        text
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        while signals.pending().next().is_none() {
            self.obey()?;
            self.tell()?;
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn obey(&mut self) -> io::Result<()> {
        let text = fs::read_to_string(self.directory.join("commands"))?;
        // A file that was replaced instead of appended to is all new.
        let unread = text.get(self.done..).unwrap_or(&text);
        let Some(end) = unread.rfind('\n') else { return Ok(()) };
        for command in unread[..end].lines() {
            if self.carry_out(command).is_some() {
                println!("{command}");
            } else {
                eprintln!("simulator: not understood: {command}");
            }
        }
        self.done = text.len() - (unread.len() - end - 1);
        Ok(())
    }

    /// `None` if it is no command, or for a server that was not started.
    fn carry_out(&mut self, command: &str) -> Option<()> {
        match command.split_once(' ')? {
            ("port", port) => {
                let port: u16 = port.parse().ok()?;
                self.pia.set(|state| state.next_port = port.into());
                if let Some(gluetun) = &self.gluetun {
                    gluetun.set(|state| state.port = port);
                }
            }
            ("tokens", "revoke") => self.pia.revoke_tokens(),
            ("gateway", "down") => self.pia.pause(),
            ("gateway", "up") => self.pia.resume(),
            ("gateway", "restart") => self.pia.restart(),
            ("login", "down") => self.pia.pause_login(),
            ("login", "up") => self.pia.resume_login(),
            ("qbittorrent", "down") => self.qbt.as_ref()?.pause(),
            ("qbittorrent", "up") => self.qbt.as_ref()?.resume(),
            ("gluetun", "down") => self.gluetun.as_ref()?.server.pause(),
            ("gluetun", "up") => self.gluetun.as_ref()?.server.resume(),
            _ => return None,
        }
        Some(())
    }

    fn tell(&mut self) -> io::Result<()> {
        let counts = self.pia.counts();
        let mut complaints = self.pia.complaints();
        let mut text = format!(
            "logins={}\nsignatures={}\nbinds={}\nrejected={}\nbound={}\n",
            counts.logins,
            counts.signatures,
            counts.binds,
            counts.rejected,
            self.pia.bound().last().map_or_else(String::new, i64::to_string),
        );
        if let Some(qbt) = &self.qbt {
            let listens = qbt.listening().map_or_else(String::new, |port| port.to_string());
            let _ = writeln!(text, "qbittorrent_logins={}\nqbittorrent_listens={listens}", qbt.counts().logins);
            complaints.extend(qbt.complaints());
        }
        if let Some(gluetun) = &self.gluetun {
            let state = gluetun.set(|state| *state);
            let _ = writeln!(text, "gluetun_asked={}\ngluetun_rejected={}", state.asked, state.rejected);
        }
        let _ = writeln!(text, "complaints={}", complaints.len());
        if text != self.told {
            for complaint in complaints {
                eprintln!("simulator: {complaint}");
            }
            write_whole(&self.directory.join("counts"), &text)?;
            self.told = text;
        }
        Ok(())
    }
}

/// A reader sees the whole new file or the whole previous one.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprint!("simulator: {problem}\n\n{HELP}");
            return ExitCode::from(64);
        }
    };
    match Simulator::start(options).and_then(|mut simulator| simulator.serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("simulator: {error}");
            ExitCode::FAILURE
        }
    }
}
