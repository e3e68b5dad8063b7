//! Leases from `getSignature`: parses their payloads and stores a lease so that it survives restarts. The keeper
//! decides when to bind, renew or replace a lease.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jiff::{SignedDuration, Timestamp};
use miniserde::json::{Number, Object, Value, from_str, to_string};
use miniserde::{Deserialize, Serialize};

use crate::error::{Cause, io_message};
use crate::files::{self, Durability};
use crate::json;
use crate::keeper::lease::{Lease, MIN_PORT, checked_port};
use crate::secret::Secret;
use crate::text::one_line;

/// Lifetime assumed for a lease without `expires_at`, counted from its creation: 'about two months', according to PIA.
/// One documented sample has only `created_at`.
const ASSUMED_LIFETIME: SignedDuration = SignedDuration::from_hours(60 * 24);

/// Maximum length of a payload and of a signature, in bytes each; PIA's are a few hundred bytes long. Both must fit
/// into one file of 64 KiB, the limit of `files::read`.
const MAX_LENGTH: usize = 16 * 1024;

/// Reads port and expiry from a payload received at `now`.
pub fn parse(payload: Secret, signature: Secret, now: Timestamp) -> Result<Lease, Cause> {
    for (field, value) in [("payload", &payload), ("signature", &signature)] {
        if value.expose().len() > MAX_LENGTH {
            return Err(Cause::field(field, format!("is longer than {MAX_LENGTH} bytes")));
        }
    }
    let fields = decode(&payload)?;
    // Log only the names, because the values include an access token.
    let names: Vec<_> = fields.keys().map(|name| printable(name)).collect();
    log::debug!("payload fields: {}", names.join(", "));
    let port = port(&fields)?;
    let expires_at = match time(&fields, "expires_at")? {
        Some(expires_at) => expires_at,
        None => time(&fields, "created_at")?.unwrap_or(now).saturating_add(ASSUMED_LIFETIME).unwrap_or(Timestamp::MAX),
    };
    Ok(Lease { payload, signature, port, expires_at })
}

fn decode(payload: &Secret) -> Result<Object, Cause> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
    let bytes = engine.decode(payload.expose().trim()).map_err(|_| Cause::field("payload", "is not base64"))?;
    let text = String::from_utf8(bytes).map_err(|_| Cause::field("payload", "does not decode to UTF-8"))?;
    json::object(&text).ok_or_else(|| Cause::field("payload", "does not decode to a JSON object"))
}

fn port(fields: &Object) -> Result<u16, Cause> {
    match fields.get("port") {
        Some(Value::Number(Number::U64(port))) => checked_port("payload.port", *port),
        Some(Value::Number(other)) => {
            Err(Cause::field("payload.port", format!("is {other}, not between {MIN_PORT} and 65535")))
        }
        Some(_) => Err(Cause::field("payload.port", "is not a number")),
        None => Err(Cause::field("payload.port", "is missing")),
    }
}

fn time(fields: &Object, name: &'static str) -> Result<Option<Timestamp>, Cause> {
    let error = match name {
        "expires_at" => "payload.expires_at",
        _ => "payload.created_at",
    };
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => match text.parse() {
            Ok(time) => Ok(Some(time)),
            Err(_) => Err(Cause::field(error, format!("is not an RFC 3339 time: {}", printable(text)))),
        },
        Some(_) => Err(Cause::field(error, "is not a string")),
    }
}

/// Makes text from a server safe for a log line, and truncates it to 40 characters.
fn printable(text: &str) -> String {
    one_line(text).chars().take(40).collect()
}

/// `STATE_DIR/lease.json`: `{"payload", "signature", "port", "expires_at"}`, mode 0600.
pub struct LeaseStore {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    payload: String,
    signature: String,
    port: u16,
    expires_at: String,
}

impl LeaseStore {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("lease.json") }
    }

    /// Loads the stored lease; `None` if there is no file. An error explains why the file is unusable; the next lease
    /// will replace the file.
    pub fn load(&self) -> Result<Option<Lease>, String> {
        let text = match files::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_message(&error)),
        };
        let stored: Stored = from_str(&text).map_err(|_| "is damaged".to_owned())?;
        let expires_at: Timestamp = stored.expires_at.parse().map_err(|_| "has a damaged expires_at".to_owned())?;
        let (payload, signature) = (Secret::new(stored.payload), Secret::new(stored.signature));
        // The expiry comes from the file, because `parse` would extend a lease whose payload has no expiry.
        let lease = parse(payload, signature, expires_at).map_err(|error| error.to_string())?;
        if lease.port != stored.port {
            return Err("has a port that differs from its payload's".to_owned());
        }
        Ok(Some(Lease { expires_at, ..lease }))
    }

    /// Stores `lease` atomically.
    pub fn save(&self, lease: &Lease) -> std::io::Result<()> {
        let stored = Stored {
            payload: lease.payload.expose().to_owned(),
            signature: lease.signature.expose().to_owned(),
            port: lease.port,
            expires_at: lease.expires_at.to_string(),
        };
        files::write(&self.path, to_string(&stored).as_bytes(), Durability::Durable)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};

    const NOW: &str = "2026-11-23T00:00:00Z";

    fn parse_base64(payload: String) -> Result<Lease, String> {
        super::parse(Secret::new(payload), Secret::new("sig"), NOW.parse().unwrap()).map_err(|e| e.to_string())
    }

    fn parse(inner: &str) -> Result<Lease, String> {
        let padded = parse_base64(BASE64_STANDARD.encode(inner));
        let unpadded = parse_base64(BASE64_STANDARD_NO_PAD.encode(inner));
        assert_eq!(padded.as_ref().map(|l| l.port), unpadded.as_ref().map(|l| l.port));
        padded
    }

    #[test]
    fn the_documented_payload_is_read() {
        let lease =
            parse(r#"{"token":"x","port":47047,"expires_at":"2020-11-24T22:12:07.627551124Z","more":{}}"#).unwrap();
        assert_eq!((lease.port, lease.expires_at.to_string().as_str()), (47047, "2020-11-24T22:12:07.627551124Z"));
    }

    #[test]
    fn fractional_seconds_may_have_any_length() {
        for digits in 0..=9 {
            let fraction = if digits == 0 { String::new() } else { format!(".{}", "1".repeat(digits)) };
            let text = format!(r#"{{"port":4711,"expires_at":"2026-12-01T00:00:00{fraction}Z"}}"#);
            assert_eq!(parse(&text).unwrap().expires_at.as_second(), 1_796_083_200, "{digits}");
        }
    }

    #[test]
    fn without_expiry_a_lease_lasts_two_months_from_creation_or_now() {
        let from = |text: &str| parse(text).unwrap().expires_at.to_string();
        assert_eq!(from(r#"{"port":4711,"created_at":"2026-01-01T00:00:00Z"}"#), "2026-03-02T00:00:00Z");
        assert_eq!(from(r#"{"port":4711}"#), "2027-01-22T00:00:00Z");
        assert_eq!(from(r#"{"port":4711,"expires_at":null}"#), "2027-01-22T00:00:00Z");
    }

    #[test]
    fn bad_payloads_name_the_field() {
        let fails =
            |result: Result<Lease, String>, what: &str| assert_eq!(result.unwrap_err(), format!("bad reply: {what}"));
        fails(parse_base64("***".into()), "payload is not base64");
        fails(parse_base64(BASE64_STANDARD.encode([0xff, 0xfe])), "payload does not decode to UTF-8");
        for inner in ["", "[]", "{", "7", "{\"port\":4711} x"] {
            fails(parse_base64(BASE64_STANDARD.encode(inner)), "payload does not decode to a JSON object");
        }
        for port in ["0", "22", "1023", "65536", "70000", "-1", "1.5"] {
            fails(
                parse(&format!(r#"{{"port":{port}}}"#)),
                &format!("payload.port is {port}, not between 1024 and 65535"),
            );
        }
        fails(parse(r#"{"port":"47047"}"#), "payload.port is not a number");
        fails(parse("{}"), "payload.port is missing");
        fails(parse(r#"{"port":4711,"expires_at":"soon"}"#), "payload.expires_at is not an RFC 3339 time: soon");
        fails(parse(r#"{"port":4711,"expires_at":12}"#), "payload.expires_at is not a string");
        fails(parse(r#"{"port":4711,"created_at":"x"}"#), "payload.created_at is not an RFC 3339 time: x");
    }

    #[test]
    fn ports_from_1024_to_65535_are_accepted() {
        for port in [1024, 65535] {
            assert_eq!(parse(&format!(r#"{{"port":{port}}}"#)).map(|lease| lease.port), Ok(port));
        }
    }

    #[test]
    fn the_longest_lease_can_be_stored_and_a_longer_one_is_refused() {
        let dir = TempDir::new();
        let store = LeaseStore::new(dir.path());
        // JSON ignores trailing white space; base64 turns 3 bytes into 4.
        let payload =
            |spaces: usize| Secret::new(BASE64_STANDARD.encode(format!("{{\"port\":4711}}{}", " ".repeat(spaces))));
        let parse = |payload, length| super::parse(payload, Secret::new("s".repeat(length)), NOW.parse().unwrap());
        let fits = MAX_LENGTH / 4 * 3 - r#"{"port":4711}"#.len();
        let lease = parse(payload(fits), MAX_LENGTH).unwrap();
        store.save(&lease).unwrap();
        assert_eq!(store.load(), Ok(Some(lease)));
        for (payload, length, field) in
            [(payload(fits + 1), MAX_LENGTH, "payload"), (payload(0), MAX_LENGTH + 1, "signature")]
        {
            let refused = parse(payload, length).unwrap_err().to_string();
            assert_eq!(refused, format!("bad reply: {field} is longer than 16384 bytes"));
        }
    }

    #[test]
    fn text_from_a_payload_is_shortened_and_made_printable() {
        let error =
            parse(&format!(r#"{{"port":4711,"expires_at":"in\u001b a \u00fc{}"}}"#, "x".repeat(50))).unwrap_err();
        assert!(error.ends_with(&format!(": in? a ü{}", "x".repeat(33))), "{error}");
    }

    /// A lease without an expiry in its payload, so that only the file records when it expires.
    fn sample() -> Lease {
        parse(r#"{"token":"x","port":47047}"#).unwrap()
    }

    #[test]
    fn a_lease_is_loaded_as_it_was_stored() {
        let dir = TempDir::new();
        let store = LeaseStore::new(dir.path());
        assert_eq!(store.load(), Ok(None));
        store.save(&sample()).unwrap();
        assert_eq!(store.load(), Ok(Some(sample())));
    }

    #[test]
    fn an_unreadable_file_is_an_error() {
        let dir = TempDir::new();
        let store = LeaseStore::new(dir.path());
        std::fs::create_dir(store.path()).unwrap();
        assert_eq!(store.load(), Err("is a directory".to_owned()));
    }

    #[test]
    fn a_file_truncated_at_any_byte_is_refused_and_kept() {
        let dir = TempDir::new();
        let store = LeaseStore::new(dir.path());
        store.save(&sample()).unwrap();
        let whole = std::fs::read(store.path()).unwrap();
        for length in 0..whole.len() {
            std::fs::write(store.path(), &whole[..length]).unwrap();
            assert!(store.load().is_err(), "truncated at {length}");
            assert_eq!(std::fs::read(store.path()).unwrap().len(), length);
        }
        std::fs::write(store.path(), String::from_utf8(whole).unwrap().replace("47047,", "47048,")).unwrap();
        assert_eq!(store.load(), Err("has a port that differs from its payload's".to_owned()));
    }
}
