//! What trained a run: a line of `sessions.jsonl` for its beginning and for each time that it was resumed.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// One process that trained a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Seconds since 1970 in UTC.
    pub began: u64,
    /// Steps that were done before.
    pub after_step: usize,
    /// The program's arguments, its own name first.
    pub command: Vec<String>,
    /// The program's version.
    pub version: String,
    /// Device, driver and kind.
    pub device: String,
    /// Operating system and processor.
    pub system: String,
    /// Threads that the machine runs at once.
    pub processors: usize,
}

impl Session {
    /// One that begins now.
    pub fn new(after_step: usize, device: String) -> Self {
        let mut command: Vec<String> = std::env::args_os().map(|part| part.to_string_lossy().into_owned()).collect();
        if let Some(program) = command.first_mut() {
            "train".clone_into(program);
        }
        Self {
            began: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            after_step,
            command,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processors: crate::config::processors(),
        }
    }

    /// The command as it can be typed again.
    pub fn command_line(&self) -> String {
        let plain = |c: char| c.is_alphanumeric() || "-_./=,:@%+".contains(c);
        let quoted = |part: &String| match part.chars().all(plain) && !part.is_empty() {
            true => part.clone(),
            false => format!("'{}'", part.replace('\'', r"'\''")),
        };
        self.command.iter().map(quoted).collect::<Vec<_>>().join(" ")
    }
}

/// `2026-02-28 23:59 UTC`.
pub fn date(seconds: u64) -> String {
    // Days of the era that begins on 1 March of year 0, when leap days come last (Hinnant, "chrono-compatible low-level
    // date algorithms").
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day_of_month:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::{Session, date};

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_340, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_772_323_140, "2026-02-28 23:59 UTC"),
            (1_772_323_200, "2026-03-01 00:00 UTC"),
            (4_107_542_399, "2100-02-28 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }

    #[test]
    fn a_command_can_be_typed_again() {
        let command = ["train", "--out", "my runs/it's", "--lr", "0.1", ""].map(str::to_owned).to_vec();
        let session = Session { command, ..Session::new(0, "cpu".to_owned()) };
        assert_eq!(session.command_line(), r"train --out 'my runs/it'\''s' --lr 0.1 ''");
    }
}
