//! A script file: reading, running, comparing, rewriting.

use std::path::Path;

/// Requirements of the conformance list are numbered R1 to this.
const LAST_REQUIREMENT: u16 = 245;

/// What a script is played on.
pub(crate) trait Stage {
    /// Takes one input and says all that comes out of it, a line for each output.
    ///
    /// # Errors
    /// The input makes no sense, or what comes out breaks a rule that always holds.
    fn step(&mut self, input: &str) -> Result<Vec<String>, String>;
}

/// One input with what is expected of it; other lines are kept as they are.
enum Item {
    Text(String),
    Input { line: usize, text: String, expected: Vec<String> },
}

/// Plays the script; with `bless`, writes down what came out instead of judging it.
pub(crate) fn run(path: &Path, bless: bool, stage: impl FnOnce() -> Box<dyn Stage>) -> Result<(), String> {
    let before = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let items = parse(&before).map_err(|(line, why)| format!("{}:{line}: {why}", place(path)))?;
    let mut stage = stage();
    let (mut after, mut differences) = (String::new(), String::new());
    for item in items {
        let (line, text, expected) = match item {
            Item::Text(text) => {
                after.push_str(&text);
                after.push('\n');
                continue;
            }
            Item::Input { line, text, expected } => (line, text, expected),
        };
        let printed = match stage.step(&text) {
            Ok(printed) => printed,
            Err(why) => {
                if bless {
                    // What came before helps to see why this input is wrong.
                    after.extend(before.lines().skip(line - 1).flat_map(|rest| [rest, "\n"]));
                    std::fs::write(path, after).map_err(|error| error.to_string())?;
                }
                return Err(format!("{}:{line}: {text}\n{why}", place(path)));
            }
        };
        after.push_str(&text);
        after.push('\n');
        for output in &printed {
            after.push_str("    ");
            after.push_str(output);
            after.push('\n');
        }
        if printed != expected {
            differences.push_str(&format!("{}:{line}: {text}\n", place(path)));
            differences.push_str(&difference(&expected, &printed));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    if bless {
        return std::fs::write(path, after).map_err(|error| error.to_string());
    }
    Err(format!(
        "{differences}- is expected, + came out. If what came out is right: BLESS=1 cargo test --test scripts"
    ))
}

fn place(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(path).display().to_string()
}

fn parse(text: &str) -> Result<Vec<Item>, (usize, &'static str)> {
    let mut items = Vec::new();
    let mut header = String::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if line.trim().is_empty() || line.starts_with('#') {
            if items.iter().all(|item| matches!(item, Item::Text(_))) {
                header.push_str(line);
                header.push(' ');
            }
            items.push(Item::Text(line.to_owned()));
        } else if let Some(output) = line.strip_prefix("    ") {
            match items.last_mut() {
                Some(Item::Input { expected, .. }) => expected.push(output.to_owned()),
                _ => return Err((number, "an output without an input")),
            }
        } else {
            items.push(Item::Input { line: number, text: line.to_owned(), expected: Vec::new() });
        }
    }
    let words = header.split(|c: char| !c.is_alphanumeric());
    let mut cited = words.filter_map(|word| word.strip_prefix('R')?.parse::<u16>().ok()).peekable();
    if cited.peek().is_none() {
        return Err((1, "the comment at the top names no requirement"));
    }
    if cited.all(|number| (1..=LAST_REQUIREMENT).contains(&number)) {
        Ok(items)
    } else {
        Err((1, "the comment at the top names a requirement that does not exist"))
    }
}

/// The lines of two blocks, those that differ marked. Blocks are short: what they have in common at both ends is enough.
fn difference(expected: &[String], printed: &[String]) -> String {
    let same = expected.iter().zip(printed).take_while(|(a, b)| a == b).count();
    let (old, new) = (expected.split_at(same).1, printed.split_at(same).1);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, rest) = old.split_at(old.len() - tail);
    let (new, _) = new.split_at(new.len() - tail);
    let marked = [(" ", expected.split_at(same).0), ("-", old), ("+", new), (" ", rest)];
    let mut text = String::new();
    for (mark, lines) in marked {
        for line in lines {
            text.push_str(&format!("  {mark} {line}\n"));
        }
    }
    text
}
