//! Names of moments, as below `history/` and wherever else a moment is named: what each means.
//!
//! | name | means the tree after |
//! |---|---|
//! | `@N` | event N |
//! | `2024-01-15T10:00:00Z`, any RFC 3339 time, `20240115T100000Z` | every event not later than that time; without an offset, UTC |
//! | `2024-01-15`, `2024-01-15T10:30`, `2024-W03-1` | the same, from the first instant the name names; UTC |
//! | `20240115T1030`, `2024W03`, `2024-01-15 10:30:00,5+0230` | the same: whatever Python 3.11's `datetime.fromisoformat` reads |
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
pub(crate) const HOUR_NS: i64 = 3600 * SECOND_NS;
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
    let exact = PARSER.parse_timestamp(name).ok().or_else(|| {
        let local = PARSER
            .parse_datetime(name)
            .ok()
            .or_else(|| Some(name.parse::<civil::ISOWeekDate>().ok()?.date().at(0, 0, 0, 0)))?;
        TimeZone::UTC.to_timestamp(local).ok()
    });
    let time_ns = exact.map_or_else(|| iso(name), |time| Some(time.as_nanosecond()))?;
    // What lies beyond the clock of events is before all of them, or after: a moment all the same.
    let furthest = if time_ns < 0 { i64::MIN } else { i64::MAX };
    Some(Timestamp(i64::try_from(time_ns).unwrap_or(furthest)))
}

/// Nanoseconds since 1970 of a date, or date and time, in any form of ISO 8601 that Python 3.11 reads: extended or
/// basic, by month or by week, any character in between, fractions behind `.` or `,`, offsets to the second.
fn iso(name: &str) -> Option<i128> {
    let name = name.is_ascii().then_some(name)?;
    let (date, rest) = name.split_at_checked(date_len(name.as_bytes())?)?;
    let day = TimeZone::UTC.to_timestamp(iso_date(date)?.at(0, 0, 0, 0)).ok()?.as_nanosecond();
    let mut rest = rest.chars();
    if rest.next().is_none() {
        return Some(day);
    }
    let (time, offset_ns) = match rest.as_str() {
        "" => return None,
        text if text.ends_with('Z') => (text.strip_suffix('Z')?, 0),
        text => match text.find(['+', '-']) {
            None => (text, 0),
            Some(at) => {
                let (time, offset) = text.split_at_checked(at)?;
                let sign = if offset.starts_with('-') { -1 } else { 1 };
                (time, sign * iso_time(offset.get(1..)?)?)
            }
        },
    };
    Some(day + i128::from(iso_time(time)?) - i128::from(offset_ns))
}

/// How long the date is that `name` begins with. Where a week's day and the time behind it could be meant, as Python
/// decides.
fn date_len(name: &[u8]) -> Option<usize> {
    let digit = |at: usize| name.get(at).is_some_and(u8::is_ascii_digit);
    Some(match (*name.get(4)?, *name.get(5)?) {
        (b'-', b'W') if name.get(8) == Some(&b'-') && !digit(10) => 10,
        (b'-', b'W') => 8,
        (b'-', _) => 10,
        (b'W', _) => {
            let digits = name.iter().skip(7).take_while(|byte| byte.is_ascii_digit()).count();
            if digits < 2 { 7 + digits } else { 7 + usize::from(digits.is_multiple_of(2)) }
        }
        _ => 8,
    })
}

fn iso_date(date: &str) -> Option<civil::Date> {
    let number = |from: usize, to: usize| -> Option<i16> {
        let digits = date.get(from..to)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        if plain { digits.parse().ok() } else { None }
    };
    let small = |from, to| i8::try_from(number(from, to)?).ok();
    let year = number(0, 4).filter(|&year| year > 0)?;
    let dash = |at: usize| date.as_bytes().get(at) == Some(&b'-');
    let week = |week: i8, day: i8| {
        let weekday = civil::Weekday::from_monday_one_offset(day).ok()?;
        Some(civil::ISOWeekDate::new(year, week, weekday).ok()?.date())
    };
    match (date.len(), date.as_bytes().iter().position(|&byte| byte == b'W')) {
        (8, Some(5)) if dash(4) => week(small(6, 8)?, 1),
        (10, Some(5)) if dash(4) && dash(8) => week(small(6, 8)?, small(9, 10)?),
        (7, Some(4)) => week(small(5, 7)?, 1),
        (8, Some(4)) => week(small(5, 7)?, small(7, 8)?),
        (10, None) if dash(4) && dash(7) => {
            civil::Date::new(year, small(5, 7)?, small(8, 10)?).ok()
        }
        (8, None) => civil::Date::new(year, small(4, 6)?, small(6, 8)?).ok(),
        _ => None,
    }
}

/// Nanoseconds from midnight: `hh`, `hh:mm`, `hh:mm:ss`, the same without colons, and a fraction of the second.
fn iso_time(time: &str) -> Option<i64> {
    let (whole, fraction) = match time.split_once(['.', ',']) {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (time, None),
    };
    let extended = whole.contains(':');
    let mut parts = [0i64; 3];
    let limits = [24, 60, 60];
    let mut rest = whole;
    let mut count = 0;
    for (part, limit) in parts.iter_mut().zip(limits) {
        let (digits, more) = rest.split_at_checked(2)?;
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        *part = digits.parse().ok().filter(|&value| value < limit)?;
        count += 1;
        if more.is_empty() {
            rest = more;
            break;
        }
        rest = if extended { more.strip_prefix(':')? } else { more };
    }
    let [hours, minutes, seconds] = parts;
    if !rest.is_empty() || (fraction.is_some() && count < 3) {
        return None;
    }
    let fraction_ns = match fraction {
        None => 0,
        Some(digits) => {
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            // What is finer than the clock of events is cut off.
            let nine = digits.bytes().chain(std::iter::repeat(b'0')).take(9);
            nine.fold(0, |ns, digit| ns * 10 + i64::from(digit - b'0'))
        }
    };
    Some(((hours * 60 + minutes) * 60 + seconds) * SECOND_NS + fraction_ns)
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

    /// What Python 3.11.7 said to `datetime.fromisoformat`, without an offset taken for UTC.
    #[test]
    fn every_form_that_python_reads_means_the_same_here() {
        for (name, says) in [
            ("2024-W03", "2024-01-15T00:00:00Z"),
            ("2024W03", "2024-01-15T00:00:00Z"),
            ("2024W031", "2024-01-15T00:00:00Z"),
            ("20240115", "2024-01-15T00:00:00Z"),
            ("2024-01-15T10", "2024-01-15T10:00:00Z"),
            ("20240115T1030", "2024-01-15T10:30:00Z"),
            ("20240115T103000.5+0200", "2024-01-15T08:30:00.5Z"),
            ("2024-01-15T10:30:00,5", "2024-01-15T10:30:00.5Z"),
            ("2024-W03-1T10:30", "2024-01-15T10:30:00Z"),
            ("2024W031T1030Z", "2024-01-15T10:30:00Z"),
            ("2024-01-15 10:30", "2024-01-15T10:30:00Z"),
            ("2024-01-15x10:30", "2024-01-15T10:30:00Z"),
            ("2024-01-15T10:30+05:30:10", "2024-01-15T04:59:50Z"),
            ("20240115T10", "2024-01-15T10:00:00Z"),
            ("2024-01-15T103000", "2024-01-15T10:30:00Z"),
            ("20240115T10:30", "2024-01-15T10:30:00Z"),
            ("2024-01-15T10:30-0130", "2024-01-15T12:00:00Z"),
            ("2024-01-15T10:30:00.5+02", "2024-01-15T08:30:00.5Z"),
            ("2020-W53", "2020-12-28T00:00:00Z"),
            ("2024-W01-7", "2024-01-07T00:00:00Z"),
            ("2024-01-15T10:30+23:59:59", "2024-01-14T10:30:01Z"),
        ] {
            let same: jiff::Timestamp = says.parse().unwrap();
            let same = Timestamp(i64::try_from(same.as_nanosecond()).unwrap());
            assert_eq!(parse(name.as_bytes(), NOW), Some(Moment::At(same)), "{name}");
        }
        for name in [
            "2024-01-15T24:00",
            "2024-015",
            "2024-1-5",
            "2024-01",
            "2024-W53",
            "0000-W01",
            "2024-01-15T10:30:",
            "2024-01-15T",
            "2024-01-15T10:30:00.",
            "2024-01-15T1030:00",
            "2024-01-15T10:30.5",
        ] {
            assert_eq!(parse(name.as_bytes(), NOW), None, "{name}");
        }
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
        fn a_time_means_the_same_in_every_form(
            (secs, ms) in (0i64..4_000_000_000, 0i64..1000),
            offset_min in -23i64 * 60..=23 * 60,
            between in "[T _x]",
        ) {
            let ns = secs * SECOND_NS + ms * 1_000_000;
            let local = jiff::Timestamp::from_nanosecond(i128::from(ns + offset_min * 60 * SECOND_NS));
            let local = TimeZone::UTC.to_datetime(local.unwrap());
            let week = local.date().iso_week_date();
            let (year, week, day) = (week.year(), week.week(), week.weekday().to_monday_one_offset());
            let date = local.date();
            let (sign, off) = (if offset_min < 0 { '-' } else { '+' }, offset_min.abs());
            let (oh, om) = (off / 60, off % 60);
            let (h, m, s) = (local.hour(), local.minute(), local.second());
            let dates = [
                date.to_string(),
                date.to_string().replace('-', ""),
                format!("{year:04}-W{week:02}-{day}"),
                format!("{year:04}W{week:02}{day}"),
            ];
            let times = [
                format!("{h:02}:{m:02}:{s:02}.{ms:03}{sign}{oh:02}:{om:02}"),
                format!("{h:02}{m:02}{s:02},{ms:03}{sign}{oh:02}{om:02}"),
                format!("{h:02}:{m:02}:{s:02}.{ms:03}000{sign}{oh:02}:{om:02}:00"),
            ];
            for date in &dates {
                for time in &times {
                    let name = format!("{date}{between}{time}");
                    prop_assert_eq!(parse(name.as_bytes(), NOW), Some(Moment::At(Timestamp(ns))), "{}", name);
                }
            }
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
