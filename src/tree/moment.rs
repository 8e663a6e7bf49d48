//! Names of moments, as below `history/` and wherever else a moment is named: what each means.
//!
//! | name | means the tree after |
//! |---|---|
//! | `@N` | event N |
//! | `2024-01-15T10:00:00Z`, any RFC 3339 time, `20240115T100000Z` | every event not later than that time; without an offset, UTC |
//! | `2024-01-15`, `2024-01-15T10:30`, `2024-W03-1` | the same, from the first instant the name names; UTC |
//! | `10min-ago`, `2h-ago`, `3d-ago`, `1w-ago`, `30s-ago` | every event not later than so long before the name is looked up |
//! | `yesterday` | as `1d-ago` |
//!
//! Pure: the clock comes in as `now`. Invariants: nothing here panics or allocates, whatever the
//! name; a name that is none of these is `None` (and may be a label).

use jiff::civil;
use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::TimeZone;

use super::{Seq, Timestamp};

/// What a name below `history/` means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Moment {
    /// After this event (`@N`).
    After(Seq),
    /// After every event not later than this time, which the name says for itself.
    At(Timestamp),
    /// After every event not later than this time, which depends on when the name was looked up.
    Ago(Timestamp),
}

/// Longest name that is looked at; the longest RFC 3339 time with nanoseconds and offset has 35.
const NAME_MAX: usize = 64;
const SECOND_NS: i64 = 1_000_000_000;
const HOUR_NS: i64 = 3600 * SECOND_NS;
const DAY_NS: i64 = 24 * HOUR_NS;

static PARSER: DateTimeParser = DateTimeParser::new();

/// The moment `name` means when looked up at `now`, or `None` if it is the name of no moment.
#[must_use]
pub fn parse(name: &[u8], now: Timestamp) -> Option<Moment> {
    if name.len() > NAME_MAX {
        return None;
    }
    let name = str::from_utf8(name).ok()?;
    if let Some(digits) = name.strip_prefix('@') {
        return decimal(digits).map(|number| Moment::After(Seq(number)));
    }
    if name == "yesterday" {
        return Some(Moment::Ago(back(now, 1, DAY_NS)));
    }
    if let Some(span) = name.strip_suffix("-ago") {
        let unit = span.find(|c: char| !c.is_ascii_digit())?;
        let (count, unit) = span.split_at_checked(unit)?;
        let unit_ns = match unit {
            "s" | "sec" => SECOND_NS,
            "min" => 60 * SECOND_NS,
            "h" => HOUR_NS,
            "d" => DAY_NS,
            "w" => 7 * DAY_NS,
            _ => return None,
        };
        return Some(Moment::Ago(back(now, decimal(count)?, unit_ns)));
    }
    time(name).map(Moment::At)
}

/// Whether a label may be called `name`: one component of a path that means no moment, and does not look like
/// the number of an event.
#[must_use]
pub fn may_be_label(name: &[u8]) -> bool {
    let component = (1..=255).contains(&name.len())
        && !name.contains(&b'/')
        && !name.contains(&0)
        && !matches!(name, b"." | b"..");
    // Any clock does: which names are understood hardly depends on it.
    component && !name.starts_with(b"@") && parse(name, Timestamp(0)).is_none()
}

/// The name of the last full hour that ended `hours_ago` hours before the hour of `now`, as listings
/// show it: `YYYY-MM-DDTHH:00:00Z`. `None` before year 0 of what can be printed in that form.
#[must_use]
pub fn hour_stamp(now: Timestamp, hours_ago: u32) -> Option<(Stamp, Timestamp)> {
    let hour = now.0.checked_sub(now.0.rem_euclid(HOUR_NS))?;
    let hour = Timestamp(hour.checked_sub(i64::from(hours_ago).checked_mul(HOUR_NS)?)?);
    Some((stamp(hour), hour))
}

/// A time printed as `YYYY-MM-DDTHH:MM:SSZ`.
pub type Stamp = [u8; 20];

/// `time` to the second, in UTC.
#[must_use]
pub fn stamp(time: Timestamp) -> Stamp {
    // 64-bit nanoseconds reach from 1677 to 2262: within jiff's range, and of four-digit years.
    let civil = jiff::Timestamp::from_nanosecond(i128::from(time.0))
        .map_or(civil::DateTime::ZERO, |time| TimeZone::UTC.to_datetime(time));
    let mut text = *b"0000-00-00T00:00:00Z";
    let mut put = |at: usize, digits: usize, value: i16| {
        let mut rest = value.unsigned_abs();
        for place in text.iter_mut().skip(at).take(digits).rev() {
            // A digit: below 10.
            *place = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    };
    put(0, 4, civil.year());
    put(5, 2, civil.month().into());
    put(8, 2, civil.day().into());
    put(11, 2, civil.hour().into());
    put(14, 2, civil.minute().into());
    put(17, 2, civil.second().into());
    text
}

/// Digits alone, without leading zeros: one spelling for each number.
fn decimal(digits: &str) -> Option<u64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits.len() == 1 || !digits.starts_with('0');
    if plain && canonical { digits.parse().ok() } else { None }
}

/// So long before `now`, or at the beginning of time.
fn back(now: Timestamp, count: u64, unit_ns: i64) -> Timestamp {
    let span = i64::try_from(count).unwrap_or(i64::MAX).saturating_mul(unit_ns);
    Timestamp(now.0.saturating_sub(span))
}

fn time(name: &str) -> Option<Timestamp> {
    // Every form begins with a digit of the year; so that no label is taken for one by a parser's leniency.
    if !name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let time = PARSER.parse_timestamp(name).ok().or_else(|| {
        let local = PARSER
            .parse_datetime(name)
            .ok()
            .or_else(|| Some(name.parse::<civil::ISOWeekDate>().ok()?.date().at(0, 0, 0, 0)))?;
        TimeZone::UTC.to_timestamp(local).ok()
    })?;
    // What lies beyond the clock of events is before all of them, or after: a moment all the same.
    let furthest = if time.as_nanosecond() < 0 { i64::MIN } else { i64::MAX };
    Some(Timestamp(i64::try_from(time.as_nanosecond()).unwrap_or(furthest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2024-01-15T10:30:00Z
    const NOW: Timestamp = Timestamp(1_705_314_600 * SECOND_NS);

    fn at(name: &str) -> Option<i64> {
        match parse(name.as_bytes(), NOW)? {
            Moment::At(time) | Moment::Ago(time) => Some((time.0 - NOW.0) / SECOND_NS),
            Moment::After(_) => None,
        }
    }

    #[test]
    fn what_means_a_moment_is_no_label() {
        for name in ["@1", "@", "@x", "2024-01-15", "10min-ago", "yesterday", "", ".", "..", "a/b"]
        {
            assert!(!may_be_label(name.as_bytes()), "{name:?}");
        }
        for name in ["v1.0", "before lunch", "2024-release", "a@1", "days-ago", "ä"] {
            assert!(may_be_label(name.as_bytes()), "{name:?}");
        }
        assert!(may_be_label(&[b'n'; 255]) && !may_be_label(&[b'n'; 256]));
    }

    #[test]
    fn every_form_of_the_table_is_understood() {
        assert_eq!(parse(b"@17", NOW), Some(Moment::After(Seq(17))));
        assert_eq!(parse(b"@0", NOW), Some(Moment::After(Seq(0))));
        assert_eq!(at("2024-01-15T10:00:00Z"), Some(-1800));
        assert_eq!(at("20240115T100000Z"), Some(-1800));
        assert_eq!(at("2024-01-15T10:30:01.5+02:00"), Some(-7198));
        assert_eq!(at("2024-01-15T10:30"), Some(0));
        assert_eq!(at("2024-01-15"), Some(-10 * 3600 - 1800));
        assert_eq!(at("2024-W03-1"), Some(-10 * 3600 - 1800));
        assert_eq!(at("30s-ago"), Some(-30));
        assert_eq!(at("10min-ago"), Some(-600));
        assert_eq!(at("2h-ago"), Some(-7200));
        assert_eq!(at("3d-ago"), Some(-3 * 86400));
        assert_eq!(at("1w-ago"), Some(-7 * 86400));
        assert_eq!(at("yesterday"), Some(-86400));
    }

    #[test]
    fn a_moment_beyond_the_clock_is_before_or_after_all_others() {
        let after = Some(Moment::At(Timestamp(i64::MAX)));
        assert_eq!(parse(b"2999-01-01", NOW), after);
        assert_eq!(parse(b"9999-01-01T00:00:00Z", NOW), after);
        assert_eq!(parse(b"0001-01-01", NOW), Some(Moment::At(Timestamp(i64::MIN))));
        let ancient = parse(b"9999999999d-ago", NOW);
        assert!(matches!(ancient, Some(Moment::Ago(time)) if time < Timestamp(i64::MIN / 2)));
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for name in [
            "",
            "@",
            "@-1",
            "@+1",
            "@01",
            "@1x",
            "@18446744073709551616",
            "-ago",
            "min-ago",
            "1-ago",
            "1y-ago",
            "-1min-ago",
            "99999999999999999999s-ago",
            "release-1",
            "2024",
            "2024-13-01",
            "2024-01-15T25:00",
            "tomorrow",
        ] {
            assert_eq!(parse(name.as_bytes(), NOW), None, "{name}");
        }
        assert_eq!(parse(&[b'1'; 4096], NOW), None);
        assert_eq!(parse(b"\xff", NOW), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(name in proptest::collection::vec(any::<u8>(), 0..80), now: i64) {
            let _ = parse(&name, Timestamp(now));
        }

        #[test]
        fn text_like_times_is_answered(name in "[0-9@]{0,8}[-T:.+0-9Zwsdhminago ]{0,30}", now: i64) {
            let _ = parse(name.as_bytes(), Timestamp(now));
        }

        #[test]
        fn a_stamp_means_the_second_it_was_made_of(secs in -9_000_000_000i64..9_000_000_000) {
            let time = Timestamp(secs * SECOND_NS);
            prop_assert_eq!(parse(&stamp(time), NOW), Some(Moment::At(time)));
        }

        #[test]
        fn a_number_means_its_event(number: u64) {
            let name = format!("@{number}");
            prop_assert_eq!(parse(name.as_bytes(), NOW), Some(Moment::After(Seq(number))));
        }

        #[test]
        fn relative_times_count_back_from_now(count in 0u64..100_000) {
            let name = format!("{count}min-ago");
            let then = Timestamp(NOW.0 - i64::try_from(count).unwrap() * 60 * SECOND_NS);
            prop_assert_eq!(parse(name.as_bytes(), NOW), Some(Moment::Ago(then)));
        }
    }
}
