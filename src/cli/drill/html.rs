//! A report as one HTML file: nothing is loaded from anywhere, and nothing in it runs.

use super::plot::{self, COLOURS, escaped};
use super::report::{Report, Verdict};
use super::text::{figure, found, objective, seconds, wanted, whole};
use crate::cli::screen::{bytes, percent};
use std::fmt::Write;

const STYLE: &str = include_str!("report.css");

/// The page.
pub(super) fn page(report: &Report) -> String {
    let title = escaped(&report.scenario.name);
    let parts = [
        head(report),
        tiles(report),
        card("Objectives", "", &objectives(report)),
        plots(report),
        card("Steps", "", &steps(report)),
        card("Paths", "What each carried while the drill ran.", &paths(report)),
        events(report),
        facts(report),
    ];
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}: Braid drill</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
        parts.concat()
    )
}

fn card(title: &str, note: &str, content: &str) -> String {
    let note = if note.is_empty() { String::new() } else { format!("<p class=\"note\">{note}</p>\n") };
    format!("<section class=\"card\">\n<h2>{title}</h2>\n{note}{content}</section>\n")
}

fn head(report: &Report) -> String {
    let (class, word) = if report.passed { ("verdict", "Passed") } else { ("verdict failed", "Not passed") };
    let ground = match report.scenario.ground {
        "lab" => "in the lab",
        "links" => "over links of the kernel&#8217;s",
        _ => "in a running Braid",
    };
    let name = escaped(&report.scenario.name);
    let mut text = format!(
        "<header>\n<h1>{name}</h1>\n<span class=\"{class}\">{word}</span>\n</header>\n\
         <p class=\"soft\">Braid drill {ground}, {}, {}</p>\n",
        seconds(report.ended.after_seconds),
        escaped(&report.began)
    );
    if let Some(why) = &report.ended.why {
        writeln!(
            text,
            "<p class=\"why\">{} after {}: {}</p>",
            report.ended.how,
            seconds(report.ended.after_seconds),
            escaped(why)
        )
        .ok();
    }
    for complaint in report.load.complaints.iter().take(5) {
        writeln!(text, "<p class=\"why\">{}</p>", escaped(complaint)).ok();
    }
    text
}

fn tiles(report: &Report) -> String {
    let load = &report.load;
    let carried = (load.read_bytes + load.written_bytes) as f64;
    let mut tiles =
        vec![(seconds(report.stalls.longest_seconds), "longest stall"), (load.errors.to_string(), "errors")];
    tiles.extend(load.wrong_blocks.map(|blocks| (blocks.to_string(), "wrong blocks")));
    tiles.extend(load.verified_bytes.map(|verified| (bytes(verified), "compared")));
    tiles.push((format!("{}/s", whole(carried / report.ended.after_seconds.max(0.001))), "throughput"));
    tiles.extend(load.latency.as_ref().map(|latency| (seconds(latency.median_seconds), "median time")));
    tiles.extend(load.latency.as_ref().map(|latency| (seconds(latency.p99_seconds), "99 % within")));
    let mut text = "<div class=\"tiles\">\n".to_owned();
    for (value, name) in tiles {
        writeln!(text, "<div class=\"tile\"><b>{value}</b><span>{name}</span></div>").ok();
    }
    text + "</div>\n"
}

/// A table; cells of columns whose title begins with `>` are numbers.
fn table(titles: &[&str], rows: &[Vec<String>]) -> String {
    let class = |number: usize| {
        let right = titles.get(number).is_some_and(|title| title.starts_with('>'));
        if right { " class=\"number\"" } else { "" }
    };
    let mut text = "<div class=\"scroll\"><table>\n<tr>".to_owned();
    for (number, title) in titles.iter().enumerate() {
        write!(text, "<th{}>{}</th>", class(number), title.trim_start_matches('>')).ok();
    }
    text.push_str("</tr>\n");
    for row in rows {
        text.push_str("<tr>");
        for (number, cell) in row.iter().enumerate() {
            write!(text, "<td{}>{cell}</td>", class(number)).ok();
        }
        text.push_str("</tr>\n");
    }
    text + "</table></div>\n"
}

fn objectives(report: &Report) -> String {
    let row = |verdict: &Verdict| {
        let met = if verdict.met {
            "<span class=\"met\">✓ met</span>"
        } else {
            "<span class=\"missed\">✗ not met</span>"
        };
        let note = escaped(verdict.note.as_deref().unwrap_or_default());
        vec![met.to_owned(), objective(verdict), found(verdict), wanted(verdict), note]
    };
    let rows: Vec<_> = report.objectives.iter().map(row).collect();
    table(&["", "", ">found", ">wanted", ""], &rows)
}

fn plots(report: &Report) -> String {
    let scroll = |svg: String| format!("<div class=\"scroll\">{svg}</div>\n");
    let paths = report.series.paths.iter().enumerate();
    let keys = paths.map(|(number, path)| key(&format!("c{}", number % COLOURS), &path.name));
    let throughput = card(
        "Throughput",
        "Payload both ways, one path on top of the other. What the drill did is marked in red.",
        &(legend(keys) + &scroll(plot::throughput(report))),
    );
    let keys = [
        ("is-up", "up"),
        ("is-doubt", "marginal, suspect or draining"),
        ("is-down", "down, probing or drained"),
    ];
    let states = card(
        "Paths as Braid saw them",
        "Dashed: when the drill was at work on the path. The worst of all sessions counts.",
        &(legend(keys.iter().map(|(class, name)| key(class, name))) + &scroll(plot::states(report))),
    );
    let keys: &[_] = if report.load.whose == "own" {
        &[("is-max", "longest"), ("is-median", "median")]
    } else {
        &[("is-median", "mean, as Braid counts it")]
    };
    let latency = card(
        "Time of commands",
        "From submission to completion, by when they completed; the scale is logarithmic.",
        &(legend(keys.iter().map(|(class, name)| key(class, name))) + &scroll(plot::latency(report))),
    );
    let longest = seconds(report.stalls.longest_seconds);
    let at = report.stalls.longest_at_seconds.map_or_else(String::new, |at| format!(", begun at {at:.1} s"));
    let resolution = if report.stalls.resolution_seconds > 0.0 {
        format!(
            " Looked at every {}: what is shorter was not seen, but around the loss of a path.",
            seconds(report.stalls.resolution_seconds)
        )
    } else {
        String::new()
    };
    let note = format!(
        "How often nothing completed for how long while commands were under way; heights are logarithmic. The longest: \
         {longest}{at}.{resolution}"
    );
    let stalls = card("Stalls", &note, &scroll(plot::stalls(report)));
    [throughput, states, latency, stalls].concat()
}

fn key(class: &str, name: &str) -> String {
    format!("<span><i class=\"{class}\"></i>{}</span>", escaped(name))
}

fn legend(keys: impl Iterator<Item = String>) -> String {
    format!("<p class=\"legend\">{}</p>\n", keys.collect::<String>())
}

fn steps(report: &Report) -> String {
    let mut rows = Vec::new();
    for step in &report.steps {
        for path in &step.paths {
            let back = path.back_after_seconds.map_or_else(
                || "<span class=\"missed\">not back</span>".to_owned(),
                |back| format!("after {}", seconds(back)),
            );
            rows.push(vec![
                format!("{:.1} s", path.from_seconds),
                format!("{:.1} s", path.to_seconds),
                escaped(&path.path),
                escaped(&step.description),
                back,
                step.line.to_string(),
            ]);
        }
    }
    table(&[">from", ">to", "path", "what was done", "back in use", ">line"], &rows)
}

fn paths(report: &Report) -> String {
    let all: u64 = report.paths.iter().map(|path| path.read_bytes + path.written_bytes).sum();
    let row = |path: &super::report::Path| {
        vec![
            escaped(&path.name),
            escaped(&path.portal),
            bytes(path.read_bytes),
            bytes(path.written_bytes),
            percent(path.read_bytes + path.written_bytes, all),
            path.commands.to_string(),
        ]
    };
    let rows: Vec<_> = report.paths.iter().map(row).collect();
    table(&["path", "portal", ">read", ">written", ">share", ">commands"], &rows)
}

fn events(report: &Report) -> String {
    let row = |event: &super::report::Event| {
        let path = escaped(event.event.path.as_deref().unwrap_or_default());
        let (kind, text) = (escaped(&event.event.kind), escaped(&event.event.text));
        vec![figure(event.at_seconds, "seconds"), kind, path, text]
    };
    let rows: Vec<_> = report.events.iter().map(row).collect();
    let content = table(&[">heard at", "event", "path", ""], &rows);
    let count = rows.len();
    card(
        "What Braid said",
        "",
        &format!("<details>\n<summary>{count} events</summary>\n{content}</details>\n"),
    )
}

fn facts(report: &Report) -> String {
    let scenario = &report.scenario;
    let load = &report.load;
    let whose = if load.whose == "own" { "the drill's own" } else { "the real one, as Braid counts it" };
    let fact = |name: &str, value: String| vec![name.to_owned(), escaped(&value)];
    let rows = [
        fact("scenario", scenario.file.clone()),
        fact("target", scenario.target.clone()),
        fact("Braid", report.braid.clone()),
        fact("began", report.began.clone()),
        fact("planned duration", seconds(scenario.duration_seconds)),
        fact(
            "load",
            format!(
                "{whose}: {} commands, {} read, {} written",
                load.commands,
                bytes(load.read_bytes),
                bytes(load.written_bytes)
            ),
        ),
    ];
    card("About this drill", "", &table(&["", ""], &rows))
}
