//! Sessions of a run: a line of `sessions.jsonl` for its beginning and for each time that it was resumed.

use serde::{Deserialize, Serialize};

use crate::machine::{calendar, processors};

/// One process that trained a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
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

impl SessionRecord {
    /// One that begins now.
    pub fn new(after_step: usize, device: String) -> Self {
        let mut command: Vec<String> = std::env::args_os().map(|part| part.to_string_lossy().into_owned()).collect();
        if let Some(program) = command.first_mut() {
            "train".clone_into(program);
        }
        Self {
            began: calendar::now(),
            after_step,
            command,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processors: processors(),
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

#[cfg(test)]
mod tests {
    use super::SessionRecord;

    #[test]
    fn a_command_can_be_typed_again() {
        let command = ["train", "--out", "my runs/it's", "--lr", "0.1", ""].map(str::to_owned).to_vec();
        let session = SessionRecord { command, ..SessionRecord::new(0, "cpu".to_owned()) };
        assert_eq!(session.command_line(), r"train --out 'my runs/it'\''s' --lr 0.1 ''");
    }
}
