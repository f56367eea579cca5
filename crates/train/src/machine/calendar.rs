//! Days and hours in universal time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Today, as 2026-11-24.
pub fn today() -> String {
    date(now())
}

/// The day `seconds` after the beginning of 1970, as 2026-11-24.
fn date(seconds: u64) -> String {
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
    format!("{year:04}-{month:02}-{day_of_month:02}")
}

/// The minute `seconds` after the beginning of 1970, as `2026-02-28 23:59 UTC`.
pub fn date_time(seconds: u64) -> String {
    format!("{} {:02}:{:02} UTC", date(seconds), seconds / 3600 % 24, seconds / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(date_time(seconds), text);
        }
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (days, name) in [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_781, "2026-11-24")] {
            assert_eq!(date(86_400 * days + 86_399), name);
        }
    }
}
