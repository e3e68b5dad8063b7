//! Configuration file and environment: every input is a valid configuration or a list of problems, each one line
//! without a secret.
//!
//! The input is the file's text, a NUL, and the environment in the kernel's format: `NAME=value` separated by NULs.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pia_qbittorrent_sync_fuzz::config::file::{self, Unreadable};
use pia_qbittorrent_sync_fuzz::http::dial::join;
use pia_qbittorrent_sync_fuzz::http::url::{Url, parse_address};
use pia_qbittorrent_sync_fuzz::settings::{PortProvider, Settings, VARIABLES};
use pia_qbittorrent_sync_fuzz::{assert_one_line, folder, put};

/// A secret that occurs in none of our texts.
const MARK: &str = "hunter2";
const CA: &[u8] = include_bytes!("../ca.pem");

/// The value names a file or a folder that the daemon reads.
fn is_path(name: &str) -> bool {
    name.ends_with("_FILE") || name.ends_with("_CA_CERT") || name == "CREDENTIALS_DIRECTORY"
}

fn is_secret(name: &str) -> bool {
    VARIABLES.iter().any(|variable| variable.from_file && variable.name == name)
}

/// The mark may be shown, because it is in a place for no secret.
fn is_open(name: &str, value: &str) -> bool {
    name.contains(MARK) || (value.contains(MARK) && !is_secret(name) && (is_path(name) || !value.contains('@')))
}

fn check_line(line: &str, open: bool) {
    assert_one_line(line);
    assert!(open || !line.contains(MARK), "a secret is shown: {line}");
}

/// Files that paths may lead to. The last one is a credential.
static FILES: LazyLock<()> = LazyLock::new(|| {
    for (name, text) in [("ca.pem", CA), ("token", b"abc123"), ("secret", b"hunter2\n"), ("PIA_PASSWORD", b"hunter2")] {
        put(name, text);
    }
});

/// Moves all paths into our folder, so that this machine's files and credentials have no influence.
fn confine(values: &mut BTreeMap<String, String>) {
    for (_, value) in values.iter_mut().filter(|(name, value)| is_path(name) && !value.is_empty()) {
        let name = value.rsplit('/').next().unwrap_or_default();
        *value = format!("{}/{name}", folder().display());
    }
    values.entry("CREDENTIALS_DIRECTORY".to_owned()).or_insert_with(|| folder().join("nowhere").display().to_string());
}

/// Asserts that an accepted URL or address can be shown and parses to the same value again.
fn parse(text: &str) {
    if let Ok(url) = Url::parse(text) {
        assert_ne!(url.port, 0);
        let shown = url.to_string();
        assert_one_line(&shown);
        let again = Url::parse(&shown).expect("the shown URL");
        assert_eq!((again.https, &again.host, again.port, again.to_string()), (url.https, &url.host, url.port, shown));
    }
    if let Ok((host, port)) = parse_address(text) {
        let shown = port.map_or(host.clone(), |port| join(&host, port));
        assert_one_line(&shown);
        assert_eq!(parse_address(&shown), Ok((host.clone(), port)));
        let written = if port.is_some() { text.rsplit_once(':').map_or("", |(written, _)| written) } else { text };
        assert!(written == host || written == format!("[{host}]"), "{host} is not what was written: {text}");
    }
}

fuzz_target!(|input: &[u8]| {
    let mut parts = input.split(|&byte| byte == 0);
    let text = parts.next().unwrap_or_default();
    parse(&String::from_utf8_lossy(text));

    // Files that a shell reads as well are parsed more strictly, with the same result.
    let strict = file::read(&put("conf.d/settings", text), is_secret);
    let mut all = match file::read(&put("config.env", text), is_secret) {
        Ok(all) => {
            if let Ok(strict) = strict {
                assert_eq!(strict.values, all.values);
            }
            all
        }
        Err(Unreadable::File(_)) => return,
        Err(Unreadable::Lines(problems)) => {
            return problems.iter().for_each(|problem| check_line(&problem.to_string(), false));
        }
    };
    for pair in parts {
        if let Some((name, value)) = String::from_utf8_lossy(pair).split_once('=') {
            all.values.insert(name.to_owned(), value.to_owned());
        }
    }
    all.values.values().for_each(|value| parse(value));
    LazyLock::force(&FILES);
    confine(&mut all.values);

    let open = all.values.iter().any(|(name, value)| is_open(name, value));
    let given = |name: &str| all.values.get(name).filter(|value| !value.is_empty()).cloned();
    let (gateway, login) = (given("PIA_GATEWAY"), given("PIA_LOGIN_URL"));
    match Settings::new(all) {
        Ok(settings) => {
            assert!((1..=840).contains(&settings.interval.as_secs()));
            settings.warnings.iter().for_each(|warning| check_line(warning, open));
            assert_one_line(&settings.client.address());
            if let PortProvider::Pia(pia) = settings.port {
                assert_one_line(&pia.gateway.address());
                assert!(gateway.is_none_or(|it| parse_address(&it).is_ok_and(|(_, port)| port != Some(0))));
                assert!(login.is_none_or(|it| Url::parse(&it).is_ok_and(|url| url.https)));
            }
        }
        Err(error) => {
            error.problems.iter().for_each(|problem| check_line(&problem.to_string(), open));
            error.unknown.iter().for_each(|line| check_line(line, open));
        }
    }
});
