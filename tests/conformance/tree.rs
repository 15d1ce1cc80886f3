//! The source tree, and what is looked for in it.

use std::fs;
use std::ops::Range;
use std::path::Path;

/// A file of the tree.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All sources, tests and scripts.
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
}

impl Tree {
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        for folder in ["src", "tests"] {
            collect(root, &root.join(folder), &mut files);
        }
        files.sort_by(|a: &File, b| a.path.cmp(&b.path));
        Self { files }
    }

    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Files that can prove something of Braid. The lab is an instrument, not Braid: its own tests prove the instrument.
    fn proofs(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| !file.path.starts_with("src/lab/"))
    }

    /// Whether a test of this name exists, and whether one cites the number. A name with a slash is that of a script, or
    /// of a file that judges whatever other tests do; any other is that of a test function, or of a trial of a test
    /// target with a runner of its own.
    pub(crate) fn find_test(&self, name: &str, number: u32) -> Found {
        if name.contains('/') {
            let file = self.file(name).filter(|file| file.path.starts_with("tests/"));
            return file.map_or(Found::Nowhere, |file| Found::citing(cites(&file.text, number)));
        }
        let judge = |text: &str| Found::citing(cites(text, number) || cites(name, number));
        let functions = self.proofs().filter_map(|file| test_function(&file.text, name));
        if let Some(found) = functions.map(judge).max() {
            return found;
        }
        let trials = self.proofs().filter(|file| is_trial(file, name)).map(|file| {
            let function = function(&file.text, name.rsplit("::").next().unwrap_or(name));
            function.map_or(file.text.as_str(), |range| &file.text[range])
        });
        trials.map(judge).max().unwrap_or(Found::Nowhere)
    }

    /// Whether `path#item` exists: the item is defined in the file, whatever it is.
    pub(crate) fn has_item(&self, place: &str) -> bool {
        let Some((path, item)) = place.split_once('#') else { return false };
        const KINDS: [&str; 7] = ["fn", "struct", "enum", "trait", "const", "type", "mod"];
        let defined = |text: &str| {
            KINDS.iter().any(|kind| {
                let head = format!("{kind} {item}");
                text.match_indices(&head).any(|(at, _)| stands_alone(text, at, head.len()))
            })
        };
        let braids = path.starts_with("src/") && !path.starts_with("src/lab/");
        braids && self.file(path).is_some_and(|file| defined(&file.text))
    }
}

/// How well a test was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Found {
    Nowhere,
    WithoutCitation,
    Citing,
}

impl Found {
    fn citing(cites: bool) -> Self {
        if cites { Self::Citing } else { Self::WithoutCitation }
    }
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // What cargo builds is tagged.
        if path.join("CACHEDIR.TAG").exists() {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|e| e == "rs" || e == "txt" || e == "toml") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            files.push(File { path: name, text });
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether no word goes on to the left or the right of this part of the text.
fn stands_alone(text: &str, at: usize, length: usize) -> bool {
    !text[..at].ends_with(is_word) && !text[at + length..].starts_with(is_word)
}

/// A function with the comments and attributes above it.
fn function(text: &str, name: &str) -> Option<Range<usize>> {
    let head = format!("fn {name}(");
    let (at, _) = text.match_indices(&head).find(|(at, _)| !text[..*at].ends_with(is_word))?;
    let mut start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let indent: String = text[start..].chars().take_while(|c| *c == ' ').collect();
    let end = text[at..].find(&format!("\n{indent}}}")).map_or(text.len(), |end| at + end + 1);
    while start > 0 {
        let above = text[..start - 1].rfind('\n').map_or(0, |end| end + 1);
        let line = text[above..start].trim_start();
        if !line.starts_with("//") && !line.starts_with("#[") {
            break;
        }
        start = above;
    }
    Some(start..end)
}

/// A function that the test harness runs.
fn test_function<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let found = &text[function(text, name)?];
    (found.contains("#[test]") || found.contains("#[tokio::test")).then_some(found)
}

/// Whether a file lists a trial of this name: by the whole name, or, in a module of that name, by its last part.
fn is_trial(file: &File, name: &str) -> bool {
    let lists = |name: &str| file.text.contains(&format!("\"{name}\""));
    let in_module = || {
        let (module, last) = name.rsplit_once("::")?;
        let folder = format!("/{}", module.replace("::", "/"));
        Some(
            lists(last)
                && (file.path.contains(&format!("{folder}.rs")) || file.path.contains(&format!("{folder}/"))),
        )
    };
    file.path.starts_with("tests/")
        && !file.path.starts_with("tests/conformance/")
        && (lists(name) || in_module().unwrap_or(false))
}

/// Numbers that a text cites, with their lines: `R93`, `..._r93_...` within a name, `rule(93`, `requirement: 93`.
pub(crate) fn citations(text: &str) -> Vec<(usize, u32)> {
    let mut found = Vec::new();
    let mut at = 0;
    for word in text.split(|c| !is_word(c)) {
        let before = text[..at].trim_end();
        let named = ["rule(", "requirement:"].iter().any(|head| before.ends_with(head)).then_some(word);
        let parts = word.split('_').filter(|part| part.len() < word.len());
        let all = word.strip_prefix('R').into_iter().chain(parts.filter_map(|part| part.strip_prefix('r')));
        for number in all.chain(named).filter_map(number) {
            found.push((text[..at].matches('\n').count() + 1, number));
        }
        at += word.len() + text[at + word.len()..].chars().next().map_or(0, char::len_utf8);
    }
    found
}

fn number(digits: &str) -> Option<u32> {
    digits.chars().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn cites(text: &str, number: u32) -> bool {
    citations(text).iter().any(|(_, cited)| *cited == number)
}
