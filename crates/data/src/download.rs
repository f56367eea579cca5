//! Downloads that resume after an interruption.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::ProgressBar;

use crate::bars::style;
use crate::checksum::Sum;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a server.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Greatest number of attempts in a row at a download that breaks off; each must have brought some bytes.
const MOST_TRIES: usize = 10;

const WHOLE: u16 = 200;
const PART: u16 = 206;
const NOTHING_LEFT: u16 = 416;

/// Downloads `url` to `part`, at most `most` bytes, and verifies it. Bytes already in `part` are not requested again.
/// If the download breaks off, `part` stays for the next time; if its checksum is wrong, it is removed.
///
/// # Errors
///
/// The server cannot be reached or does not give the file; or the response is too long, has another checksum, or
/// cannot be written. The reason is phrased as a part of a sentence.
pub(crate) fn get(url: &str, part: &Path, sum: Sum, most: u64) -> Result<(), String> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(READ_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        // The checksum is that of the file itself, not of a transfer encoding of it.
        .accept_encoding("identity")
        .http_status_as_error(false)
        .build()
        .into();
    let mut before = length(part);
    for tried in 1.. {
        match attempt(&agent, url, part, most) {
            Ok(()) => break,
            Err(reason) if tried >= MOST_TRIES || length(part) <= before => return Err(reason),
            Err(_) => before = length(part),
        }
    }
    sum.verify(part).map_err(|error| {
        // Resuming from wrong bytes leads nowhere; if they cannot be removed, the next attempt reports it, too.
        let _ = fs::remove_file(part);
        error.to_string()
    })
}

fn length(part: &Path) -> u64 {
    fs::metadata(part).map_or(0, |metadata| metadata.len())
}

/// Requests the missing bytes and appends them.
fn attempt(agent: &ureq::Agent, url: &str, part: &Path, most: u64) -> Result<(), String> {
    let have = length(part);
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let response = request.call().map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let length = response.body().content_length();
    let (begin, total) = match (status, range(&response)) {
        (WHOLE, _) => (0, length),
        (PART, Some((first, total))) if first == have => (have, total.or(length.map(|rest| have + rest))),
        (NOTHING_LEFT, _) if have > 0 => return Ok(()),
        _ => return Err(format!("the server answered with status {status}")),
    };
    let cannot_write = |error: io::Error| format!("cannot write {}: {error}", part.display());
    let mut file = File::options().create(true).append(true).open(part).map_err(cannot_write)?;
    if begin == 0 {
        // This server starts from the first byte.
        file.set_len(0).map_err(cannot_write)?;
    }
    let bar = ProgressBar::new(total.unwrap_or(0)).with_position(begin);
    bar.set_style(style("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}"));
    let mut source = bar.wrap_read(response.into_body().into_reader());
    let mut buffer = vec![0; 1 << 16];
    let mut done = begin;
    let broke_off =
        |done: u64, why: &str| format!("the download broke off after {done} bytes{why}: try again to go on");
    loop {
        let read = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broke_off(done, &format!(" ({error})"))),
        };
        done += read as u64;
        if done > most {
            return Err(format!("it is longer than {most} bytes"));
        }
        file.write_all(&buffer[..read]).map_err(cannot_write)?;
    }
    bar.finish_and_clear();
    match total.filter(|&total| done < total) {
        Some(_) => Err(broke_off(done, "")),
        None => Ok(()),
    }
}

/// The range of a partial response, `bytes FIRST-LAST/TOTAL`: its first byte, and the total length if given.
fn range(response: &ureq::http::Response<ureq::Body>) -> Option<(u64, Option<u64>)> {
    let range = response.headers().get("Content-Range")?.to_str().ok()?.strip_prefix("bytes ")?;
    let (first, rest) = range.split_once('-')?;
    Some((first.parse().ok()?, rest.split_once('/').and_then(|(_, total)| total.parse().ok())))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    const ABC: Sum = Sum::Sha1("a9993e364706816aba3e25717850c26c9cd0d89d");

    /// Answers each connection by `answer`, which is given the first byte requested; returns the address.
    fn serve(connections: usize, answer: impl Fn(usize, usize) -> String + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}/abc", listener.local_addr().expect("its address"));
        thread::spawn(move || {
            for (index, stream) in listener.incoming().take(connections).enumerate() {
                let mut stream: TcpStream = stream.expect("connected");
                let mut first = 0;
                for line in BufReader::new(stream.try_clone().expect("cloned")).lines() {
                    let line = line.expect("text").to_lowercase();
                    if line.is_empty() {
                        break;
                    }
                    if let Some(range) = line.strip_prefix("range: bytes=") {
                        first = range.trim_end_matches('-').parse().expect("a number");
                    }
                }
                stream.write_all(answer(index, first).as_bytes()).expect("sent");
            }
        });
        address
    }

    fn whole(body: &str, length: usize) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    }

    fn rest(body: &str, first: usize) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-2/3\r\nContent-Length: \
             {length}\r\nConnection: \
             close\r\n\r\n{body}"
        )
    }

    fn part() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let part = folder.path().join("part");
        (folder, part)
    }

    #[test]
    fn what_breaks_off_is_taken_up_where_it_ended() {
        let (_folder, part) = part();
        let url = serve(2, |index, first| {
            assert_eq!((index, first), [(0, 0), (1, 2)][index]);
            if index == 0 { whole("ab", 3) } else { rest("c", first) }
        });
        get(&url, &part, ABC, 3).expect("whole in the end");
        assert_eq!(fs::read(&part).expect("read"), b"abc");
    }

    #[test]
    fn a_server_that_knows_no_parts_begins_anew_and_one_with_nothing_left_says_so() {
        let (_folder, part) = part();
        fs::write(&part, "xy").expect("written");
        get(&serve(1, |_, _| whole("abc", 3)), &part, ABC, 3).expect("anew");
        assert_eq!(fs::read(&part).expect("read"), b"abc");
        let nothing = "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        get(&serve(1, |_, _| nothing.to_owned()), &part, ABC, 3).expect("it is whole");
    }

    #[test]
    fn what_is_wrong_is_not_kept_and_what_is_too_long_not_read() {
        let (_folder, part) = part();
        let error = get(&serve(1, |_, _| whole("abd", 3)), &part, ABC, 3).expect_err("another checksum");
        assert!(error.contains("has the SHA-1") && !part.exists(), "{error}");
        let error = get(&serve(2, |_, _| whole("abcd", 4)), &part, ABC, 3).expect_err("longer");
        assert_eq!(error, "it is longer than 3 bytes");
        let absent = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let error = get(&serve(1, |_, _| absent.to_owned()), &part, ABC, 3).expect_err("absent");
        assert_eq!(error, "the server answered with status 404");
    }

    #[test]
    fn what_does_not_go_on_ends_and_stays() {
        let (_folder, part) = part();
        let url = serve(2, |index, first| if index == 0 { whole("ab", 3) } else { rest("", first) });
        let error = get(&url, &part, ABC, 3).expect_err("nothing more comes");
        assert!(error.contains("broke off after 2 bytes"), "{error}");
        assert_eq!(fs::read(&part).expect("kept"), b"ab");
    }
}
