//! A server's reply: any bytes are one response or one error within the limits, the same for pieces of any size.
#![no_main]

use std::io::{self, Read};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use pia_qbittorrent_sync_fuzz::assert_one_line;
use pia_qbittorrent_sync_fuzz::http::Deadline;
use pia_qbittorrent_sync_fuzz::http::wire::read_response;

/// Bytes; the limit of the reader.
const MAX_BODY: usize = 256 * 1024;
/// Bytes; above every limit of the reader.
const MAX_STREAM: usize = 512 * 1024;
/// Bytes of head that are parsed for one input, as every piece that arrives causes another parse from the start.
const MAX_PARSED: usize = 256 * 1024;
/// Bytes; less than the reader's buffer, so that a large stream arrives in different pieces, too.
const LARGE_STEP: usize = 1500;

/// Delivers its bytes in pieces of `step`.
struct Drip<'a> {
    rest: &'a [u8],
    step: usize,
}

impl Read for Drip<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let length = self.step.min(self.rest.len()).min(buf.len());
        let (piece, rest) = self.rest.split_at(length);
        buf[..length].copy_from_slice(piece);
        self.rest = rest;
        Ok(length)
    }
}

/// Body, head, and whether the connection can be reused; or the error.
type Outcome = Result<(Vec<u8>, String, bool), String>;

fn read(stream: &[u8], step: usize) -> Outcome {
    let mut drip = Drip { rest: stream, step };
    match read_response(&mut drip, Deadline::after(Duration::from_secs(60))) {
        Ok((mut response, reusable)) => {
            assert!(response.body.len() <= MAX_BODY);
            assert_one_line(&response.unexpected().to_string());
            let body = std::mem::take(&mut response.body);
            // The reader cannot know about bytes after the response that have not arrived yet.
            Ok((body, format!("{response:?}"), reusable && drip.rest.is_empty()))
        }
        Err(cause) => {
            assert_one_line(&cause.to_string());
            Err(format!("{cause:?}"))
        }
    }
}

/// 0xFF and a count repeat the byte before them 64 times the count, so that small inputs can exceed the limits.
fn expand(script: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut bytes = script.iter();
    while let Some(&byte) = bytes.next() {
        match (byte, stream.last()) {
            (0xff, Some(&last)) => {
                let count = 64 * usize::from(bytes.next().copied().unwrap_or_default());
                stream.resize((stream.len() + count).min(MAX_STREAM), last);
            }
            _ => stream.push(byte),
        }
    }
    stream
}

fuzz_target!(|input: &[u8]| {
    let Some((&step, script)) = input.split_first() else { return };
    let stream = expand(script);
    let cheap = (stream.len().pow(2) / 2 / MAX_PARSED).clamp(1, LARGE_STEP);
    let step = cheap.max(step.into());
    assert_eq!(read(&stream, usize::MAX), read(&stream, step), "in pieces of {step}");
});
