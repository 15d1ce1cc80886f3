//! `braid top`: what the paths of a running Braid carry, second by second.
//!
//! Each frame is made of two answers to `GET /v1/status`: what paths have carried grows, and the time between the two is Braid's
//! own, so that a slow answer makes no wrong rate.

use super::client::{fetch_status, pause};
use super::exit::Failure;
use super::flags::Top;
use crate::admin::view::{ConfiguredPath, Path, Standing, Status, Target, Totals};
use anyhow::Context;
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::{cursor, execute, queue, style, terminal};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Answers that lie closer together make no rate.
const SHORTEST: f64 = 0.2;

/// Shows it until `q` or Ctrl-C is pressed; one frame with `--once`.
///
/// # Errors
/// No Braid answers, or answers no longer; there is no terminal.
pub fn top(asked: &Top) -> Result<(), Failure> {
    let interval = Duration::from_secs(asked.interval.into());
    let first = fetch_status(&asked.running)?;
    if asked.once {
        pause(interval)?;
        let text = frame(&first, &fetch_status(&asked.running)?).join("\n") + "\n";
        // Whoever reads has gone.
        io::stdout().write_all(text.as_bytes()).ok();
        return Ok(());
    }
    if !io::stdout().is_terminal() {
        let complaint = "`braid top` needs a terminal; for a script there is `braid top --once`";
        return Err(Failure::Wrong(complaint.to_owned()));
    }
    let screen = Screen::enter().context("cannot use the terminal")?;
    let shown = follow(asked, first, interval);
    drop(screen);
    shown
}

fn follow(asked: &Top, mut before: Status, interval: Duration) -> Result<(), Failure> {
    let mut lines = frame(&before, &before);
    loop {
        draw(&lines).context("cannot write to the terminal")?;
        if ends(interval).context("cannot read from the terminal")? {
            return Ok(());
        }
        let now = fetch_status(&asked.running)?;
        if seconds(&before, &now).is_none_or(|seconds| seconds >= SHORTEST) {
            lines = frame(&before, &now);
            before = now;
        }
    }
}

/// Waits for the next frame, or for a key; whether that means the end.
fn ends(interval: Duration) -> io::Result<bool> {
    if !event::poll(interval)? {
        return Ok(false);
    }
    let Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) = event::read()? else {
        return Ok(false);
    };
    let interrupt = code == KeyCode::Char('c') && modifiers.contains(KeyModifiers::CONTROL);
    Ok(interrupt || matches!(code, KeyCode::Char('q' | 'Q') | KeyCode::Esc))
}

/// The terminal while it is ours; given back when this is dropped.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let screen = Self;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody to complain to.
        execute!(io::stdout(), terminal::LeaveAlternateScreen, cursor::Show).ok();
        terminal::disable_raw_mode().ok();
    }
}

/// As much of the lines as fits.
fn draw(lines: &[String]) -> io::Result<()> {
    // A serial console does not know its size.
    let (columns, rows) = match terminal::size()? {
        (0, _) | (_, 0) => (80, 24),
        size => size,
    };
    let mut out = io::stdout().lock();
    queue!(out, terminal::Clear(terminal::ClearType::All))?;
    let hint = ["q ends".to_owned()];
    let shown = lines.iter().take(usize::from(rows).saturating_sub(1)).chain(&hint);
    for (row, line) in (0..rows).zip(shown) {
        let line: String = line.chars().take(columns.into()).collect();
        queue!(out, cursor::MoveTo(0, row), style::Print(line))?;
    }
    out.flush()
}

/// Seconds between two answers; none if Braid was started anew between them.
fn seconds(before: &Status, now: &Status) -> Option<f64> {
    Some(now.uptime_seconds - before.uptime_seconds).filter(|seconds| *seconds >= 0.0)
}

/// What happened between two answers, and how it stands at the second.
fn frame(before: &Status, now: &Status) -> Vec<String> {
    let seconds = seconds(before, now).filter(|seconds| *seconds > 0.0);
    let up = humantime::format_duration(Duration::from_secs_f64(now.uptime_seconds.floor().max(0.0)));
    let mut lines = vec![format!("braid {}, up {up}", now.version)];
    for target in &now.targets {
        let earlier = before.targets.iter().find(|other| other.name == target.name);
        lines.push(String::new());
        lines.extend(target_lines(earlier, target, seconds));
    }
    lines
}

/// What is shown of a path.
#[derive(Default)]
struct Row {
    name: String,
    state: String,
    in_flight: u32,
    rates: Option<Rates>,
}

#[derive(Default)]
struct Rates {
    read: f64,
    written: f64,
    commands: f64,
    /// Mean time of those commands, in seconds.
    time: Option<f64>,
}

fn target_lines(before: Option<&Target>, now: &Target, seconds: Option<f64>) -> Vec<String> {
    let standings = || now.sessions.iter().filter_map(|session| session.standing.as_ref());
    let sum = |count: fn(&Standing) -> usize| standings().map(count).sum::<usize>();
    let (commands, waiting) = (sum(|standing| standing.commands), sum(|standing| standing.waiting));
    let mut head =
        format!("{}: {} sessions, {commands} commands, {waiting} waiting", now.name, now.sessions.len());
    let lost = standings().filter(|standing| standing.outage_seconds.is_some()).count();
    if lost > 0 {
        head += &format!(", {lost} SESSIONS WITHOUT A PATH");
    }
    let ghosts = sum(|standing| standing.ghosts);
    if ghosts > 0 {
        head += &format!(", {ghosts} writes in doubt");
    }
    let row = |path: &ConfiguredPath| {
        let earlier = before.and_then(|before| before.paths.iter().find(|other| other.name == path.name));
        Row {
            name: path.name.clone(),
            state: state(path, standings()),
            in_flight: own(path, standings()).map(|own| own.commands).sum(),
            rates: seconds
                .and_then(|seconds| rates(earlier?.totals.as_ref()?, path.totals.as_ref()?, seconds)),
        }
    };
    let rows: Vec<Row> = now.paths.iter().map(row).collect();
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or_default().max(4);
    let title = format!(
        "  {:width$}  {:>9}  {:>9}  {:>8}  {:>9}  {:>9}  STATE",
        "PATH", "READ/s", "WRITTEN/s", "CMDS/s", "TIME", "IN FLIGHT"
    );
    let mut lines = vec![head, title];
    lines.extend(rows.iter().map(|row| row_line(row, width)));
    lines
}

/// A path as the sessions have it.
fn own<'p, 's: 'p>(
    path: &'p ConfiguredPath,
    standings: impl Iterator<Item = &'s Standing> + 'p,
) -> impl Iterator<Item = &'s Path> + 'p {
    standings.flat_map(|standing| &standing.paths).filter(|own| own.name == path.name)
}

/// The states that a path has in the sessions, with their numbers where they differ.
fn state<'s>(path: &ConfiguredPath, standings: impl Iterator<Item = &'s Standing>) -> String {
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for own in own(path, standings) {
        *states.entry(own.state.as_str()).or_default() += 1;
    }
    match states.iter().next() {
        None if path.out => "drained".to_owned(),
        None => "-".to_owned(),
        Some((state, _)) if states.len() == 1 => (*state).to_owned(),
        Some(_) => {
            states.iter().map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
        }
    }
}

/// None if less was carried than before: that was another Braid.
fn rates(before: &Totals, now: &Totals, seconds: f64) -> Option<Rates> {
    let per_second = |before: u64, now: u64| Some(now.checked_sub(before)? as f64 / seconds);
    let commands = now.commands.checked_sub(before.commands)?;
    let time = now.command_seconds - before.command_seconds;
    Some(Rates {
        read: per_second(before.read_bytes, now.read_bytes)?,
        written: per_second(before.written_bytes, now.written_bytes)?,
        commands: commands as f64 / seconds,
        time: (commands > 0).then(|| time / commands as f64),
    })
}

fn row_line(row: &Row, width: usize) -> String {
    let [read, written, commands, time] = match &row.rates {
        None => ["-"; 4].map(str::to_owned),
        Some(rates) => [
            bytes(rates.read),
            bytes(rates.written),
            format!("{:.0}", rates.commands),
            rates.time.map_or_else(|| "-".to_owned(), |time| format!("{:.2} ms", time * 1e3)),
        ],
    };
    let Row { name, state, in_flight, .. } = row;
    format!("  {name:width$}  {read:>9}  {written:>9}  {commands:>8}  {time:>9}  {in_flight:>9}  {state}")
}

/// A number of bytes for eyes.
fn bytes(bytes: f64) -> String {
    match bytes {
        few if few < 1024.0 => format!("{few:.0} B"),
        some if some < 1024.0 * 1024.0 => format!("{:.1} KiB", some / 1024.0),
        many => format!("{:.1} MiB", many / 1024.0 / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{Failovers, Session};

    fn path(state: &str, commands: u32) -> Path {
        Path {
            name: "left".to_owned(),
            state: state.to_owned(),
            home: true,
            connections: 1,
            commands,
            oldest_seconds: None,
            weight: 1,
            group: None,
            retry_seconds: None,
            calm_seconds: None,
        }
    }

    fn session(path: Path, outage_seconds: Option<f64>) -> Session {
        let standing = Standing {
            fanout: "sessions".to_owned(),
            initiator_connections: 1,
            commands: 3,
            waiting: 1,
            ghosts: 0,
            outage_seconds,
            memory_bytes: 0,
            paths: vec![path],
        };
        let initiator = "iqn.i".to_owned();
        Session { initiator, peer: None, isid: "0".to_owned(), tsih: 1, standing: Some(standing) }
    }

    fn status(uptime_seconds: f64, totals: Option<Totals>, sessions: Vec<Session>) -> Status {
        let portal = "10.0.0.1:3260".to_owned();
        let left = ConfiguredPath { name: "left".to_owned(), portal, out: false, totals };
        let failovers = Failovers::default();
        let targets = vec![Target { name: "iqn.a".to_owned(), paths: vec![left], sessions, failovers }];
        Status { version: "1".to_owned(), uptime_seconds, targets }
    }

    fn totals(times: u64) -> Option<Totals> {
        let (bytes, commands) = (times * (3 << 20), times * 100);
        let command_seconds = times as f64 / 10.0;
        Some(Totals { read_bytes: bytes, written_bytes: bytes / 2048, commands, command_seconds })
    }

    /// The line of the path, its columns apart.
    fn row(before: &Status, now: &Status) -> Vec<String> {
        let lines = frame(before, now);
        let line = lines.iter().find(|line| line.starts_with("  left")).unwrap();
        line.split("  ").map(str::trim).filter(|column| !column.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn rates_are_what_was_carried_between_two_answers() {
        let before = status(10.0, totals(1), vec![]);
        let now =
            status(12.0, totals(3), vec![session(path("up", 7), None), session(path("down", 0), Some(1.0))]);
        assert_eq!(row(&before, &now), ["left", "3.0 MiB", "1.5 KiB", "100", "1.00 ms", "7", "1 down, 1 up"]);
        let lines = frame(&before, &now);
        assert_eq!(lines[2], "iqn.a: 2 sessions, 6 commands, 2 waiting, 1 SESSIONS WITHOUT A PATH");
        let idle = status(13.0, totals(3), vec![session(path("suspect", 7), None)]);
        assert_eq!(row(&now, &idle), ["left", "0 B", "0 B", "0", "-", "7", "suspect"]);
    }

    #[test]
    fn without_two_answers_of_the_same_braid_there_are_no_rates() {
        let now = status(12.0, totals(3), vec![]);
        let none = ["left", "-", "-", "-", "-", "0", "-"];
        assert_eq!(row(&now, &now), none, "the first frame");
        assert_eq!(row(&now, &status(1.0, totals(1), vec![])), none, "Braid was started anew");
        assert_eq!(row(&status(11.0, None, vec![]), &now), none, "the path is new, or has no series");
    }
}
