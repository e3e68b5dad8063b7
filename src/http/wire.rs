//! HTTP/1.1 over any stream: writes requests, reads responses, and limits how much a server can send.
//!
//! If a response declares no length, its body ends with the stream.

use std::io::{self, Read, Write};

use httparse::{Header, Status};

use super::{Content, Deadline, Request, Response, encode_fields};
use crate::error::{Cause, Phase};

/// Maximum size of status line and headers in bytes.
const MAX_HEAD: usize = 32 * 1024;
const MAX_HEADERS: usize = 128;
/// Maximum size of a body in bytes. The largest that we expect, qBittorrent's preferences, has some 20 KiB.
const MAX_BODY: usize = 256 * 1024;
/// Maximum length in bytes of a line that gives a chunk's size, or of a trailer line.
const MAX_LINE: usize = 1024;
/// Maximum number of interim (1xx) responses before the final one.
const MAX_INTERIM: usize = 4;
/// Bytes per read; qBittorrent's preferences take two reads.
const READ_SIZE: usize = 16 * 1024;

/// Writes `request` in a single call, so that head and body leave in one TCP segment.
pub fn write_request(stream: &mut impl Write, host: &str, request: &Request) -> io::Result<()> {
    let (query, body) = match request.content {
        Content::Query([]) => (String::new(), None),
        Content::Query(fields) => (format!("?{}", encode_fields(fields)), None),
        Content::Form(fields) => (String::new(), Some(("application/x-www-form-urlencoded", encode_fields(fields)))),
        Content::Json(text) => (String::new(), Some(("application/json", text.to_owned()))),
    };
    let mut lines = vec![
        format!("{} {}{query} HTTP/1.1", request.content.method(), request.path),
        format!("Host: {host}"),
        concat!("User-Agent: ", env!("CARGO_PKG_NAME")).to_owned(),
        "Accept: */*".to_owned(),
    ];
    lines.extend(request.headers.iter().map(|(name, value)| format!("{name}: {value}")));
    if let Some((kind, body)) = &body {
        lines.push(format!("Content-Type: {kind}"));
        lines.push(format!("Content-Length: {}", body.len()));
    }
    let body = body.map_or(String::new(), |(_, body)| body);
    let text = format!("{}\r\n\r\n{body}", lines.join("\r\n"));
    stream.write_all(text.as_bytes())?;
    stream.flush()
}

/// Reads one response; the flag is true if the connection can be reused.
pub fn read_response(stream: &mut impl Read, deadline: Deadline) -> Result<(Response, bool), Cause> {
    let mut reader = Reader { stream, deadline, buffer: Vec::new() };
    for _ in 0..=MAX_INTERIM {
        let (mut response, minor_version) = reader.head()?;
        if (100..200).contains(&response.status) {
            continue;
        }
        let framed = reader.body(&mut response)?;
        let keeps_alive = !has_token(&response, "connection", "close")
            && (minor_version == 1 || has_token(&response, "connection", "keep-alive"));
        return Ok((response, framed && keeps_alive && reader.buffer.is_empty()));
    }
    Err(Cause::NotHttp)
}

fn has_token(response: &Response, header: &str, token: &str) -> bool {
    response.header(header).flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

fn content_length(response: &Response) -> Result<Option<usize>, Cause> {
    let bad = |problem: &str| Cause::field("Content-Length", problem);
    let mut length = None;
    for value in response.header("content-length") {
        if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad("is not a number"));
        }
        // A number too large for `usize` exceeds the limit anyway.
        let value = value.parse().unwrap_or(usize::MAX);
        if length.replace(value).is_some_and(|other| other != value) {
            return Err(bad("appears twice with different values"));
        }
    }
    Ok(length)
}

struct Reader<'a, R: Read> {
    stream: &'a mut R,
    deadline: Deadline,
    /// Bytes read but not yet consumed.
    buffer: Vec<u8>,
}

impl<R: Read> Reader<'_, R> {
    /// Reads more bytes, or none if a signal interrupts the read; false at the end of the stream.
    fn fill(&mut self, phase: Phase) -> Result<bool, Cause> {
        let start = self.buffer.len();
        self.buffer.resize(start + READ_SIZE, 0);
        let result = self.stream.read(&mut self.buffer[start..]);
        self.buffer.truncate(start + result.as_ref().map_or(0, |&read| read));
        match result {
            Ok(read) => Ok(read > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
            // TLS servers often close without close_notify; the caller checks whether the response is complete.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(super::dial::classify(error, phase, self.deadline)),
        }
    }

    /// Reads more bytes; the end of the stream is an error.
    fn fill_or_fail(&mut self, phase: Phase) -> Result<(), Cause> {
        if self.fill(phase)? { Ok(()) } else { Err(Cause::Closed(phase)) }
    }

    /// Reads the head; returns the response, still without its body, and the minor version of HTTP/1.
    fn head(&mut self) -> Result<(Response, u8), Cause> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut parsed = httparse::Response::new(&mut headers);
            // Parse nothing beyond the limit: how many bytes a single read happens to return must not affect the result.
            match parsed.parse(&self.buffer[..self.buffer.len().min(MAX_HEAD)]) {
                Ok(Status::Complete(length)) => {
                    let owned = |h: &Header| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned());
                    let headers = parsed.headers.iter().map(owned).collect();
                    let status = parsed.code.unwrap_or_default();
                    let minor_version = parsed.version.unwrap_or_default();
                    self.buffer.drain(..length);
                    return Ok((Response { status, headers, body: Vec::new(), hidden: Vec::new() }, minor_version));
                }
                Ok(Status::Partial) if self.buffer.len() < MAX_HEAD => self.fill_or_fail(Phase::Head)?,
                Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                    return Err(Cause::TooLarge { what: "head", limit: MAX_HEAD });
                }
                Err(_) => return Err(Cause::NotHttp),
            }
        }
    }

    /// Reads the body; false if the body was ended only by the end of the stream.
    fn body(&mut self, response: &mut Response) -> Result<bool, Cause> {
        if response.status == 204 || response.status == 304 {
            return Ok(true);
        }
        if has_token(response, "transfer-encoding", "chunked") {
            response.body = self.chunked()?;
            return Ok(true);
        }
        if let Some(length) = content_length(response)? {
            self.take(length, &mut response.body)?;
            return Ok(true);
        }
        while self.buffer.len() <= MAX_BODY && self.fill(Phase::Body)? {}
        if self.buffer.len() > MAX_BODY {
            return Err(Cause::TooLarge { what: "body", limit: MAX_BODY });
        }
        response.body = std::mem::take(&mut self.buffer);
        Ok(false)
    }

    /// Moves `length` bytes to the end of `body`.
    fn take(&mut self, length: usize, body: &mut Vec<u8>) -> Result<(), Cause> {
        if length > MAX_BODY - body.len() {
            return Err(Cause::TooLarge { what: "body", limit: MAX_BODY });
        }
        while self.buffer.len() < length {
            self.fill_or_fail(Phase::Body)?;
        }
        body.extend(self.buffer.drain(..length));
        Ok(())
    }

    fn chunked(&mut self) -> Result<Vec<u8>, Cause> {
        let bad = || Cause::field("chunk", "is malformed");
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let Ok(Status::Complete((_, size))) = httparse::parse_chunk_size(&line) else {
                return Err(bad());
            };
            if size == 0 {
                break;
            }
            self.take(usize::try_from(size).unwrap_or(usize::MAX), &mut body)?;
            if self.line()? != b"\r\n" {
                return Err(bad());
            }
        }
        for _ in 0..MAX_HEADERS {
            if self.line()? == b"\r\n" {
                return Ok(body);
            }
        }
        Err(bad())
    }

    /// Reads one line, including its line break.
    fn line(&mut self) -> Result<Vec<u8>, Cause> {
        loop {
            let start = &self.buffer[..self.buffer.len().min(MAX_LINE)];
            if let Some(end) = start.iter().position(|&byte| byte == b'\n') {
                return Ok(self.buffer.drain(..=end).collect());
            }
            if self.buffer.len() >= MAX_LINE {
                return Err(Cause::field("chunk", "has an overlong line"));
            }
            self.fill_or_fail(Phase::Body)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use std::time::Duration;

    /// Returns at most a given number of bytes per read, to test every boundary.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.1.min(self.0.len()).min(buf.len());
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    /// Fails once, then ends.
    struct Fault(Option<io::ErrorKind>);

    impl Read for Fault {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0.take().map_or(Ok(0), |kind| Err(kind.into()))
        }
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(5))
    }

    fn read(text: &[u8]) -> Result<(u16, String, bool), String> {
        let read_by = |step| {
            read_response(&mut Drip(text, step), soon())
                .map(|(r, reusable)| (r.status, r.text().into_owned(), reusable))
                .map_err(|e| e.to_string())
        };
        let whole = read_by(usize::MAX);
        if text.len() < 2000 {
            assert_eq!(whole, read_by(1), "the result must not change if bytes arrive one by one");
        }
        whole
    }

    #[allow(clippy::unnecessary_wraps, reason = "compared with other results")]
    fn ok(status: u16, body: &str, reusable: bool) -> Result<(u16, String, bool), String> {
        Ok((status, body.to_owned(), reusable))
    }

    #[test]
    fn bodies_by_length_chunks_and_end() {
        assert_eq!(read(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nOk."), ok(200, "Ok.", true));
        assert_eq!(read(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nOk."), ok(200, "Ok.", false));
        assert_eq!(read(b"HTTP/1.1 200 OK\r\n\r\nall of it"), ok(200, "all of it", false));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n";
        assert_eq!(read(chunked), ok(200, "abcde", true));
    }

    #[test]
    fn empty_reason_phrases_and_empty_bodies() {
        assert_eq!(read(b"HTTP/1.1 204 \r\nset-cookie: a=b\r\n\r\n"), ok(204, "", true));
        assert_eq!(read(b"HTTP/1.1 204\r\n\r\n"), ok(204, "", true));
        assert_eq!(read(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), ok(200, "", true));
    }

    #[test]
    fn interim_responses_are_skipped_a_few_times() {
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        let last = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(read(format!("{interim}{last}").as_bytes()), ok(200, "x", true));
        assert_eq!(read(format!("{}{last}", interim.repeat(9)).as_bytes()), Err(Cause::NotHttp.to_string()));
    }

    #[test]
    fn close_and_leftovers_end_the_connection() {
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n"), ok(200, "", false));
        let leftover = read_response(&mut &b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1"[..], soon());
        assert!(!leftover.unwrap().1);
    }

    #[test]
    fn truncated_replies_are_errors() {
        assert!(read(b"").unwrap_err().contains("waiting for the reply"));
        assert!(read(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap_err().contains("waiting for the reply"));
        assert!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc").unwrap_err().contains("reading the reply"));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(read(format!("{chunked}5\r\nabc").as_bytes()).unwrap_err().contains("reading the reply"));
        assert!(read(format!("{chunked}3\r\nabc\r\n0\r\n").as_bytes()).unwrap_err().contains("reading the reply"));
    }

    #[test]
    fn a_stream_error_matters_only_if_something_is_missing() {
        let after = |text: &[u8], fault| {
            read_response(&mut text.chain(Fault(Some(fault))), soon()).map(|(response, _)| response.text().into_owned())
        };
        let unmarked = b"HTTP/1.1 200 OK\r\n\r\nall of it";
        assert_eq!(after(unmarked, io::ErrorKind::UnexpectedEof).unwrap(), "all of it");
        assert_eq!(after(unmarked, io::ErrorKind::Interrupted).unwrap(), "all of it");
        let reset = after(unmarked, io::ErrorKind::ConnectionReset);
        assert!(matches!(reset, Err(Cause::Broken { phase: Phase::Body, .. })), "{reset:?}");
        let late = after(b"HTTP", io::ErrorKind::TimedOut);
        assert!(matches!(late, Err(Cause::Timeout { phase: Phase::Head, .. })), "{late:?}");
    }

    #[test]
    fn errors_name_the_nonsense_received() {
        assert_eq!(read(b"\x15\x03\x03\x00\x02\x02\x32").unwrap_err(), Cause::NotHttp.to_string());
        assert_eq!(read(b"SSH-2.0-x\r\n\r\n").unwrap_err(), Cause::NotHttp.to_string());
        let length = |value: &str| read(format!("HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\nx").as_bytes());
        for bad in ["-1", "1x", "", "+1"] {
            assert!(length(bad).unwrap_err().contains("Content-Length is not a number"), "{bad}");
        }
        assert!(length("1\r\nContent-Length: 2").unwrap_err().contains("twice"));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for bad in ["zz\r\n", "2\r\nabc\r\n0\r\n\r\n", "-1\r\n"] {
            assert!(read(format!("{chunked}{bad}").as_bytes()).unwrap_err().contains("chunk is malformed"), "{bad}");
        }
    }

    #[test]
    fn nothing_grows_without_bound() {
        let mut endless = (&b"HTTP/1.1 200 OK\r\n\r\n"[..]).chain(io::repeat(b'x'));
        let deadline = Deadline::after(Duration::from_secs(60));
        assert!(matches!(read_response(&mut endless, deadline), Err(Cause::TooLarge { what: "body", .. })));
        let mut endless = (&b"HTTP/1.1 200 OK\r\nX: "[..]).chain(io::repeat(b'x'));
        assert!(matches!(read_response(&mut endless, deadline), Err(Cause::TooLarge { what: "head", .. })));
        let mut endless = (&b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"[..]).chain(io::repeat(b'1'));
        assert!(read_response(&mut endless, deadline).is_err());
        for length in ["262145", "99999999999999999999999999"] {
            let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            assert!(read(text.as_bytes()).unwrap_err().contains("larger than 262144"), "{length}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        assert!(read(many.as_bytes()).unwrap_err().contains("head"));
    }

    #[test]
    fn limits_do_not_depend_on_the_pieces_that_arrive() {
        let long = "x".repeat(MAX_LINE);
        let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;{long}\r\na\r\n0\r\n\r\n");
        assert!(read(chunked.as_bytes()).unwrap_err().contains("overlong line"));
        let long = "x".repeat(MAX_HEAD);
        let text = format!("HTTP/1.1 200 OK\r\nX: {long}\r\nContent-Length: 0\r\n\r\n");
        assert!(read(text.as_bytes()).unwrap_err().contains("head"));
    }

    #[test]
    fn a_head_may_have_up_to_32_kib() {
        let head = |length: usize| read(format!("{:x<1$}\r\n\r\n", "HTTP/1.1 204\r\nX: ", length - 4).as_bytes());
        assert_eq!(head(32 * 1024), ok(204, "", true));
        assert_eq!(head(32 * 1024 + 1).unwrap_err(), "the head of the reply is larger than 32768 bytes");
    }

    #[test]
    fn a_body_may_have_up_to_256_kib_however_it_is_framed() {
        let half = "x".repeat(128 * 1024);
        let length = |header: &str, body: &str| {
            read(format!("HTTP/1.1 200 OK\r\n{header}\r\n{body}").as_bytes()).map(|(_, body, _)| body.len())
        };
        assert_eq!(length("", &half.repeat(2)), Ok(262_144));
        assert_eq!(length("Content-Length: 262144\r\n", &half.repeat(2)), Ok(262_144));
        let chunked = |further: &str| {
            let chunks = format!("20000\r\n{half}\r\n").repeat(2);
            length("Transfer-Encoding: chunked\r\n", &format!("{chunks}{further}0\r\n\r\n"))
        };
        assert_eq!(chunked(""), Ok(262_144));
        assert_eq!(chunked("1\r\nx\r\n").unwrap_err(), "the body of the reply is larger than 262144 bytes");
    }

    #[test]
    fn a_chunk_size_line_may_have_up_to_1_kib() {
        let line = format!("{:1$}\r\n", "1;", 1024 - 2);
        let reply = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{line}x\r\n0\r\n\r\n");
        assert_eq!(read(reply.as_bytes()), ok(200, "x", true));
    }

    #[test]
    fn requests_are_one_piece_with_an_exact_length() {
        let mut sent = Vec::new();
        let secret = Secret::new("ü&");
        let fields = [("password", secret.expose())];
        let request = Request {
            headers: &[("Cookie", "SID=x")],
            secrets: &[&secret],
            ..Request::new("/api/v2/auth/login", Content::Form(&fields))
        };
        write_request(&mut sent, "localhost", &request).unwrap();
        let sent = String::from_utf8(sent).unwrap();
        assert!(sent.starts_with("POST /api/v2/auth/login HTTP/1.1\r\nHost: localhost\r\n"), "{sent}");
        assert!(sent.ends_with("Content-Length: 18\r\n\r\npassword=%C3%BC%26"), "{sent}");
        assert!(!sent.contains("Origin") && !sent.contains("Referer"));
        for (fields, line) in [(&[][..], "GET /p HTTP/1.1\r\n"), (&[("a", "b")], "GET /p?a=b HTTP/1.1\r\n")] {
            let mut sent = Vec::new();
            write_request(&mut sent, "h", &Request { content: Content::Query(fields), ..Request::get("/p") }).unwrap();
            assert!(sent.starts_with(line.as_bytes()), "{line}");
        }
    }
}
