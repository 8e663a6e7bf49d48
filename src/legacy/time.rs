//! Time stamps as Python's `datetime.isoformat` writes them.
//!
//! ```text
//!  YYYY-MM-DDTHH:MM:SS[.ffffff][+HH:MM[:SS[.ffffff]]]
//! ```
//!
//! The fraction is absent when it is zero, the offset when the time has none; then it is UTC. Reading also takes
//! what Python 3.11 reads beyond it, as far as it names a date by year, month and day: a blank for the `T`, no
//! seconds or no time at all, `Z`, any number of digits in the fraction (six count).

use jiff::civil::Date;

use crate::store::event::Timestamp;

/// A time stamp: the text Python would print, and the moment it means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// As `isoformat` prints it.
    pub text: String,
    /// Drawn to the nearest moment a [`Timestamp`] can hold.
    pub time: Timestamp,
}

const MICROS_PER_SECOND: i64 = 1_000_000;
const DAY_MICROS: i64 = 86_400 * MICROS_PER_SECOND;

/// Reads a time stamp; `None` if it is none.
#[must_use]
pub(super) fn parse(text: &str) -> Option<Stamp> {
    let mut rest = Cursor(text.as_bytes());
    let year = rest.digits(4)?;
    rest.skip(b'-')?;
    let month = rest.digits(2)?;
    rest.skip(b'-')?;
    let day = rest.digits(2)?;
    let date =
        Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?);
    let date = date.ok().filter(|_| year >= 1)?;
    let (mut micros, mut offset) = (0, None);
    if rest.skip(b'T').or_else(|| rest.skip(b' ')).is_some() {
        micros = rest.clock(24)?;
        offset = match rest.0.first() {
            None => None,
            Some(b'Z') => {
                rest.skip(b'Z')?;
                Some(0)
            }
            Some(sign @ (b'+' | b'-')) => {
                rest.skip(*sign)?;
                let micros = rest.clock(24)?;
                Some(if *sign == b'-' { -micros } else { micros })
            }
            Some(_) => return None,
        };
    }
    rest.0.is_empty().then(|| stamp(date, micros, offset))
}

/// The time stamp of a moment, in UTC, cut to microseconds.
#[must_use]
pub(super) fn of(time: Timestamp) -> Stamp {
    let micros = time.0.div_euclid(1000);
    let (days, micros) = (micros.div_euclid(DAY_MICROS), micros.rem_euclid(DAY_MICROS));
    let epoch = Date::constant(1970, 1, 1);
    let date = epoch.saturating_add(jiff::Span::new().try_days(days).unwrap_or_default());
    Stamp { time, ..stamp(date, micros, Some(0)) }
}

fn stamp(date: Date, micros: i64, offset: Option<i64>) -> Stamp {
    use std::fmt::Write as _;
    let clock = |out: &mut String, micros: i64, seconds: bool| {
        let (whole, fraction) = (micros / MICROS_PER_SECOND, micros % MICROS_PER_SECOND);
        let _ = write!(out, "{:02}:{:02}", whole / 3600, whole / 60 % 60);
        if seconds || whole % 60 != 0 || fraction != 0 {
            let _ = write!(out, ":{:02}", whole % 60);
        }
        if fraction != 0 {
            let _ = write!(out, ".{fraction:06}");
        }
    };
    let mut text = format!("{date}T");
    clock(&mut text, micros, true);
    if let Some(offset) = offset {
        text.push(if offset < 0 { '-' } else { '+' });
        clock(&mut text, offset.abs(), false);
    }
    // Of every date: jiff's time stamps end a day before its dates do.
    let days = date.duration_since(Date::constant(1970, 1, 1)).as_hours() / 24;
    let since = i128::from(days) * i128::from(DAY_MICROS);
    let nanos = (since + i128::from(micros - offset.unwrap_or(0))) * 1000;
    let time = nanos.clamp(i64::MIN.into(), i64::MAX.into());
    // It was just brought into range.
    Stamp { text, time: Timestamp(i64::try_from(time).unwrap_or(0)) }
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn skip(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    fn digits(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        let number = digits.iter().try_fold(0, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0'))
        })?;
        self.0 = rest;
        Some(number)
    }

    /// `HH:MM[:SS[.f...]]` in microseconds.
    fn clock(&mut self, hours: i64) -> Option<i64> {
        let hour = self.digits(2).filter(|&hour| hour < hours)?;
        self.skip(b':')?;
        let minute = self.digits(2).filter(|&minute| minute < 60)?;
        let (mut second, mut fraction) = (0, 0);
        if self.skip(b':').is_some() {
            second = self.digits(2).filter(|&second| second < 60)?;
            if self.skip(b'.').or_else(|| self.skip(b',')).is_some() {
                let len = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
                let mut left = 6;
                for _ in 0..len {
                    let digit = self.digits(1)?;
                    if left > 0 {
                        fraction = fraction * 10 + digit;
                        left -= 1;
                    }
                }
                fraction *= 10_i64.pow(left);
                if len == 0 {
                    return None;
                }
            }
        }
        Some(((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(from: &str) -> Option<String> {
        parse(from).map(|stamp| stamp.text)
    }

    #[test]
    fn time_stamps_come_back_as_python_prints_them() {
        for same in [
            "2026-11-24T03:08:10.879816+00:00",
            "2026-11-24T03:08:10",
            "2024-02-29T23:59:59.000001-05:30",
            "2024-02-29T23:59:59+05:30:15",
            "0001-01-01T00:00:00",
            "9999-12-31T23:59:59.999999+00:00",
        ] {
            assert_eq!(text(same).as_deref(), Some(same));
        }
        assert_eq!(text("2024-01-15T10:30:00Z").unwrap(), "2024-01-15T10:30:00+00:00");
        assert_eq!(text("2024-01-15 10:30").unwrap(), "2024-01-15T10:30:00");
        assert_eq!(text("2024-01-15").unwrap(), "2024-01-15T00:00:00");
        assert_eq!(
            text("2024-01-15T10:30:00.5+02:00").unwrap(),
            "2024-01-15T10:30:00.500000+02:00"
        );
        assert_eq!(text("2024-01-15T10:30:00.1234567").unwrap(), "2024-01-15T10:30:00.123456");
    }

    #[test]
    fn what_is_no_time_is_none() {
        for bad in [
            "",
            "not a date",
            "2024-13-01",
            "2024-02-30T00:00:00",
            "2024-01-15T24:00:00",
            "0000-01-01",
            "2024-01-15T10:30:00.",
            "2024-01-15T10:30:00+",
            "2024-01-15T10:30:00Zx",
            "2024-01-15T10:60:00",
        ] {
            assert_eq!(text(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_time_means_the_moment_it_names() {
        let nanos = |from: &str| parse(from).unwrap().time.0;
        assert_eq!(nanos("1970-01-01T00:00:01.5Z"), 1_500_000_000);
        assert_eq!(nanos("1970-01-01T00:00:00"), 0);
        assert_eq!(nanos("1970-01-01T02:00:00+02:00"), 0);
        assert_eq!(nanos("1969-12-31T23:59:59.999999"), -1000);
        for late in ["9999-01-01T00:00:00", "9999-12-31", "9999-12-31T23:59:59Z"] {
            assert_eq!(nanos(late), i64::MAX);
        }
        assert_eq!(nanos("0001-01-01"), i64::MIN);
        for nanos in [0, 1_764_000_000_123_456_000, -1000, i64::MIN / 1000 * 1000] {
            let stamp = of(Timestamp(nanos));
            assert_eq!(parse(&stamp.text), Some(stamp));
        }
    }
}
