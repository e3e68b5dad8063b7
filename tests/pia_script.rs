//! Tests of the simulator of PIA: it completes the requests of PIA's own script, and its certificates and replies have
//! the form of PIA's. `cargo test --test pia_script`; a row whose requirements this machine lacks counts as ignored.

mod support;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use libtest_mimic::Arguments;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use support::TempDir;
use support::pia::{self, Options, Pia};
use support::rows::{Row, missing};

/// Port of PIA's API. No namespace is needed, because the simulator has its own loopback address.
const API: u16 = 19999;
/// Longest time between getSignature and the check of its lease.
const SLACK: SignedDuration = SignedDuration::from_mins(5);
/// Algorithm sha512WithRSAEncryption in DER.
const SHA512_WITH_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d];
/// Extension keyUsage in DER.
const KEY_USAGE: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x0f];
/// Extension basicConstraints with `cA`, not critical, in DER.
const UNCRITICAL_CA: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x13, 0x04, 0x05, 0x30, 0x03, 0x01, 0x01, 0xff];

fn main() {
    let arguments = Arguments::from_args();
    let rows = vec![
        Row::new("the script runs to its end", runs_to_its_end),
        Row::new("a port is scheduled again after its binding is lost", is_scheduled_after_a_loss),
        Row::new("a refusal names its reason", refuses),
        Row::new("tokens, signatures and payloads have PIA's form", has_the_form),
        Row::new("port 19999 chooses its certificate by SNI", chooses_certificate_by_sni),
        Row::isolated("the certificate of port 443 of a new-style server has no subjectAltName", has_no_name_on_443),
        Row::new("HTTP/2 is offered, and its use is a complaint", offers_http2),
    ];
    libtest_mimic::run(&arguments, rows.into_iter().map(Row::into_trial).collect()).exit();
}

fn start() -> Pia {
    Pia::with(Options { gateway_port: API, ..Options::default() })
}

fn require(program: &str) {
    if Command::new(program).arg("--version").output().is_err() {
        missing(program);
    }
}

/// Runs the script; `option` is the option of curl that adds the token.
fn script(pia: &Pia, token: &str, option: &str) -> Output {
    require("curl");
    let dir = TempDir::new();
    let ca = dir.write("ca.pem", pia.ca_pem());
    let mut script = Command::new("sh");
    script.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/port_forwarding.sh"));
    script.args([pia.host_name(), &pia.gateway().ip().to_string()]).arg(ca);
    script.env("PIA_TOKEN", token).env("TOKEN_OPTION", option).output().expect("sh")
}

fn lines(output: &Output) -> Vec<String> {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn run(pia: &Pia) -> Vec<String> {
    let output = script(pia, &pia.make_token(), "--data-urlencode");
    let lines = lines(&output);
    assert!(output.status.success(), "{lines:#?}");
    lines
}

/// The two replies to bindPort.
fn binds(pia: &Pia) -> Vec<String> {
    run(pia).iter().filter_map(|line| Some(line.strip_prefix("bindPort: ")?.to_owned())).collect()
}

fn runs_to_its_end() {
    let pia = start();
    let lines = run(&pia);
    let (last, others) = lines.split_last().expect("lines");
    println!("its last line: {last}");
    let expected = [
        "getSignature: port 47047",
        "de-frankfurt.privacy.network: refused",
        "bindPort: port scheduled for add",
        "bindPort: timer refreshed",
    ];
    assert_eq!(others, expected);
    let expires_at = last.strip_prefix("port 47047 is bound; its lease ends at ").expect(last);
    assert_eq!(expires_at.len(), "2020-11-24T22:12:07.627551124Z".len(), "{expires_at}");
    let left = expires_at.parse::<Timestamp>().expect(expires_at).duration_since(Timestamp::now());
    assert!(left < pia::LEASE && left > pia::LEASE - SLACK, "{left}");
    assert!(pia.is_open(47047) && !pia.is_open(47048));
    assert_eq!(pia.complaints(), [""; 0]);
}

fn is_scheduled_after_a_loss() {
    let pia = start();
    assert_eq!(binds(&pia), [pia::SCHEDULED, pia::REFRESHED]);
    // A new lease of the same port.
    assert_eq!(binds(&pia), [pia::REFRESHED; 2]);
    pia.restart();
    assert!(!pia.is_open(47047));
    assert_eq!(binds(&pia), [pia::SCHEDULED, pia::REFRESHED]);
    pia.set(|state| state.binding_life = Duration::ZERO);
    assert!(!pia.is_open(47047));
    assert_eq!(binds(&pia), [pia::SCHEDULED; 2]);
}

fn refuses() {
    let pia = start();
    let token = pia.make_token();
    let refused_with = |token: &str, option: &str, words: &str| {
        let output = script(&pia, token, option);
        assert_eq!((output.status.code(), lines(&output)), (Some(1), vec![format!("getSignature: {words}")]));
    };
    refused_with("", "--data-urlencode", "Login failed!");
    refused_with("null", "--data-urlencode", "Login failed!");
    // The server decodes `+` as a space.
    refused_with(&token, "--data", "Login failed!");
    pia.set(|state| state.outside_tunnel = true);
    refused_with(&token, "--data-urlencode", "Unauthorized client");
}

fn has_the_form() {
    let pia = Pia::start();
    let token = pia.make_token();
    assert_eq!(token.len(), 124);
    assert!(token.ends_with('=') && ['+', '/', '_'].iter().all(|&c| token.contains(c)), "{token}");
    let body = pia.set(|state| state.grant(&token));
    let (payload, signature) = pia.last_secrets().expect("a lease");
    assert_eq!((payload.len(), signature.len()), (260, 88));
    assert!(!payload.ends_with('=') && signature.ends_with("=="), "{payload} {signature}");
    let expected =
        format!("{{\n    \"status\": \"OK\",\n    \"payload\": \"{payload}\",\n    \"signature\": \"{signature}\"\n}}");
    assert_eq!(body, expected);
}

/// Performs a handshake with a client that trusts `ca`, expects `name` and offers `alpn`; returns the server's chain.
fn handshake(
    at: SocketAddr,
    ca: &str,
    name: &str,
    alpn: &[&[u8]],
) -> Result<Vec<CertificateDer<'static>>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate(ca)).expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut tcp = TcpStream::connect(at).expect("a connection");
    tcp.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp).map_err(rustls_error)?;
    }
    let chosen = connection.alpn_protocol();
    assert_eq!(chosen, alpn.first().copied(), "the first protocol wins");
    Ok(connection.peer_certificates().unwrap_or_default().iter().map(|der| der.clone().into_owned()).collect())
}

fn rustls_error(error: io::Error) -> rustls::Error {
    *error.into_inner().and_then(|inner| inner.downcast().ok()).expect("a TLS error")
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")
}

fn contains(certificate: &CertificateDer, piece: &[u8]) -> bool {
    certificate.windows(piece.len()).any(|window| window == piece)
}

fn chooses_certificate_by_sni() {
    let pia = Pia::start();
    let region = "de-frankfurt.privacy.network";
    let chain = handshake(pia.gateway(), pia.ca_pem(), pia.host_name(), &[]).expect("PIA's own");
    assert_eq!(chain.len(), 1);
    assert!(contains(&chain[0], SHA512_WITH_RSA) && contains(&chain[0], KEY_USAGE));
    // Some users write the name in lower case.
    handshake(pia.gateway(), pia.ca_pem(), &pia.host_name().to_lowercase(), &[]).expect("PIA's own");
    let refused = handshake(pia.gateway(), pia.ca_pem(), region, &[]).unwrap_err();
    assert_eq!(refused, rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
    handshake(pia.gateway(), pia.login_ca_pem(), region, &[]).expect("the public authority's");
    // An address is never sent as SNI, so the server's own certificate arrives, which contains no address.
    let refused = handshake(pia.gateway(), pia.ca_pem(), &pia.gateway().ip().to_string(), &[]).unwrap_err();
    assert!(refused.to_string().contains(pia.host_name()), "{refused}");

    let root = certificate(pia.ca_pem());
    assert!(contains(&root, SHA512_WITH_RSA) && contains(&root, UNCRITICAL_CA) && !contains(&root, KEY_USAGE));
}

fn has_no_name_on_443() {
    let name = "Server-11555-2a";
    let address = Ipv4Addr::LOCALHOST.into();
    let pia = Pia::with(Options { address, tunnel_login: true, host_name: name.into(), ..Options::default() });
    handshake(pia.gateway(), pia.ca_pem(), name, &[]).expect("19999 has a name");
    let refused = handshake((address, 443).into(), pia.ca_pem(), name, &[]).unwrap_err();
    let rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) = &refused else {
        panic!("{refused}");
    };
    assert_eq!(presented, &[""; 0]);
}

fn offers_http2() {
    let pia = Pia::start();
    handshake(pia.gateway(), pia.ca_pem(), pia.host_name(), &[b"http/1.1"]).expect("HTTP/1.1");
    assert_eq!(pia.complaints(), [""; 0]);
    handshake(pia.gateway(), pia.ca_pem(), pia.host_name(), &[b"h2", b"http/1.1"]).expect("HTTP/2");
    let complained = || pia.complaints().iter().any(|complaint| complaint.contains("HTTP/2"));
    assert!(support::wait_until(Duration::from_secs(20), complained), "{:?}", pia.complaints());
}
