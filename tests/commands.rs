//! The command line of the real binary: commands, exit codes, and every kind of wrong or unusual configuration. The
//! running daemon is tested in `daemon.rs`.
mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use miniserde::json::Value;
use support::daemon::{Output, Setup, mode};
use support::gluetun::Gluetun;
use support::world::World;
use support::{Reply, for_all, pia, qbt};

const USAGE: Option<i32> = Some(64);
const CONFIG: Option<i32> = Some(78);
const LOCKED: Option<i32> = Some(75);
const NOT_RUNNING: Option<i32> = Some(3);

/// Every variable in the README's table.
fn variables() -> Vec<&'static str> {
    let cells = include_str!("../README.md").lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    let names = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_'))
        .collect()
}

/// Variables whose value can also come from a file.
const FROM_FILE: [&str; 5] =
    ["PIA_USERNAME", "PIA_PASSWORD", "QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD", "QBITTORRENT_API_KEY"];

impl World {
    /// A daemon with an interval of five minutes and a short log.
    fn calm() -> Self {
        Self::new().env("CHECK_INTERVAL", "300").env("LOG_LEVEL", "INFO")
    }

    /// Sets `NAME_FILE` instead of `NAME`.
    fn file(self, name: &str, text: &str) -> Self {
        let path = self.setup.dir().write(name, text).display().to_string();
        self.without(&[name]).env(&format!("{name}_FILE"), path)
    }

    /// Asserts that the configuration is refused with exactly these problems, a line each, and that nothing is sent.
    #[track_caller]
    fn refuses(&self, problems: &[&[&str]]) -> Output {
        let output = self.setup.run_once(&[]);
        assert_eq!(output.code, CONFIG, "{output:#?}");
        let lines: Vec<_> = output.stderr.lines().collect();
        assert_eq!(lines.len(), problems.len(), "{output:#?}");
        for words in problems {
            let printed = lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
            assert!(printed, "no line with {words:?}: {output:#?}");
        }
        assert_eq!((self.pia.counts(), self.qbt.counts()), Default::default());
        output
    }

    /// Asserts that `once` succeeds with exactly one warning, which contains these words.
    #[track_caller]
    fn warns(&self, words: &[&str]) {
        let output = self.setup.run_once(&["once"]);
        let is_warning = |line: &&str| line.split_whitespace().nth(1) == Some("WARN");
        let warnings: Vec<_> = output.stdout.lines().filter(is_warning).collect();
        assert_eq!(output.code, Some(0), "{output:#?}");
        assert_eq!(warnings.len(), 1, "{output:#?}");
        for word in words {
            assert!(warnings[0].contains(word), "{word:?} is not in: {}", warnings[0]);
        }
    }
}

// ---- arguments

#[test]
fn help_names_every_variable_and_command() {
    for argument in ["--help", "-h"] {
        let output = Setup::new().run_once(&[argument]);
        assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
        let names = variables();
        assert!(names.contains(&"PORT_SOURCE") && names.contains(&"PIA_CA_SHA256"), "{names:?}");
        for name in names {
            assert!(output.stdout.contains(name), "{name}");
        }
        for name in FROM_FILE.into_iter().chain(["GLUETUN_API_KEY"]) {
            assert!(output.stdout.contains(&format!("{name}_FILE")), "{name}_FILE");
        }
        for name in ["once", "check", "status", "--json", "healthcheck", "--version"] {
            assert!(output.stdout.contains(name), "{name}");
        }
    }
}

/// Names that `--help` lists: the variables, and their `_FILE` variants.
fn listed() -> (Vec<String>, Vec<String>) {
    let help = Setup::new().run_once(&["--help"]).stdout;
    let names = help.split_once("\nVariables:\n").expect("a list").1.lines().filter_map(|line| {
        let name = line.strip_prefix("  ")?.split_whitespace().next()?;
        name.bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_' || byte.is_ascii_digit())
            .then(|| name.to_owned())
    });
    names.partition(|name| {
        !name.ends_with("_FILE") || ["PIA_TOKEN_FILE", "PORT_FILE", "METRICS_FILE", "LOG_FILE"].contains(&&**name)
    })
}

/// Words of `text` that look like our variables.
fn ours_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_uppercase() && !c.is_ascii_digit() && c != '_');
    let prefixes = ["PIA_", "QBITTORRENT_", "TRANSMISSION_", "DELUGE_", "GLUETUN_", "TORRENT_CLIENT", "PORT_SOURCE"];
    let more = [
        "PORT_CHANGE",
        "HEARTBEAT_",
        "METRICS_",
        "STATUS_ADDRESS",
        "STATUS_HOSTS",
        "STATE_DIR",
        "CHECK_INTERVAL",
        "NOTIFY_CA",
    ];
    let is_ours = |word: &&str| prefixes.iter().chain(&more).any(|prefix| word.starts_with(prefix));
    words.filter(is_ours).map(str::to_owned).collect()
}

/// Fails for a new variable until every other place lists it.
#[test]
fn help_readme_services_and_samples_list_the_same_variables() {
    let (all, from_file) = listed();
    let secrets: Vec<_> = from_file.iter().map(|name| name.strip_suffix("_FILE").expect("a file")).collect();
    let readme = variables();
    for name in &all {
        assert!(readme.contains(&name.as_str()) || name == "STATE_DIRECTORY", "the README's table lacks {name}");
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    for file in [
        "docker-compose.yml",
        "contrib/compose/add-to-gluetun.yml",
        "contrib/compose/wireguard.yml",
        "contrib/kubernetes/openvpn.yaml",
        "contrib/kubernetes/wireguard.yaml",
        "systemd/config.env",
        "openrc/pia-qbittorrent-sync.confd",
        "contrib/procd/pia-qbittorrent-sync.init",
        "contrib/appliance/run.sh",
    ] {
        let text = read(file);
        // A sample of settings consists of comments; a comment in YAML may contain anything.
        let is_yaml = file.ends_with("ml");
        let lines = text.lines().map(|line| line.split('#').next().filter(|_| is_yaml).unwrap_or(line));
        for name in lines.flat_map(ours_in) {
            // `PIA_` and the like are prefixes; the exceptions below belong to a compose file's own `.env`.
            let known = all.contains(&name) || from_file.contains(&name) || name.ends_with('_');
            assert!(
                known || ["PIA_REGION", "PIA_SYNC_", "PIA_WG"].iter().any(|own| name.starts_with(own)),
                "{file} has {name}"
            );
        }
    }
    let (unit, installer) = (read("systemd/pia-qbittorrent-sync.service"), read("install.sh"));
    for name in secrets {
        assert!(unit.contains(&format!("LoadCredential={name}:")), "the unit does not load {name}");
        assert!(
            installer.lines().any(|line| line.contains("secrets=") && line.contains(name)),
            "install.sh lacks {name}"
        );
    }
}

#[test]
fn version_is_that_of_the_package() {
    let output = Setup::new().run_once(&["--version"]);
    assert_eq!(output.code, Some(0));
    assert_eq!(output.stdout, format!("pia-qbittorrent-sync {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_64() {
    for arguments in [&["nonsense"][..], &["--nonsense"], &["once", "more"], &["status", "--xml"], &[""]] {
        let output = Setup::new().run_once(arguments);
        assert_eq!(output.code, USAGE, "{arguments:?}: {output:#?}");
        assert!(output.stdout.is_empty() && output.stderr.contains("--help"), "{arguments:?}: {output:#?}");
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    // As in `… --help | head -1`.
    let script = format!("{} --help | true", support::daemon::binary().display());
    let output = Command::new("sh").args(["-c", &script]).env_clear().output().expect("a shell");
    assert!(output.stderr.is_empty(), "{output:?}");
}

// ---- configuration: errors

#[test]
fn all_problems_are_listed_at_once() {
    let setup = Setup::new()
        .env("PIA_GATEWAY", "nonsense:99999")
        .env("PIA_CA_CERT", "/nonexistent")
        .env("CHECK_INTERVAL", "0")
        .env("LOG_LEVEL", "loud");
    let output = setup.run_once(&[]);
    assert_eq!((output.code, output.stdout.as_str()), (CONFIG, ""), "{output:#?}");
    assert!(output.stderr.lines().count() >= 4, "{output:#?}");
    for words in [
        &["PIA_GATEWAY", "nonsense:99999", "65535"][..],
        &["CHECK_INTERVAL", "0", "86400"],
        &["LOG_LEVEL", "loud", "TRACE", "CRITICAL"],
        &["PIA_CA_CERT"],
        &["PIA_USERNAME"],
    ] {
        let printed = output.stderr.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(printed, "{words:?}: {output:#?}");
    }
}

#[test]
fn commands_that_use_the_configuration_check_it() {
    for arguments in [&[][..], &["once"], &["check"]] {
        let world = World::calm().env("CHECK_INTERVAL", "soon");
        let output = world.setup.run_once(arguments);
        assert_eq!(output.code, CONFIG, "{arguments:?}: {output:#?}");
        assert_eq!(world.pia.counts(), pia::Counts::default());
    }
}

#[test]
fn a_bad_value_is_reported_with_the_valid_ones() {
    for_all(
        [
            ("PIA_GATEWAY", "10.0.0.1:0", "65535"),
            ("PIA_GATEWAY", "10.0.0.1:port", "65535"),
            ("PIA_GATEWAY", "[fd00::1", "ADDRESS"),
            ("PIA_GATEWAY", "https://10.0.0.1", "PIA_GATEWAY=10.0.0.1"),
            ("PIA_GATEWAY", "https://", "ADDRESS"),
            ("PIA_HOSTNAME", "10.0.0.1", "name"),
            ("PIA_HOSTNAME", "two words", "name"),
            ("PIA_CA_CERT", "/nonexistent/ca.pem", "no such file"),
            ("PIA_LOGIN_URL", "http://127.0.0.1:1/token", "https"),
            ("PIA_LOGIN_URL", "nonsense", "https"),
            ("PIA_LOGIN_CA_CERT", "/nonexistent/ca.pem", "no such file"),
            ("QBITTORRENT_HOST", "ftp://localhost", "http"),
            ("QBITTORRENT_HOST", "http://localhost:99999", "65535"),
            ("QBITTORRENT_CA_CERT", "/nonexistent/ca.pem", "no such file"),
            ("CHECK_INTERVAL", "0", "86400"),
            ("CHECK_INTERVAL", "86401", "86400"),
            ("CHECK_INTERVAL", "-5", "86400"),
            ("CHECK_INTERVAL", "5m", "CHECK_INTERVAL=300"),
            ("LOG_LEVEL", "verbose", "DEBUG"),
        ],
        |(name, value, valid)| {
            World::calm().env(name, value).refuses(&[&[name, value, valid]]);
        },
    );
}

#[test]
fn a_password_in_a_url_is_refused_and_not_shown() {
    let output = World::calm().env("QBITTORRENT_HOST", "http://me:secret@nas").refuses(&[&["QBITTORRENT_HOST"]]);
    assert!(!output.stderr.contains("secret"), "{output:#?}");
}

#[test]
fn a_ca_file_must_hold_certificates() {
    for name in ["PIA_CA_CERT", "PIA_LOGIN_CA_CERT", "QBITTORRENT_CA_CERT"] {
        for text in ["", "no PEM at all", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let world = World::calm();
            let path = world.setup.dir().write("bad.pem", text).display().to_string();
            world.env(name, path).refuses(&[&[name, "bad.pem", "PEM"]]);
        }
    }
}

#[test]
fn a_ca_file_may_hold_several_certificates() {
    let world = World::calm();
    let both = format!("# comment\n{}\n{}", world.pia.login_ca_pem(), world.pia.ca_pem());
    let path = world.setup.dir().write("both.pem", both).display().to_string();
    let world = world.env("PIA_CA_CERT", &path).env("PIA_LOGIN_CA_CERT", &path);
    let output = world.setup.run_once(&["once"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
}

#[test]
fn a_gateway_certificate_of_the_login_ca_is_refused() {
    let world = World::calm();
    let path = world.setup.value("PIA_LOGIN_CA_CERT").to_owned();
    let world = world.env("PIA_CA_CERT", path);
    let output = world.setup.run_once(&["once"]);
    assert_eq!(output.code, Some(1), "{output:#?}");
    assert_eq!(world.pia.counts().signatures, 0);
}

#[test]
fn an_account_or_a_token_is_required() {
    let world = World::calm().without(&["PIA_USERNAME", "PIA_PASSWORD"]);
    world.refuses(&[&["PIA_USERNAME", "PIA_PASSWORD"]]);
    fs::write(world.setup.token_file(), " \n").expect("a token file");
    world.refuses(&[&["PIA_USERNAME", "PIA_PASSWORD"]]);
    fs::write(world.setup.token_file(), world.pia.make_token()).expect("a token file");
    let output = world.setup.run_once(&["once"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
}

#[test]
fn half_of_a_pair_is_an_error() {
    for (missing, other) in [
        ("PIA_USERNAME", "PIA_PASSWORD"),
        ("PIA_PASSWORD", "PIA_USERNAME"),
        ("QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD"),
        ("QBITTORRENT_PASSWORD", "QBITTORRENT_USERNAME"),
    ] {
        World::calm().without(&[missing]).refuses(&[&[missing, other]]);
    }
}

#[test]
fn a_placeholder_is_an_error_and_is_not_shown() {
    for_all(FROM_FILE, |name| {
        for value in ["CHANGE_ME", "your_pia_username", "changeme", "<password>"] {
            let output = World::calm().env(name, value).refuses(&[&[name, "placeholder"]]);
            assert!(!output.stderr.contains(value), "{output:#?}");
            World::calm().file(name, value).refuses(&[&[name, "placeholder"]]);
        }
    });
}

// ---- configuration: files

#[test]
fn a_value_from_a_file_loses_its_line_break() {
    for_all(["", "\n", "\r\n"], |end| {
        let mut world = World::calm();
        world.pia.set(|state| state.password = " lead and trail ".into());
        for name in ["PIA_USERNAME", "PIA_PASSWORD", "QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD"] {
            let value = match name {
                "PIA_PASSWORD" => " lead and trail ".to_owned(),
                _ => world.setup.value(name).to_owned(),
            };
            world = world.file(name, &format!("{value}{end}"));
        }
        let output = world.setup.run_once(&["once"]);
        assert_eq!(output.code, Some(0), "{end:?}: {output:#?}");
    });

    let mut world = World::calm().without(&["QBITTORRENT_USERNAME", "QBITTORRENT_PASSWORD"]);
    world.qbt.set(|state| state.api_key = Some("qbt_0123456789abcdefghijklmnopqr".into()));
    world = world.file("QBITTORRENT_API_KEY", "qbt_0123456789abcdefghijklmnopqr\n");
    let output = world.setup.run_once(&["once"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert_eq!(world.qbt.counts().logins, 0);
}

#[test]
fn a_variable_and_its_file_variant_exclude_each_other() {
    for name in FROM_FILE {
        let world = World::calm();
        let path = world.setup.dir().write("file", "v4lue-in-a-file").display().to_string();
        let world = world.env(name, "v4lue").env(&format!("{name}_FILE"), path);
        let output = world.refuses(&[&[name, &format!("{name}_FILE"), "set only one of them"]]);
        assert!(!output.stderr.contains("v4lue"), "{output:#?}");
    }
}

#[test]
fn an_unusable_file_is_reported_with_its_variable() {
    for name in ["PIA_PASSWORD", "QBITTORRENT_PASSWORD"] {
        let file = format!("{name}_FILE");
        World::calm().without(&[name]).env(&file, "/nonexistent").refuses(&[&[&file, "/nonexistent", "no such file"]]);
        World::calm().file(name, "\n").refuses(&[&[&file, "empty"]]);
        let world = World::calm();
        let dir = world.setup.dir().path().display().to_string();
        world.without(&[name]).env(&file, dir).refuses(&[&[&file, "directory"]]);
    }
}

#[test]
fn a_pipe_instead_of_a_file_does_not_block() {
    let pipe_at = |path: &std::path::Path| {
        let made = Command::new("mkfifo").arg(path).status();
        assert!(made.is_ok_and(|status| status.success()), "{}", path.display());
        path.display().to_string()
    };
    let pipe_in = |world: &World| pipe_at(&world.setup.dir().path().join("pipe"));
    for_all(
        [
            ("PIA_PASSWORD_FILE", &["PIA_PASSWORD"][..]),
            ("QBITTORRENT_PASSWORD_FILE", &["QBITTORRENT_PASSWORD"]),
            ("PIA_CA_CERT", &[]),
            ("PIA_LOGIN_CA_CERT", &[]),
            ("QBITTORRENT_CA_CERT", &[]),
        ],
        |(variable, instead_of)| {
            let world = World::new().without(instead_of).env("QBITTORRENT_HOST", "https://127.0.0.1:1");
            let pipe = pipe_in(&world);
            let output = world.env(variable, pipe).setup.run_once(&["check", "--config-only"]);
            assert_eq!(output.code, CONFIG, "{variable}: {output:#?}");
            assert!(output.stderr.contains(variable), "{output:#?}");
            assert!(output.stderr.contains("is not a regular file"), "{output:#?}");
        },
    );

    let world = World::new();
    let pipe = pipe_in(&world);
    let output = world.setup.run_once(&["--config", &pipe, "check", "--config-only"]);
    assert!(output.code == CONFIG && output.stderr.contains("is not a regular file"), "{output:#?}");

    let world = World::new();
    let token_file = world.setup.token_file();
    pipe_at(&token_file);
    pipe_at(&world.setup.lease_file());
    let output = world.setup.run_once(&["once"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert_eq!(output.stdout.matches("is not a regular file").count(), 2, "{output:#?}");

    let world = World::new();
    pipe_at(&world.setup.state_dir().join("status.json"));
    let output = world.setup.run_once(&["status"]);
    assert!(output.code == Some(1) && output.stderr.contains("is not a regular file"), "{output:#?}");

    let world = World::new();
    let pipe = pipe_in(&world);
    let output = world.env("PORT_SOURCE", format!("file:{pipe}")).setup.run_once(&["once"]);
    assert!(output.code == Some(1) && output.stdout.contains("is not a regular file"), "{output:#?}");

    let world = World::new();
    let pipe = pipe_in(&world);
    let output = world.env("LOG_FILE", pipe).setup.run_once(&["once"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    assert!(output.stdout.contains("no process is reading from it; logging to standard output"), "{output:#?}");
}

#[test]
fn the_log_file_may_be_a_device_or_a_pipe() {
    let output = World::new().env("LOG_FILE", "/dev/stderr").setup.run_once(&["once"]);
    assert!(output.code == Some(0) && output.stderr.contains("bound port 47047"), "{output:#?}");
    let output = World::new().env("LOG_FILE", "/dev/null").setup.run_once(&["once"]);
    assert!(output.code == Some(0) && !format!("{output:?}").contains("bound port"), "{output:#?}");
}

// ---- configuration: warnings

#[test]
fn an_unusual_value_is_a_warning() {
    for_all(
        [
            ("PIA_PASWORD", "x", &["PIA_PASWORD", "PIA_PASSWORD"][..]),
            ("QBITTORRENT_URL", "x", &["QBITTORRENT_URL", "QBITTORRENT_"]),
            ("QBITTORRENT_PASSWORD_FIEL", "x", &["QBITTORRENT_PASSWORD_FIEL", "QBITTORRENT_PASSWORD_FILE"]),
            ("CHECK_INTERVAL", "841", &["CHECK_INTERVAL", "841", "840", "15 min"]),
            ("CHECK_INTERVAL", "86400", &["CHECK_INTERVAL", "86400", "840", "15 min"]),
        ],
        |(name, value, words)| World::calm().env(name, value).warns(words),
    );
}

#[test]
fn qbittorrents_old_default_password_is_a_warning() {
    let world = World::calm();
    world.qbt.set(|state| state.password = "adminadmin".into());
    world.env("QBITTORRENT_PASSWORD", "adminadmin").warns(&["QBITTORRENT_PASSWORD", "default"]);
}

#[test]
fn the_interval_is_capped_at_840_s() {
    let world = World::calm().env("CHECK_INTERVAL", "86400");
    assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
    assert_eq!(world.setup.status().map(|status| status.interval_s), Some(840));
}

#[test]
fn a_gateway_without_a_name_is_a_warning() {
    let pia = pia::Pia::with(pia::Options { anonymous: true, ..pia::Options::default() });
    let mut world = World::calm();
    world.setup = world.setup.pia(&pia).without("PIA_HOSTNAME");
    world.warns(&["PIA_HOSTNAME", "Sandbox-409-1a"]);
}

#[test]
fn an_address_without_a_scheme_means_http() {
    let world = World::calm();
    let address = world.qbt.address().to_string();
    let output = world.env("QBITTORRENT_HOST", address).setup.run_once(&["once"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
}

#[test]
fn state_dir_defaults_to_systemds_state_directory() {
    let world = World::calm();
    let dir = world.setup.state_dir().display().to_string();
    let world = world.without(&["STATE_DIR"]).env("STATE_DIRECTORY", dir.clone());
    assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
    assert!(world.env("STATE_DIR", dir).setup.lease_file().exists());
}

#[test]
fn the_state_directory_is_created() {
    let world = World::calm();
    let dir = world.setup.dir().path().join("a/b");
    let world = world.env("STATE_DIR", dir.display().to_string());
    let daemon = world.bind();
    assert_eq!((mode(&dir), mode(&daemon.world.setup.lease_file())), (0o700, 0o600));
}

// ---- log

#[test]
fn log_levels_are_case_insensitive() {
    for_all(
        [("trace", true, true), ("Debug", true, true), ("INFO", false, true), ("warning", false, false)],
        |(level, debug, info)| {
            let output = World::calm().env("LOG_LEVEL", level).setup.run_once(&["once"]);
            let has = |level: &str| output.stdout.lines().any(|l| l.split_whitespace().nth(1) == Some(level));
            assert_eq!((output.code, has("DEBUG"), has("INFO")), (Some(0), debug, info), "{level}: {output:#?}");
        },
    );
    for_all(["ERROR", "critical", "warn"], |level| {
        let output = World::calm().env("LOG_LEVEL", level).setup.run_once(&["once"]);
        assert_eq!((output.code, output.stdout.as_str()), (Some(0), ""), "{level}: {output:#?}");
    });
}

#[test]
fn the_log_file_is_private_and_is_appended_to() {
    let world = World::calm();
    let log = world.setup.dir().path().join("log");
    let world = world.env("LOG_FILE", log.display().to_string());
    for _ in 0..2 {
        let output = world.setup.run_once(&["once"]);
        assert_eq!((output.code, output.stdout.as_str()), (Some(0), ""), "the log goes to the file alone: {output:#?}");
    }
    let text = fs::read_to_string(&log).expect("a log file");
    assert_eq!((mode(&log), text.matches(" started").count()), (0o600, 2), "{text}");
}

#[test]
fn a_long_log_file_is_truncated() {
    let world = World::calm();
    let line = format!("{}\n", "x".repeat(99));
    let path = world.setup.dir().write("long.log", line.repeat(50_001));
    let world = world.env("LOG_FILE", path.display().to_string());
    assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
    let log = fs::read_to_string(&path).expect("a log");
    assert!((990_000..1_100_000).contains(&log.len()), "{}", log.len());
    assert!(log.starts_with("xxx") && log.contains("bound port 47047"), "{}", &log[log.len() - 500..]);
}

#[test]
fn a_mistyped_argument_gets_a_suggestion() {
    for (arguments, words) in [
        (&["chekc"][..], "unknown command chekc; did you mean check? --help"),
        (&["check", "--config-onyl"], "unknown option --config-onyl; did you mean --config-only?"),
        (&["--conf", "x"], "unknown option --conf; did you mean --config?"),
        (&["status", "--xml"], "unknown option --xml; --help"),
        (&["once", "--json"], "unknown option --json; --help"),
        (&["--config"], "--config needs a file path"),
    ] {
        let output = Setup::new().run_once(arguments);
        assert_eq!(output.code, USAGE, "{output:#?}");
        assert!(output.stderr.contains(words), "{words}: {output:#?}");
    }
}

#[test]
fn every_command_has_help() {
    for command in ["check", "once", "status", "healthcheck", "fetch-ca"] {
        for arguments in [[command, "--help"], ["--help", command], [command, "-h"]] {
            let output = Setup::new().run_once(&arguments);
            assert_eq!(output.code, Some(0), "{output:#?}");
            let usage = format!("Usage: pia-qbittorrent-sync [--config PATH] {command}");
            assert!(output.stdout.starts_with(&usage) && output.stdout.contains("Exit codes: 0"), "{output:#?}");
        }
    }
}

#[test]
fn a_log_file_that_cannot_be_opened_is_a_warning() {
    World::calm().env("LOG_FILE", "/nonexistent/log").warns(&["LOG_FILE", "/nonexistent/log"]);
}

// ---- once

#[test]
fn once_runs_one_full_pass() {
    let world = World::calm();
    let output = world.setup.run_once(&["once"]);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:#?}");
    let counts = pia::Counts { logins: 1, signatures: 1, binds: 1, connections: 1, ..pia::Counts::default() };
    assert_eq!(world.pia.counts(), counts);
    assert_eq!((world.qbt.listening(), world.qbt.counts().logouts), (Some(47047), 1), "once logs out");

    // The next pass needs neither a login nor a signature. It reopens the socket, as the tunnel may have been
    // recreated.
    assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
    assert_eq!(world.pia.counts(), pia::Counts { binds: 2, connections: 2, ..counts });
    assert_eq!(world.qbt.ports(), [47047, 47048, 47047]);
    let output = world.setup.run_once(&["healthcheck"]);
    assert!(output.code == NOT_RUNNING && output.stderr.contains("not running: stopped at"), "{output:#?}");
}

#[test]
fn once_fails_with_a_reason() {
    type Case = (fn(&World), &'static [&'static str]);
    let cases: [Case; 4] = [
        (|world| world.pia.pause(), &["refused", "region"]),
        (|world| world.pia.pause_login(), &["login"]),
        (|world| world.qbt.pause(), &["qBittorrent", "refused"]),
        (|world| world.qbt.set(|state| state.password = "other".into()), &["QBITTORRENT_PASSWORD"]),
    ];
    for_all(cases, |(breaks, words)| {
        let world = World::calm();
        breaks(&world);
        let output = world.setup.run_once(&["once"]);
        assert_eq!(output.code, Some(1), "{output:#?}");
        for word in words {
            assert!(output.stderr.contains(word), "{word:?}: {output:#?}");
        }
    });
}

#[test]
fn once_binds_even_if_qbittorrent_is_down() {
    let world = World::calm();
    world.qbt.pause();
    assert_eq!(world.setup.run_once(&["once"]).code, Some(1));
    assert_eq!(world.pia.bound(), [47047]);
}

// ---- check

/// Runs `check` and asserts for each of these rows whether it is ok.
#[track_caller]
fn assert_rows(world: &World, expected: &[(&str, bool)]) -> Output {
    let output = world.setup.run_once(&["check"]);
    let all_ok = expected.iter().all(|(_, ok)| *ok);
    assert_eq!(output.code, Some(i32::from(!all_ok)), "{output:#?}");
    for (step, ok) in expected {
        let line = output.stdout.lines().find(|line| line.get(5..20).is_some_and(|row| row.trim() == step.trim()));
        let line = line.unwrap_or_else(|| panic!("no row {step}: {output:#?}"));
        assert_eq!(line.starts_with("ok"), *ok, "{step}: {output:#?}");
    }
    output
}

/// Rows of a check with PIA, in order.
const ROWS: [&str; 12] = [
    "settings",
    "tunnel",
    "account",
    "CA",
    "gateway",
    "certificate",
    "lease",
    "bind",
    "client",
    "port",
    "listener",
    "inbound",
];

/// Names of the rows that `check` printed, in order.
fn rows(output: &Output) -> Vec<String> {
    output.stdout.lines().take_while(|line| !line.is_empty()).map(|line| line[5..20].trim().to_owned()).collect()
}

#[test]
fn check_runs_the_loop_and_does_not_change_qbittorrent() {
    let world = World::calm();
    // A different port in qBittorrent is reported and kept, and is no failure before the first start.
    let output = world.setup.run_once(&["check"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    let line = "note port           the client has port 6881, but the leased port is 47047; the service will set it\n";
    assert!(output.stdout.contains(line), "{output:#?}");
    assert!(output.stdout.ends_with("\n\nall is well: start the service to set the port\n"), "{output:#?}");
    assert_eq!((world.qbt.counts().set_ports, world.qbt.listening()), (0, Some(6881)));
    assert_eq!(rows(&output), ROWS);

    assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
    let output = world.setup.run_once(&["check"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    for step in ["settings", "CA", "gateway", "certificate", "lease", "bind", "client", "port"] {
        assert!(output.stdout.contains(&format!("ok   {step:<15}")), "{step}: {output:#?}");
    }
    assert_eq!(rows(&output), ROWS);
    assert!(output.stdout.contains("-    account        not needed: the stored lease"), "{output:#?}");
    assert!(output.stdout.contains("note listener       the client reports that it listens, but"), "{output:#?}");
    assert!(output.stdout.contains("note inbound        no incoming peer yet (normal at first)\n"), "{output:#?}");
    assert!(output.stdout.ends_with("\n\nall is well\n"), "{output:#?}");
    world.qbt.set(|state| state.reachable = true);
    assert_rows(&world, &[("inbound", true)]);
    assert_eq!(world.qbt.counts().set_ports, 1);
    assert_eq!(world.pia.counts().signatures, 1, "the stored lease is used");
}

#[test]
fn check_advises_on_each_failure() {
    type Case = (fn(&World), &'static [(&'static str, bool)], &'static [&'static str]);
    let cases: [Case; 6] = [
        (|world| world.pia.pause(), &[("account", true), ("gateway", false), ("client  ", false)], &["region"]),
        (|world| world.pia.pause_login(), &[("account", false), ("gateway", false)], &["login"]),
        (
            |world| world.pia.scripts.always(pia::BIND_PORT, pia::busy(47047)),
            &[("lease", true), ("bind", false)],
            &["different server"],
        ),
        (
            |world| world.pia.set(|state| state.outside_tunnel = true),
            &[("certificate", true), ("lease", false), ("bind", false)],
            &["PIA_GATEWAY=auto"],
        ),
        (
            |world| world.qbt.set(|state| state.password = "other".into()),
            &[("bind", true), ("client  ", false), ("port  ", false)],
            &["QBITTORRENT_PASSWORD"],
        ),
        (|world| world.qbt.pause(), &[("bind", true), ("client  ", false)], &["QBITTORRENT_HOST"]),
    ];
    for_all(cases, |(breaks, steps, words)| {
        let world = World::calm();
        breaks(&world);
        let output = assert_rows(&world, steps);
        for word in words {
            assert!(output.stdout.contains(word), "{word:?}: {output:#?}");
        }
        assert!(!output.stdout.contains("next try"), "check does not retry: {output:#?}");
        assert!(world.pia.counts().logins <= 2 && world.qbt.counts().failed_logins <= 1);
    });
}

#[test]
fn check_accepts_neither_a_wrong_name_nor_a_wrong_ca() {
    let world = World::calm().env("PIA_HOSTNAME", "mexico409");
    let output = assert_rows(&world, &[("gateway", true), ("certificate", false)]);
    assert!(output.stdout.contains("Sandbox-409-1a"), "{output:#?}");

    let world = World::calm();
    let other = world.setup.value("PIA_LOGIN_CA_CERT").to_owned();
    let world = world.env("PIA_CA_CERT", other);
    assert_rows(&world, &[("gateway", true), ("certificate", false)]);
}

#[test]
fn five_checks_with_a_rejected_password_cause_no_ban() {
    for_all([false, true], |at_pia| {
        let world = World::calm();
        let (name, row) = if at_pia { ("PIA_PASSWORD", "account") } else { ("QBITTORRENT_PASSWORD", "client  ") };
        let attempts =
            |world: &World| if at_pia { world.pia.counts().logins } else { world.qbt.counts().failed_logins };
        let world = world.env(name, "wrong");
        for _ in 0..5 {
            let output = assert_rows(&world, &[(row, false)]);
            assert!(output.stdout.contains("user name or password rejected"), "{output:#?}");
        }
        assert_eq!(attempts(&world), 1, "{name}");
        let kept = fs::read_to_string(world.setup.state_dir().join("rejected.json")).expect("a file");
        assert!(!kept.contains("wrong"), "{kept}");

        // Different credentials are tried at once, and a start of the service tries even the rejected ones.
        assert_rows(&world.env(name, "also wrong"), &[(row, false)]);
        let world = World::calm();
        let world = world.env(name, "wrong");
        assert_rows(&world, &[(row, false)]);
        let mut daemon = world.setup.run();
        daemon.expect_line("user name or password rejected");
        assert_eq!(attempts(&world), 2, "{name}");
    });
}

#[test]
fn check_writes_nothing_while_the_service_runs() {
    let world = World::calm();
    let mut daemon = world.setup.run();
    daemon.wait_for_status("verified", |status| status.client_verified_at.is_some());
    let files = || {
        let read = |file: &std::path::PathBuf| (file.clone(), fs::read(file).expect("a file"));
        support::daemon::files(world.setup.dir().path()).iter().map(read).collect::<Vec<_>>()
    };
    let before = files();
    // The service would now get a new token and a new lease.
    world.pia.revoke_tokens();
    world.pia.scripts.next(pia::BIND_PORT, [pia::bad_signature()]);
    let output = world.setup.run_once(&["check"]);
    assert!(output.stdout.contains("the service is running"), "{output:#?}");
    assert_eq!(world.pia.counts().signatures, 3, "refused once, then granted: {output:#?}");
    assert!(files() == before, "check has written a file");
}

// ---- one STATE_DIR

#[test]
fn a_second_instance_waits_a_second_and_names_the_first() {
    let world = World::calm();
    let mut daemon = world.setup.run();
    daemon.wait_for_status("verified", |status| status.client_verified_at.is_some());
    let counts = (world.pia.counts(), world.qbt.counts());
    for arguments in [&[][..], &["once"]] {
        let begin = std::time::Instant::now();
        let output = world.setup.run_once(arguments);
        assert_eq!(output.code, LOCKED, "{output:#?}");
        let holder = format!("STATE_DIR is already in use by the service, process {};", daemon.pid());
        assert!(output.stderr.contains(&holder), "{output:#?}");
        assert!(begin.elapsed() >= std::time::Duration::from_secs(1), "{:?}", begin.elapsed());
    }
    assert_eq!((world.pia.counts(), world.qbt.counts()), counts, "nothing was sent");
    assert_eq!(daemon.ended(), None);
    // Even after SIGKILL the next one runs.
    daemon.kill9();
    assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
}

#[test]
fn check_gets_a_new_lease_if_the_stored_one_is_refused() {
    let world = World::calm();
    assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
    world.pia.scripts.next(pia::BIND_PORT, [pia::bad_signature()]);
    let output = assert_rows(&world, &[("lease", true), ("port  ", true)]);
    assert!(output.stdout.contains("bad signature; getting a new lease"), "{output:#?}");
    assert!(output.stdout.contains("port 47047 is bound for 15 minutes"), "{output:#?}");
    assert_eq!(world.pia.counts().signatures, 2);
    let later = Reply::json(200, r#"{"status":"ERROR","message":"try later"}"#);
    world.pia.scripts.next(pia::BIND_PORT, [later]);
    assert_rows(&world, &[("lease", true), ("bind", false)]);
    assert_eq!(world.pia.counts().signatures, 2, "the refusal was not about the lease");
}

#[test]
fn check_binds_a_stored_lease_that_seems_to_have_expired() {
    let world = World::calm();
    // Our clock is months ahead of the gateway's, so every lease seems to have expired.
    world.pia.set(|state| state.clock_ahead = SignedDuration::from_hours(-100 * 24));
    assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
    let stored = fs::read(world.setup.lease_file()).expect("a lease");
    assert_rows(&world, &[("lease", true), ("bind", true), ("port  ", true)]);
    assert_eq!(world.pia.counts().signatures, 1, "the stored lease is bound");
    assert_eq!(fs::read(world.setup.lease_file()).expect("a lease"), stored);
}

#[test]
fn check_reports_a_port_without_a_listener() {
    let world = World::calm();
    assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
    world.qbt.drop_socket();
    assert_rows(&world, &[("port  ", true), ("listener", false)]);
}

// ---- status and healthcheck

/// Asserts the exit code of `status`, `status --json` and `healthcheck`, and these words in the output for people.
#[track_caller]
fn all_report(setup: &Setup, code: i32, words: &[&str]) {
    for arguments in [&["status"][..], &["status", "--json"], &["healthcheck"]] {
        let output = setup.run_once(arguments);
        assert_eq!(output.code, Some(code), "{arguments:?}: {output:#?}");
        if arguments != ["status", "--json"] {
            let text = output.stdout + &output.stderr;
            for word in words {
                assert!(text.contains(word), "{word:?}: {text}");
            }
        }
    }
}

#[test]
fn status_and_healthcheck_report_whether_the_service_runs() {
    let world = World::calm();
    let setup = world.setup.clone();
    all_report(&setup, 3, &["not running", "no state is stored in STATE_DIR"]);
    let mut daemon = setup.run();
    daemon.wait_for_status("verified", |status| status.client_verified_at.is_some());
    all_report(&setup, 0, &["47047"]);
    let first = setup.run_once(&["status"]).stdout;
    assert!(first.starts_with(&format!("running     the service, process {}", daemon.pid())), "{first}");

    world.pia.pause();
    for failed in 1..=3 {
        daemon.reload();
        daemon.wait_for_status("one more failed bind", |status| status.binds_failed >= failed);
    }
    all_report(&setup, 1, &["bindPort: cannot connect", "this worked before"]);
    world.pia.resume();
    daemon.reload();
    daemon.wait_for_status("no problem", |status| status.problems.is_empty());
    all_report(&setup, 0, &["47047"]);

    assert!(daemon.stop().0.success());
    all_report(&setup, 3, &["stopped"]);
    let mut daemon = setup.run();
    daemon.expect_line("qBittorrent listens on port 47047");
    daemon.kill9();
    all_report(&setup, 3, &["killed or crashed"]);
}

#[test]
fn an_unwritable_state_directory_is_reported_as_unknown() {
    let world = World::calm();
    let file = world.setup.dir().write("file", "");
    let world = world.env("STATE_DIR", file.join("state").display().to_string());
    let mut daemon = world.setup.run();
    daemon.expect_line("qBittorrent listens on port 47047");
    all_report(&world.setup, 1, &["unknown"]);
}

#[test]
fn status_shows_the_port_and_the_failures() {
    let world = World::calm();
    let mut daemon = world.setup.run();
    daemon.wait_for_status("verified", |status| status.client_verified_at.is_some());
    // As with `docker exec`, only STATE_DIR is set.
    let bare = Setup::new().env("STATE_DIR", world.setup.value("STATE_DIR"));
    let output = bare.run_once(&["status"]);
    assert_eq!(output.code, Some(0), "{output:#?}");
    for word in ["47047", "qBittorrent", "no incoming peer yet"] {
        assert!(output.stdout.contains(word), "{word}: {output:#?}");
    }
    let json = bare.run_once(&["status", "--json"]).stdout;
    let shown: support::daemon::Status = miniserde::json::from_str(&json).expect("JSON");
    assert_eq!((shown.port, shown.version.as_str()), (Some(47047), env!("CARGO_PKG_VERSION")));
    assert_eq!(bare.run_once(&["healthcheck"]).code, Some(0));

    world.qbt.scripts.always(qbt::PREFERENCES, Reply::text(500, "it broke"));
    daemon.reload();
    daemon.expect_line("it broke");
    daemon.wait_for_problem("client");
    let output = bare.run_once(&["status"]);
    assert!(output.stdout.contains("it broke"), "{output:#?}");
}

/// The file belongs to the service's user, and root reads it in a terminal.
#[test]
fn status_as_json_has_no_raw_control_characters() {
    let setup = Setup::new();
    let mischief = "\u{1b}\u{7f}\u{85}\u{9b}2J\u{61c}\u{200b}\u{2028}\u{202e}\u{2066}\u{feff}";
    let text = miniserde::json::to_string(&format!("a{mischief}b \u{fc} \"\\"));
    let status = format!(
        r#"{{"version":{text},"interval_s":300,"follows":false,"port":4711,"binds_failed":0,"client":{text},"listener_seen":false,"problems":[],"updated_at":{text}}}"#
    );
    fs::write(setup.state_dir().join("status.json"), status).expect("a status file");
    let output = setup.run_once(&["status", "--json"]);
    let raw: Vec<_> = output.stdout.trim_end().chars().filter(|c| mischief.replace("2J", "").contains(*c)).collect();
    assert_eq!(raw, [], "{output:?}");
    let shown: Value = miniserde::json::from_str(&output.stdout).expect("JSON");
    let Value::Object(shown) = shown else { panic!("{output:?}") };
    assert!(matches!(&shown["client"], Value::String(s) if *s == format!("a{mischief}b \u{fc} \"\\")), "{shown:?}");
}

#[test]
fn status_shows_a_recovery() {
    let world = World::calm();
    world.qbt.pause();
    let mut daemon = world.setup.run();
    daemon.wait_for_problem("client");
    world.qbt.resume();
    daemon.reload();
    daemon.wait_for_status("no problem", |status| status.problems.is_empty() && status.client_port.is_some());
}

#[test]
fn healthcheck_fails_if_a_bind_or_verification_is_too_old() {
    let world = World::calm();
    let mut daemon = world.setup.run();
    daemon.wait_for_status("verified", |status| status.client_verified_at.is_some());
    let file = world.setup.state_dir().join("status.json");
    let written = fs::read_to_string(&file).expect("a status file");
    // Ages in seconds of bind and verification, at an interval of 300 s.
    for (bound, verified, code) in [
        (Some(0), Some(0), 0),
        (Some(890), Some(650), 0),
        (Some(910), Some(0), 1),
        (Some(0), Some(670), 1),
        (None, Some(0), 1),
        (Some(0), None, 1),
    ] {
        let Ok(Value::Object(mut status)) = miniserde::json::from_str(&written) else { panic!("{written}") };
        for (name, age) in [("bound_at", bound), ("client_verified_at", verified)] {
            let time = |age| format!("{:.0}", Timestamp::now() - SignedDuration::from_secs(age));
            status.insert(name.into(), age.map_or(Value::Null, |age| Value::String(time(age))));
        }
        fs::write(&file, miniserde::json::to_string(&status)).expect("a status file");
        let output = world.setup.run_once(&["healthcheck"]);
        assert_eq!(output.code, Some(code), "{bound:?} {verified:?}: {output:#?}");
        assert!(code == 0 || !output.stderr.is_empty(), "no reason: {output:#?}");
    }
}

#[test]
fn a_damaged_status_is_an_error() {
    for text in ["", "null", "{}", "[1]"] {
        let setup = Setup::new();
        fs::write(setup.state_dir().join("status.json"), text).expect("a status file");
        for arguments in [&["status"][..], &["healthcheck"]] {
            let output = setup.run_once(arguments);
            assert_eq!(output.code, Some(1), "{text:?}: {output:#?}");
            assert!(!output.stderr.contains("panicked"), "{output:#?}");
        }
    }
}

// ---- renew

#[test]
fn renew_asks_the_running_service_for_a_different_port() {
    let mut daemon = World::new().env("CHECK_INTERVAL", "300").settle();
    daemon.pia().set(|state| state.next_port = 50002);
    let renewed = daemon.world.setup.run_once(&["renew"]);
    assert_eq!((renewed.code, renewed.stdout.as_str()), (Some(0), "port 47047 -> 50002\n"), "{renewed:?}");
    daemon.settled(50002);
    assert_eq!(daemon.pia().bound(), [47047, 50002]);
    // A port that cannot be bound is not used.
    daemon.pia().set(|state| state.next_port = 50003);
    daemon.pia().scripts.next(pia::BIND_PORT, [pia::busy(50003)]);
    let renewed = daemon.world.setup.run_once(&["renew"]);
    assert!(renewed.code == Some(1) && renewed.stderr.contains("bindPort: HTTP 409: "), "{renewed:?}");
    daemon.expect_line("WARN  could not bind port 50003: HTTP 409");
    daemon.expect_line("bound port 50002");
    assert_eq!(daemon.qbt().listening(), Some(50002));
    // Without a new lease, or with the same port again, the current port is kept.
    daemon.pia().scripts.next(pia::GET_SIGNATURE, [Reply::text(500, "")]);
    let renewed = daemon.world.setup.run_once(&["renew"]);
    assert!(renewed.code == Some(1) && renewed.stderr.contains("getSignature: HTTP 500"), "{renewed:?}");
    daemon.pia().set(|state| state.next_port = 50002);
    for _ in 0..2 {
        let renewed = daemon.world.setup.run_once(&["renew"]);
        assert!(renewed.code == Some(1) && renewed.stderr.contains("PIA assigned port 50002 again"), "{renewed:?}");
    }
    assert_eq!(daemon.pia().bound().last(), Some(&50002));
}

/// The socket belongs to the service's user, and root reads it.
#[test]
fn renew_prints_no_control_characters_of_the_reply() {
    let setup = Setup::new();
    let lock = fs::File::create(setup.state_dir().join("lock")).expect("a lock file");
    lock.lock().expect("a lock");
    let socket = UnixListener::bind(setup.state_dir().join("requests")).expect("a socket");
    for mark in ["+", "-"] {
        let renewed = std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut client, _) = socket.accept().expect("a request");
                client.write_all(format!("{mark}a\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\nb").as_bytes()).expect("a reply");
            });
            setup.run_once(&["renew"])
        });
        let shown = renewed.stdout.clone() + &renewed.stderr;
        assert!(shown.ends_with("a?[2J?2J???b\n"), "{mark}: {renewed:?}");
    }
}

#[test]
fn renew_works_without_a_running_service() {
    let world = World::new();
    assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
    world.pia.set(|state| state.next_port = 50002);
    let renewed = world.setup.run_once(&["renew"]);
    assert!(renewed.code == Some(0) && renewed.stdout.ends_with("port 47047 -> 50002\n"), "{renewed:?}");
    assert_eq!((world.qbt.listening(), world.pia.counts().signatures), (Some(50002), 2));
}

#[test]
fn renew_fails_if_a_different_program_leases_the_port() {
    let gluetun = Gluetun::start(([127, 0, 0, 1], 0).into(), Some("key".to_owned()), 47047);
    let qbt = qbt::Qbt::with(qbt::Options::default());
    let setup = Setup::following(&qbt, "gluetun").env("GLUETUN_URL", gluetun.url()).env("GLUETUN_API_KEY", "key");
    let mut daemon = setup.run();
    daemon.expect_line("qBittorrent listens on port");
    daemon.wait_for_status("a port", |status| status.port.is_some());
    let renewed = setup.run_once(&["renew"]);
    assert!(renewed.code == Some(1) && renewed.stderr.contains("leased by another program"), "{renewed:?}");
}

#[test]
fn renew_works_with_a_stored_lease_and_token() {
    let world = World::new().env("CHECK_INTERVAL", "300");
    assert_eq!(world.setup.run_once(&["once"]).code, Some(0));
    let mut daemon = world.settle();
    daemon.pia().set(|state| state.next_port = 50002);
    let renewed = daemon.world.setup.run_once(&["renew"]);
    println!("{}", daemon.log());
    assert_eq!((renewed.code, renewed.stdout.as_str()), (Some(0), "port 47047 -> 50002\n"), "{renewed:?}");
    daemon.settled(50002);
}
