//! The plots of a report, as SVG that takes its colours from the page.
//!
//! All that have time on their horizontal axis lie below each other with the same scale, so that a cut is the same band in each.

use super::report::{PathSeries, Report, Step};
use super::scenario::TARGET;
use super::text::{class, seconds, whole};
use std::fmt::{Display, Write};

/// Width of a plot, and what lies left and right of its field.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 112.0;
const RIGHT: f64 = 12.0;
/// Height of the line of labels above the field, and of the axis below it.
const LABEL: f64 = 16.0;
const AXIS: f64 = 26.0;
/// Lines of labels, at most.
const ROWS: usize = 3;
/// Width of a character, about.
const CHARACTER: f64 = 6.6;
/// Characters of a path's name beside a plot.
const NAME: usize = 15;
/// Colours there are.
pub(super) const COLOURS: usize = 8;

/// Text as it may stand in HTML and SVG.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The field of a plot.
struct Field {
    top: f64,
    height: f64,
    seconds: f64,
    svg: String,
}

impl Field {
    fn new(report: &Report, top: f64, height: f64) -> Self {
        let last = report.series.at_seconds.last().copied().unwrap_or_default();
        let seconds = last.max(report.ended.after_seconds).max(0.1);
        Self { top, height, seconds, svg: String::new() }
    }

    fn x(&self, at: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * at.clamp(0.0, self.seconds) / self.seconds
    }

    /// From the part of the height, 0 below.
    fn y(&self, part: f64) -> f64 {
        self.top + self.height * (1.0 - part.clamp(0.0, 1.0))
    }

    fn add(&mut self, element: impl Display) {
        // Writing to a String cannot fail.
        write!(self.svg, "{element}").ok();
    }

    /// A line across, with its figure at the left.
    fn grid(&mut self, part: f64, figure: &str) {
        let (y, right) = (self.y(part), WIDTH - RIGHT);
        self.add(format_args!("<path class=\"rule\" d=\"M{LEFT} {y:.1}H{right}\"/>"));
        self.text(LEFT - 8.0, y + 4.0, "end", "", figure);
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
        let text = escaped(text);
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>"
        ));
    }

    /// The axis of time.
    fn time(&mut self) {
        let step = step(self.seconds / 10.0);
        let y = self.top + self.height + 17.0;
        let mut at = 0.0;
        while at <= self.seconds {
            let (x, low) = (self.x(at), self.top + self.height);
            self.add(format_args!("<path class=\"tick\" d=\"M{x:.1} {low:.1}v4\"/>"));
            let anchor = if at > 0.0 { "middle" } else { "start" };
            let figure = if step < 1.0 { format!("{at:.1}") } else { format!("{at:.0}") };
            self.text(x, y, anchor, "", &format!("{figure} s"));
            at += step;
        }
    }

    /// What was done when, as bands.
    fn bands(&mut self, report: &Report) {
        for (step, from, to) in done(report) {
            let (left, width) = (self.x(from), (self.x(to) - self.x(from)).max(1.0));
            let (top, height) = (self.top, self.height);
            let names: Vec<_> = step.paths.iter().map(|path| path.path.as_str()).collect();
            let names = names.join(", ");
            let title = escaped(&format!("{names}: {}, {from:.1} s to {to:.1} s", step.description));
            self.add(format_args!(
                "<rect class=\"cut\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"><title>{title}</title></rect>"
            ));
        }
    }

    /// Labels of the bands, above the field.
    fn labels(&mut self, labels: &[Label]) {
        for label in labels {
            let (y, left, top) = (self.top - 5.0 - LABEL * label.row as f64, label.left, self.top);
            self.text(label.at, y, "start", "mark", &label.text);
            self.add(format_args!("<path class=\"mark\" d=\"M{left:.1} {y:.1}V{top:.1}\"/>"));
        }
    }

    /// The whole picture.
    fn finish(self, title: &str) -> String {
        let height = self.top + self.height + AXIS;
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">{}</svg>\n",
            escaped(title),
            self.svg
        )
    }
}

/// What was done to paths, with its time.
fn done(report: &Report) -> impl Iterator<Item = (&Step, f64, f64)> {
    report.steps.iter().filter_map(|step| {
        let from = step.paths.iter().map(|path| path.from_seconds).reduce(f64::min)?;
        let to = step.paths.iter().map(|path| path.to_seconds).reduce(f64::max)?;
        Some((step, from, to))
    })
}

/// The name of a band.
struct Label {
    text: String,
    at: f64,
    row: usize,
    /// Where the band begins.
    left: f64,
}

/// Labels in rows, so that none lies on another; what has no room has none.
fn labels(report: &Report) -> Vec<Label> {
    let field = Field::new(report, 0.0, 0.0);
    let mut ends = [f64::MIN; ROWS];
    let label = |(step, from, _): (&Step, f64, f64)| {
        let names: Vec<_> = step.paths.iter().map(|path| short(&path.path)).collect();
        let names = match names.as_slice() {
            [first, .., last] if names.len() > 2 => format!("{first} to {last}"),
            few => few.join(", "),
        };
        let text = if names == TARGET { step.action.to_owned() } else { format!("{} {names}", step.action) };
        let wide = text.chars().count() as f64 * CHARACTER;
        let left = field.x(from);
        let at = left.min(WIDTH - RIGHT - wide);
        let row = ends.iter().position(|end| *end < at)?;
        *ends.get_mut(row)? = at + wide + 6.0;
        Some(Label { text, at, row, left })
    };
    done(report).filter_map(label).collect()
}

/// A path's name beside a plot, its middle left out if it is long.
fn short(name: &str) -> String {
    let count = name.chars().count();
    if count <= NAME {
        return name.to_owned();
    }
    let head: String = name.chars().take(NAME / 2).collect();
    let tail: String = name.chars().skip(count - NAME / 2).collect();
    format!("{head}…{tail}")
}

/// A round number, not smaller.
fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-9).log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| power * times >= least * 0.999);
    power * times.unwrap_or(10.0)
}

/// What the paths carry together, each on top of the one before.
pub(super) fn throughput(report: &Report) -> String {
    let labels = labels(report);
    let rows = labels.iter().map(|label| label.row + 1).max().unwrap_or_default();
    let mut field = Field::new(report, LABEL * rows as f64 + 8.0, 240.0);
    let times = middles(&report.series.at_seconds);
    let mut base = vec![0.0; times.len()];
    let mut areas = Vec::new();
    for path in &report.series.paths {
        let tops: Vec<f64> = base.iter().zip(path.bytes_per_second()).map(|(base, own)| base + own).collect();
        areas.push((path.name.as_str(), base, tops.clone()));
        base = tops;
    }
    let most = base.iter().copied().fold(1.0, f64::max);
    let mebibyte = f64::from(1 << 20);
    let step = step(most / mebibyte / 4.0) * mebibyte;
    let most = (most / step).ceil() * step;
    let mut at = 0.0;
    while at <= most * 1.001 {
        field.grid(at / most, &format!("{}/s", whole(at)));
        at += step;
    }
    field.bands(report);
    field.labels(&labels);
    for (number, (name, base, tops)) in areas.into_iter().enumerate() {
        let point =
            |(time, value): (&f64, &f64)| format!("{:.1} {:.1}", field.x(*time), field.y(value / most));
        let upper = times.iter().zip(&tops).map(point);
        let lower = times.iter().zip(&base).rev().map(point);
        let line = upper.chain(lower).collect::<Vec<_>>().join("L");
        let (colour, name) = (number % COLOURS, escaped(name));
        field.add(format_args!("<path class=\"area c{colour}\" d=\"M{line}Z\"><title>{name}</title></path>"));
    }
    field.time();
    field.finish("Throughput of each path over time")
}

/// Middles of intervals that end at these times.
fn middles(ends: &[f64]) -> Vec<f64> {
    let begins = std::iter::once(0.0).chain(ends.iter().copied());
    begins.zip(ends).map(|(begin, end)| f64::midpoint(begin, *end)).collect()
}

/// How each path stood over time.
pub(super) fn states(report: &Report) -> String {
    const LANE: f64 = 22.0;
    let lanes = report.series.paths.len() as f64;
    let mut field = Field::new(report, 4.0, LANE * lanes);
    for (row, path) in (0_u32..).zip(&report.series.paths) {
        let y = field.top + LANE * f64::from(row);
        field.text(LEFT - 8.0, y + 15.0, "end", "", &short(&path.name));
        for (from, to, state) in runs(path, &report.series.at_seconds) {
            let (left, right) = (field.x(from), field.x(to));
            let (width, high) = ((right - left).max(1.0), LANE - 6.0);
            let class = match state {
                "up" => "up",
                "marginal" | "suspect" | "draining" => "doubt",
                "none" => "none",
                _ => "down",
            };
            let top = y + 3.0;
            field.add(format_args!(
                "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{high}\"><title>{state}, {from:.1} s to {to:.1} s</title></rect>"
            ));
            if width > state.len() as f64 * CHARACTER + 8.0 && class != "up" {
                field.text(left + 5.0, y + 15.0, "start", "on", state);
            }
        }
        for step in &report.steps {
            for own in step.paths.iter().filter(|own| own.path == path.name) {
                let (left, right) = (field.x(own.from_seconds), field.x(own.to_seconds));
                let (width, top) = ((right - left).max(1.0), y + 1.0);
                let high = LANE - 2.0;
                field.add(format_args!(
                    "<rect class=\"span\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{high}\"/>"
                ));
            }
        }
    }
    field.time();
    field.finish("State of each path over time")
}

/// Times in which the state is the same, each from when it was first seen: what follows a cut does not begin before it.
fn runs<'p>(path: &'p PathSeries, ends: &[f64]) -> Vec<(f64, f64, &'p str)> {
    let mut runs: Vec<(f64, f64, &str)> = Vec::new();
    for (at, state) in ends.iter().zip(&path.state) {
        match runs.last_mut() {
            Some(last) if last.2 == state => last.1 = *at,
            Some(last) => {
                last.1 = *at;
                runs.push((*at, *at, state));
            }
            None => runs.push((0.0, *at, state)),
        }
    }
    runs
}

/// How long commands took.
pub(super) fn latency(report: &Report) -> String {
    let mut field = Field::new(report, 8.0, 200.0);
    let series = &report.series;
    let lines: &[(&str, &str, &Vec<Option<f64>>)] = if report.load.whose == "own" {
        &[
            ("longest", "max", &series.latency_max_seconds),
            ("median", "median", &series.latency_median_seconds),
        ]
    } else {
        &[("mean, by Braid", "median", &series.latency_mean_seconds)]
    };
    let values = || lines.iter().flat_map(|(.., values)| values.iter().flatten().copied());
    let low = values().fold(1e-3, f64::min).max(1e-6).log10().floor();
    let high = values().fold(1e-2, f64::max).log10().ceil().max(low + 1.0);
    let part = |value: f64| (value.max(1e-9).log10() - low) / (high - low);
    let mut power = low;
    while power <= high + 0.5 {
        field.grid((power - low) / (high - low), &decade(power));
        power += 1.0;
    }
    field.bands(report);
    let times = middles(&series.at_seconds);
    for (name, class, values) in lines {
        let mut line = String::new();
        let mut pen = 'M';
        for (time, value) in times.iter().zip(values.iter()) {
            let Some(value) = value else {
                pen = 'M';
                continue;
            };
            let (x, y) = (field.x(*time), field.y(part(*value)));
            write!(line, "{pen}{x:.1} {y:.1}").ok();
            if pen == 'M' {
                // Alone it would not be seen.
                line.push_str("h.1");
            }
            pen = 'L';
        }
        field.add(format_args!("<path class=\"line {class}\" d=\"{line}\"><title>{name}</title></path>"));
    }
    field.time();
    field.finish("Time of commands over time")
}

fn decade(power: f64) -> String {
    seconds(10f64.powf(power)).replace(".00 ", " ").replace(".0 ", " ")
}

/// How often nothing completed for how long.
pub(super) fn stalls(report: &Report) -> String {
    let mut field = Field::new(report, 22.0, 150.0);
    let classes = &report.stalls.classes;
    let most = classes.iter().map(|class| class.count).max().unwrap_or_default() as f64;
    let column = (WIDTH - LEFT - RIGHT) / classes.len().max(1) as f64;
    field.grid(0.0, "0");
    let mut before = None;
    for (number, own) in (0_u32..).zip(classes) {
        let left = LEFT + column * f64::from(number);
        let name = class(own.below_seconds, before).replacen(' ', "", 1);
        let long = before.is_some_and(|before: f64| report.stalls.longest_seconds >= before)
            && own.below_seconds.is_none_or(|below| report.stalls.longest_seconds < below);
        before = own.below_seconds;
        let y = field.top + field.height + 17.0;
        field.text(left + column / 2.0, y, "middle", "small", &name);
        if own.count == 0 {
            continue;
        }
        let part = (own.count as f64).ln_1p() / most.ln_1p();
        let (top, class) = (field.y(part), if long { "bar long" } else { "bar" });
        let (x, width, high) = (left + 4.0, column - 8.0, field.top + field.height - top);
        let count = own.count;
        field.add(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{high:.1}\"><title>{name}: {count} times</title></rect>"
        ));
        field.text(left + column / 2.0, top - 5.0, "middle", "figure", &count.to_string());
    }
    field.finish("Times between completions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_axes_are_round_and_not_too_small() {
        for (least, round) in [(0.03, 0.05), (0.2, 0.2), (1.2, 2.0), (6.0, 10.0), (100.0, 100.0)] {
            assert!((step(least) - round).abs() < 1e-9, "{least}: {}", step(least));
        }
    }

    #[test]
    fn a_state_begins_when_it_is_first_seen() {
        let state = ["up", "up", "down", "up"].map(str::to_owned).to_vec();
        let path = PathSeries { state, ..PathSeries::default() };
        let found = runs(&path, &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(found, [(0.0, 3.0, "up"), (3.0, 4.0, "down"), (4.0, 4.0, "up")]);
    }

    #[test]
    fn long_names_are_shortened_and_decades_are_round() {
        assert_eq!(short("[fd00::1234:5678]:3260"), "[fd00::…8]:3260");
        assert_eq!(
            ["1 ms", "100 ms", "1 s", "100 s"],
            [-3.0, -1.0, 0.0, 2.0].map(decade).each_ref().map(String::as_str)
        );
    }

    #[test]
    fn what_others_say_does_nothing_to_the_page() {
        assert_eq!(escaped("<script>\"&\""), "&lt;script&gt;&quot;&amp;&quot;");
    }
}
