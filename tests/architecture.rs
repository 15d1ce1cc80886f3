//! The fence around the house: which module may use which, what the core must not touch, and what no file may contain.
//!
//! The rules are read off the source text, comments and strings blanked out, tests at the end of a file left away. Each
//! matcher is itself tested below on text that breaks its rule, so that a rule cannot silently stop biting.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Each top module and those it may use. What is not listed does not exist.
const LAYERS: &[(&str, &[&str])] = &[
    ("iscsi", &[]),
    ("scsi", &[]),
    ("path", &[]),
    ("login", &["iscsi"]),
    ("session", &["iscsi", "scsi", "login", "path"]),
    ("metrics", &["iscsi", "session"]),
    ("config", &["login", "path", "session"]),
    ("proxy", &["iscsi", "scsi", "login", "path", "session", "metrics", "config"]),
    ("admin", &["session", "metrics", "config", "proxy"]),
    // The judge shares no code with the accused: the lab knows the wire and the login, never the engine.
    ("lab", &["iscsi", "scsi", "login"]),
    ("cli", &["iscsi", "scsi", "login", "path", "session", "metrics", "config", "proxy", "admin", "lab"]),
];

/// Modules without I/O, clock, threads, global state or chance.
const CORE: &[&str] = &["iscsi", "scsi", "login", "path", "session"];

/// What the core must not name. Hash maps of the standard library iterate in random order.
const NOT_IN_CORE: &[&str] = &[
    "tokio",
    "async",
    ".await",
    "std::net",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime",
    "println",
    "print",
    "eprintln",
    "HashMap",
    "HashSet",
    "RandomState",
    "Mutex",
    "RwLock",
    "mpsc",
    "static mut",
    "tracing",
];

/// What no file may contain, comments included. In two halves, so that this file does not contain it.
const NOWHERE: &[(&str, &str)] =
    &[("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("unimple", "mented!"), ("db", "g!"), ("#[ign", "ore")];

/// Lines of a file, and of a file without its tests.
const MOST_LINES: usize = 1000;
const MOST_LINES_OF_CODE: usize = 600;

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Its top module, if it lies in one.
    fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        let module = rest.split('/').next().unwrap_or(rest);
        let module = module.strip_suffix(".rs").unwrap_or(module);
        (!["lib", "main"].contains(&module)).then_some(module)
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "examples", "benches"] {
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    let read = |file: PathBuf| Source {
        path: file.strip_prefix(root).unwrap().to_string_lossy().into_owned(),
        text: fs::read_to_string(&file).unwrap(),
    };
    files.into_iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        // What cargo builds is tagged.
        if path.join("CACHEDIR.TAG").exists() {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The text before the test module at its end.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

/// The text with comments and the contents of strings and characters blanked; lines stay lines.
fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = end_of_dead_text(&chars, at);
        match end {
            Some(end) => {
                code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
                at = end;
            }
            None => {
                code.push(chars[at]);
                at += 1;
            }
        }
    }
    code
}

/// Where the comment, string or character that begins here ends; none if none begins here.
fn end_of_dead_text(chars: &[char], at: usize) -> Option<usize> {
    let rest = &chars[at..];
    let find = |from: usize, pattern: &[char]| {
        let found = rest[from..].windows(pattern.len()).position(|window| window == pattern);
        found.map_or(chars.len(), |found| at + from + found + pattern.len())
    };
    match rest {
        ['/', '/', ..] => Some(find(2, &['\n']).saturating_sub(1).max(at + 2)),
        ['/', '*', ..] => Some(find(2, &['*', '/'])),
        ['r', '#' | '"', ..] if at == 0 || !is_word(chars[at - 1]) && chars[at - 1] != 'b' => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            let mut close = vec!['"'];
            close.resize(hashes + 1, '#');
            (rest.get(1 + hashes) == Some(&'"')).then(|| find(2 + hashes, &close))
        }
        ['"', ..] => {
            let mut end = 1;
            while end < rest.len() && rest[end] != '"' {
                end += if rest[end] == '\\' { 2 } else { 1 };
            }
            Some((at + end + 1).min(chars.len()))
        }
        ['\'', '\\', ..] => Some(find(3, &['\''])),
        ['\'', _, '\'', ..] => Some(at + 3),
        _ => None,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Lines (from 1) in which a name stands as a whole word.
fn lines_with(text: &str, name: &str) -> Vec<usize> {
    let first_is_word = name.starts_with(is_word);
    let last_is_word = name.ends_with(is_word);
    let stands = |line: &str| {
        line.match_indices(name).any(|(at, _)| {
            let before = line[..at].chars().next_back().is_some_and(is_word);
            let after = line[at + name.len()..].chars().next().is_some_and(is_word);
            !(first_is_word && before || last_is_word && after)
        })
    };
    (1..).zip(text.lines()).filter(|(_, line)| stands(line)).map(|(number, _)| number).collect()
}

/// The top modules of this crate that code names, with their lines.
fn uses(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + path.len()..];
        let modules = match rest.strip_prefix('{') {
            None => vec![rest.split(|c| !is_word(c)).next().unwrap_or_default().to_owned()],
            Some(group) => heads_of_group(group),
        };
        found.extend(modules.into_iter().map(|module| (line, module)));
    }
    found
}

/// The first names in `a::b, c, d::{e, f}}`.
fn heads_of_group(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut heads = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => heads.push(String::new()),
            _ if depth == 0 => heads.last_mut().unwrap().push(c),
            _ => {}
        }
    }
    let head = |text: &String| text.trim().split(|c| !is_word(c)).next().unwrap_or_default().to_owned();
    heads.iter().map(head).filter(|head| !head.is_empty()).collect()
}

fn breaches_of_layers(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else { return Vec::new() };
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{}: module {module} has no place in LAYERS", source.path)];
    };
    let may = |used: &str| used == module || allowed.contains(&used);
    uses(&code_of(without_tests(&source.text)))
        .into_iter()
        .filter(|(_, used)| LAYERS.iter().any(|(name, _)| name == used) && !may(used))
        .map(|(line, used)| format!("{}:{line}: {module} must not use {used}", source.path))
        .collect()
}

fn breaches_of_the_core(source: &Source) -> Vec<String> {
    if !source.module().is_some_and(|module| CORE.contains(&module)) || source.is_test() {
        return Vec::new();
    }
    let code = code_of(without_tests(&source.text));
    let breaches = NOT_IN_CORE.iter().flat_map(|name| {
        let lines = lines_with(&code, name);
        lines
            .into_iter()
            .map(move |line| format!("{}:{line}: `{name}` has no place in the core", source.path))
    });
    breaches.collect()
}

fn breaches_anywhere(source: &Source) -> Vec<String> {
    let mut breaches = Vec::new();
    for (head, tail) in NOWHERE {
        let word = format!("{head}{tail}");
        for line in lines_with(&source.text, &word) {
            breaches.push(format!("{}:{line}: contains {word}", source.path));
        }
    }
    let lines = source.text.lines().count();
    if lines > MOST_LINES {
        breaches.push(format!("{}: {lines} lines; split it, {MOST_LINES} is the limit", source.path));
    }
    let code = without_tests(&source.text).lines().count();
    if code > MOST_LINES_OF_CODE && !source.is_test() {
        breaches.push(format!(
            "{}: {code} lines without tests; split it, {MOST_LINES_OF_CODE} is the limit",
            source.path
        ));
    }
    if source.path.starts_with("src/") && !source.is_test() && !source.text.starts_with("//!") {
        breaches.push(format!("{}: begins without module documentation", source.path));
    }
    breaches
}

fn check(rule: fn(&Source) -> Vec<String>) {
    let sources = sources();
    assert!(sources.len() > 20, "the source tree was not found");
    let mut report = String::new();
    for breach in sources.iter().flat_map(rule) {
        writeln!(report, "{breach}").unwrap();
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn modules_use_only_what_lies_below_them() {
    check(breaches_of_layers);
}

#[test]
fn the_core_does_no_io_and_reads_no_clock() {
    check(breaches_of_the_core);
}

#[test]
fn no_file_is_unfinished_or_too_long() {
    check(breaches_anywhere);
}

#[test]
fn layers_form_no_circle() {
    for (index, (name, allowed)) in LAYERS.iter().enumerate() {
        for used in *allowed {
            let below = LAYERS.iter().take(index).any(|(earlier, _)| earlier == used);
            assert!(below, "{name} may use {used}, which is not listed above it");
        }
    }
}

#[test]
fn the_modules_of_the_library_are_the_layers() {
    let library = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let mut modules: Vec<_> =
        library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut layers: Vec<_> = LAYERS.iter().map(|(name, _)| *name).collect();
    modules.sort_unstable();
    layers.sort_unstable();
    assert_eq!(modules, layers);
}

mod matchers {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: format!("//! Doc.\n{text}") }
    }

    #[test]
    fn a_use_of_a_higher_layer_is_found() {
        for text in [
            "use crate::proxy::dial;",
            "fn f() { crate::proxy::dial() }",
            "use crate::{iscsi::Pdu,\n    proxy};",
            "pub(in crate::proxy) fn f() {}",
        ] {
            let breaches = breaches_of_layers(&source("src/session/mod.rs", text));
            assert_eq!(breaches.len(), 1, "{text}: {breaches:?}");
            assert!(breaches[0].contains("session must not use proxy"), "{breaches:?}");
        }
        assert!(!breaches_of_layers(&source("src/lab/target.rs", "use crate::session::Session;")).is_empty());
        assert!(!breaches_of_layers(&source("src/new/mod.rs", "")).is_empty(), "a module without a place");
    }

    #[test]
    fn a_use_of_a_lower_layer_is_not() {
        let text = "use crate::iscsi::{Pdu, Cid};\nuse crate::{login, scsi::cdb};\n// crate::proxy\n";
        assert!(breaches_of_layers(&source("src/session/mod.rs", text)).is_empty());
        let tested = "fn f() {}\n#[cfg(test)]\nmod tests { use crate::proxy; }";
        assert!(breaches_of_layers(&source("src/session/mod.rs", tested)).is_empty());
    }

    #[test]
    fn each_forbidden_name_is_found_in_the_core_and_nowhere_else() {
        for name in NOT_IN_CORE {
            let text = format!("fn f() {{ x{} {name} (); }}", if name.starts_with('.') { "" } else { ";" });
            assert_eq!(breaches_of_the_core(&source("src/session/a.rs", &text)).len(), 1, "{text}");
            assert!(breaches_of_the_core(&source("src/proxy/a.rs", &text)).is_empty(), "{text}");
            assert!(breaches_of_the_core(&source("src/session/tests.rs", &text)).is_empty(), "{text}");
        }
    }

    #[test]
    fn words_in_comments_strings_and_longer_names_are_not_found() {
        let text = "/// async and tokio\n/* HashMap\nprintln */ fn f() { let s = \"tokio \\\" async\"; let c = '\"'; }\n\
                    type T = FxHashMap<u32, &'static str>;\nlet r = r#\"Mutex \" tokio\"#;\nlet blueprint = 1;\n";
        let breaches = breaches_of_the_core(&source("src/iscsi/a.rs", text));
        assert!(breaches.is_empty(), "{breaches:?}");
    }

    #[test]
    fn blanking_ends_where_comments_and_strings_end() {
        let code = code_of("a // x\nb /* y\n */ c \"d\\\"e\" f 'g' '\\'' h<'i> r\"j\" k");
        let words: Vec<_> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "b", "c", "f", "h<'i>", "k"]);
        assert_eq!(code.lines().count(), 3);
    }

    #[test]
    fn unfinished_work_is_found_even_in_comments() {
        for (head, tail) in NOWHERE {
            let breaches = breaches_anywhere(&source("tests/a.rs", &format!("// {head}{tail}")));
            assert_eq!(breaches.len(), 1, "{head}{tail}: {breaches:?}");
        }
        assert!(breaches_anywhere(&source("tests/a.rs", "let mastodont = 1;")).is_empty());
    }

    #[test]
    fn long_and_undocumented_files_are_found() {
        let code = "x\n".repeat(MOST_LINES_OF_CODE);
        assert_eq!(breaches_anywhere(&source("src/a.rs", &code)).len(), 1);
        assert!(breaches_anywhere(&source("src/a/tests.rs", &code)).is_empty());
        assert_eq!(breaches_anywhere(&source("src/a/tests.rs", &"x\n".repeat(MOST_LINES))).len(), 1);
        let bare = Source { path: "src/a.rs".to_owned(), text: "fn f() {}".to_owned() };
        assert_eq!(breaches_anywhere(&bare).len(), 1);
    }
}
