//! Replies of PIA's servers, copied from public traces.
//!
//! ASSUMPTION: port 19999 sends no line break after its JSON, and the headers `Content-Type`, `Content-Length` and
//! `Date`. No trace shows the headers of a reply.

use std::time::Duration;

use super::Reply;

/// Message of a successful bind of a port that was not bound.
pub const SCHEDULED: &str = "port scheduled for add";
/// Message of a successful bind of a port that was already bound.
pub const REFRESHED: &str = "timer refreshed";

/// A body of port 19999: JSON indented by four spaces.
fn indented<const N: usize>(fields: [(&str, &str); N]) -> String {
    let lines = fields.map(|(name, value)| format!("    \"{name}\": \"{value}\""));
    format!("{{\n{}\n}}", lines.join(",\n"))
}

/// Body of the answer to getSignature.
pub fn lease_body(payload: &str, signature: &str) -> String {
    indented([("status", "OK"), ("payload", payload), ("signature", signature)])
}

/// Body of the answer to bindPort: [`SCHEDULED`] or [`REFRESHED`].
pub fn bind_body(message: &str) -> String {
    indented([("status", "OK"), ("message", message)])
}

/// Body of the website's answer to a login: JSON on one line.
pub fn token_body(token: &str) -> String {
    format!(r#"{{"token":"{token}"}}"#)
}

fn refusal(http_status: u16, status: &str, message: &str) -> Reply {
    Reply::json(http_status, indented([("status", status), ("message", message)]))
}

/// The request did not come through the tunnel.
pub fn unauthorized() -> Reply {
    refusal(401, "ERROR", "Unauthorized client")
}

/// The token is wrong, empty or not encoded.
///
/// ASSUMPTION: 401. All traces show the words without the HTTP status.
pub fn login_failed() -> Reply {
    refusal(401, "ERROR", "Login failed!")
}

/// Payload or signature is empty, cut or altered.
pub fn bad_signature() -> Reply {
    refusal(401, "", "bad signature")
}

/// A different client uses this port.
pub fn busy(port: u16) -> Reply {
    refusal(409, "", &format!("Port {port} is busy. Please use another server"))
}

/// The lease has expired.
///
/// ASSUMPTION: HTTP 400 and `ERROR`. The traces have the words only.
pub fn port_expired() -> Reply {
    refusal(400, "ERROR", "port expired")
}

/// The request has no token, payload or signature. The simulator sends this reply only from a script.
///
/// ASSUMPTION: all of it. No trace has these words.
pub fn no_auth_data() -> Reply {
    refusal(400, "ERROR", "no auth data")
}

/// The user name or the password is wrong.
///
/// ASSUMPTION: 401, and the line break at the end. The traces have the words only.
pub fn access_denied() -> Reply {
    Reply::text(401, "HTTP Token: Access denied.\n")
}

/// The account is locked out; `wait` becomes `Retry-After`.
///
/// ASSUMPTION: HTTP status, order of the fields, and `Retry-After`. The traces have the words only.
pub fn too_many_attempts(status: u16, wait: Option<Duration>) -> Reply {
    let body = r#"{"status":"error","code":"too_many_attempts","message":"Try again later."}"#;
    let reply = Reply::json(status, body);
    match wait {
        Some(wait) => reply.header("Retry-After", wait.as_secs().to_string()),
        None => reply,
    }
}
