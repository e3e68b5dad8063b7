//! Addresses and URLs as users write them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;

use rustls::pki_types::ServerName;

/// An http or https URL without user name, query or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    pub https: bool,
    /// Name or address; IPv6 without brackets.
    pub host: String,
    pub port: u16,
    /// Starts with `/`.
    pub path: String,
}

impl Url {
    /// Assumes http if there is no scheme. The error is a message for the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (https, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some(_) => return Err("has a scheme that is neither http nor https".to_owned()),
            None => (false, text),
        };
        if rest.contains(['?', '#']) {
            return Err("has a query or a fragment".to_owned());
        }
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        if authority.contains('@') {
            return Err("contains a user name".to_owned());
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("has a path with characters that must be percent-encoded".to_owned());
        }
        let (host, port) = parse_address(authority)?;
        let port = port.unwrap_or(if https { 443 } else { 80 });
        Ok(Self { https, host, port, path: path.to_owned() })
    }

    /// Warning if `secret`, sent to this URL, crosses a network unencrypted; `remedy` is what to do about it.
    pub fn exposure(&self, secret: &str, remedy: &str) -> Option<String> {
        let host = &self.host;
        let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let warning =
            || format!("{secret} is sent to {host} unencrypted; {remedy} unless you trust the network in between");
        (!self.https && !is_local).then(warning)
    }

    /// Host header without a port.
    pub fn bare_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// Host header with the port, which is left out if it is the scheme's default.
    pub fn host_header(&self) -> String {
        let own = if self.https { 443 } else { 80 };
        if self.port == own { self.bare_host() } else { format!("{}:{}", self.bare_host(), self.port) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.host_header(), self.path.trim_end_matches('/'))
    }
}

/// Strips scheme and path from `text`, for users who give a URL instead of an address or a name.
pub fn bare(text: &str) -> &str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Parses `HOST[:PORT]`; the host is a name, an IPv4 address, or an IPv6 address with or without brackets. The error is a message
/// for the user.
pub fn parse_address(text: &str) -> Result<(String, Option<u16>), String> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text.to_owned(), None));
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("has no closing bracket")?;
        host.parse::<Ipv6Addr>().map_err(|_| "has no IPv6 address in the brackets")?;
        match rest.strip_prefix(':') {
            None if !rest.is_empty() => return Err("has no colon after the bracket".to_owned()),
            port => (host, port),
        }
    } else {
        text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
    };
    if host.is_empty() {
        return Err("has no host".to_owned());
    }
    if ServerName::try_from(host).is_err() {
        return Err("has a host that is neither an address nor a name".to_owned());
    }
    let port = port.map(str::parse::<NonZeroU16>).transpose();
    // The port is not shown, because in user:password@host this part is the password.
    let port = port.map_err(|_| "has a port that is not between 1 and 65535")?;
    Ok((host.to_owned(), port.map(NonZeroU16::get)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = |text| Url::parse(text).map(|u| (u.https, u.host, u.port, u.path));
        assert_eq!(url("localhost"), Ok((false, "localhost".into(), 80, "/".into())));
        assert_eq!(url("HTTPS://nas.lan/qbt/"), Ok((true, "nas.lan".into(), 443, "/qbt/".into())));
        assert_eq!(url("http://[::1]:8080"), Ok((false, "::1".into(), 8080, "/".into())));
        for bad in ["", "http://", "http://u:p@h", "http://h/?x", "http://h/#x", "http://h/a b", "http://h:0", "x://h"]
        {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
        let text_of = |text: &str| Url::parse(text).unwrap().to_string();
        assert_eq!(text_of("[::1]:8080/x/"), "http://[::1]:8080/x");
        assert_eq!(text_of("https://h:443"), "https://h");
        assert_eq!(Url::parse("[::1]:8080").unwrap().bare_host(), "[::1]");
    }
}
