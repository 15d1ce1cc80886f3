//! What a person sees while something runs: a live line, and numbers for eyes.

use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

/// Time between two live lines on a terminal, and elsewhere.
const TICK: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// What a path has carried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Share {
    pub(super) path: String,
    /// Payload both ways, in bytes.
    pub(super) bytes: u64,
}

/// The live line: redrawn on a terminal, one line after the other elsewhere.
pub(super) struct Screen {
    bar: Option<ProgressBar>,
    tick: Duration,
}

impl Screen {
    /// For something without a known end.
    pub(super) fn spinner() -> Self {
        Self::of(ProgressBar::new_spinner(), "{spinner} {elapsed:>3} {msg}")
    }

    /// For something that takes this long.
    pub(super) fn lasting(time: Duration) -> Self {
        let bar = ProgressBar::new(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Self::of(bar, "{spinner} {elapsed:>3} {bar:20} {msg}")
    }

    fn of(bar: ProgressBar, template: &str) -> Self {
        let [fast, slow] = TICK;
        if !std::io::stderr().is_terminal() {
            return Self { bar: None, tick: slow };
        }
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar: Some(bar), tick: fast }
    }

    /// Time between two lines.
    pub(super) fn tick(&self) -> Duration {
        self.tick
    }

    /// Whether lines stay where they are written, one below the other.
    pub(super) fn is_plain(&self) -> bool {
        self.bar.is_none()
    }

    /// How much of the time has passed.
    pub(super) fn advance(&self, elapsed: Duration) {
        if let Some(bar) = &self.bar {
            bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        }
    }

    /// A new live line.
    pub(super) fn show(&self, line: String) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None => say(&line),
        }
    }

    /// A line that stays, above the live one.
    pub(super) fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => say(line),
        }
    }

    /// Leaves the last line.
    pub(super) fn close(self) {
        if let Some(bar) = self.bar {
            bar.finish();
        }
    }
}

/// Prints a line. Whoever read it may have gone, and what runs goes on all the same.
pub(super) fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}

/// Bytes per second.
pub(super) fn rate(bytes: u64, during: Duration) -> u64 {
    let millis = during.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

/// The part of a whole, in percent.
pub(super) fn percent(part: u64, whole: u64) -> String {
    format!("{}%", (u128::from(part) * 100 + u128::from(whole) / 2) / u128::from(whole.max(1)))
}

/// A number of bytes for people.
pub(super) fn bytes(number: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, size)| number >= *size) {
        Some((unit, size)) => format!("{}.{} {unit}", number / size, number % size * 10 / size),
        None => format!("{number} B"),
    }
}

/// A live line: throughput of each path since the last one.
pub(super) fn live(state: &str, before: &[Share], after: &[Share], during: Duration) -> String {
    let mut text = format!("{state:<12}");
    let mut total = 0;
    for share in after {
        let earlier =
            before.iter().find(|earlier| earlier.path == share.path).map_or(0, |earlier| earlier.bytes);
        let moved = rate(share.bytes.saturating_sub(earlier), during);
        total += moved;
        // Writing to a String cannot fail.
        write!(text, "  {} {:>10}/s", share.path, bytes(moved)).ok();
    }
    write!(text, "  = {}/s", bytes(total)).ok();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(["0 B", "1.5 KiB", "2.0 GiB"], [bytes(0), bytes(1536), bytes(2 << 30)]);
        assert_eq!(rate(1000, Duration::from_millis(500)), 2000);
        assert_eq!(rate(1000, Duration::ZERO), 1_000_000);
        assert_eq!(percent(0, 0), "0%");
        let share = |path: &str, bytes| Share { path: path.to_owned(), bytes };
        let line =
            live("all up", &[share("a", 0)], &[share("a", 2048), share("b", 1024)], Duration::from_secs(1));
        assert!(line.contains("a    2.0 KiB/s") && line.ends_with("= 3.0 KiB/s"), "{line}");
    }
}
