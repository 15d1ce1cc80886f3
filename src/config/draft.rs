//! Settings as typed: a tree of values that remember where they stand.

use super::problem::{Place, Problem};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value as typed.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// A string.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// True or false.
    Boolean(bool),
    /// A list.
    List(Vec<Placed>),
    /// A table.
    Table(Section),
    /// Something no setting takes; its type's name.
    Other(&'static str),
}

impl Value {
    /// The type's name in messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(name) => name,
        }
    }
}

/// A value and where it stands.
#[derive(Clone, PartialEq, Debug)]
pub struct Placed {
    /// Where.
    pub place: Place,
    /// What.
    pub value: Value,
}

/// A table: keys in the order written.
#[derive(Clone, PartialEq, Debug)]
pub struct Section {
    /// Where the table begins.
    pub place: Place,
    /// Keys (with their places) and values.
    pub entries: Vec<(String, Place, Placed)>,
}

impl Section {
    /// An empty section.
    #[must_use]
    pub fn new(place: Place) -> Self {
        Self { place, entries: Vec::new() }
    }

    /// Adds a setting that was given by a flag.
    ///
    /// A key that is there already is replaced: flags win over the file.
    pub fn set(&mut self, key: &str, flag: &str, value: Value) {
        let place = Place::Flag(flag.to_owned());
        self.entries.retain(|(name, _, _)| name != key);
        self.entries.push((key.to_owned(), place.clone(), Placed { place, value }));
    }

    /// Takes over the settings of another section, which win over those of this one.
    pub(super) fn overlay(&mut self, flags: &Self) {
        self.entries.retain(|(name, _, _)| flags.get(name).is_none());
        self.entries.extend(flags.entries.iter().cloned());
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Placed> {
        self.entries.iter().find(|(name, _, _)| name == key).map(|(_, _, value)| value)
    }
}

/// Reads TOML. Syntax errors become problems; what could be read in spite of them is returned.
pub(crate) fn parse_toml(text: &str) -> (Section, Vec<Problem>) {
    let lines = Lines::new(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let problems = errors
        .iter()
        .map(|error| Problem {
            place: lines.place(error.span().map_or(0, |span| span.start)),
            key: String::new(),
            message: format!("not TOML: {}", error.message().trim().replace('\n', ", ")),
        })
        .collect();
    (section(&table, &lines), problems)
}

fn section(table: &Spanned<DeTable<'_>>, lines: &Lines<'_>) -> Section {
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let entries = entries
        .into_iter()
        .map(|(key, value)| {
            let place = lines.place(key.span().start);
            (key.get_ref().to_string(), place, placed(value, lines))
        })
        .collect();
    Section { place: lines.place(table.span().start), entries }
}

fn placed(value: &Spanned<DeValue<'_>>, lines: &Lines<'_>) -> Placed {
    let place = lines.place(value.span().start);
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number too large"), Value::Integer),
        DeValue::Array(items) => Value::List(items.iter().map(|item| placed(item, lines)).collect()),
        DeValue::Table(table) => Value::Table(section(&Spanned::new(value.span(), table.clone()), lines)),
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Other("a date"),
    };
    Placed { place, value }
}

/// Finds lines and columns of byte offsets.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|&start| start <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Place::File { line, column }
    }
}
