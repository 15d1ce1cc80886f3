//! Reading the keys of a table: which there are, which must be there, and which nobody asked for.

use super::draft::{Placed, Section, Value};
use super::problem::{Place, Problem};
use super::value::{self, Read};

/// Reads a value of a list, or notes what is wrong with it.
pub(crate) fn checked<T>(
    item: &Placed,
    key: &str,
    problems: &mut Vec<Problem>,
    read: fn(&Value) -> Read<T>,
) -> Option<T> {
    match read(&item.value) {
        Ok(read) => Some(read),
        Err(message) => {
            problems.push(Problem { place: item.place.clone(), key: key.to_owned(), message });
            None
        }
    }
}

/// The keys of one table while they are read: remembers which were asked for, so that the rest are unknown.
pub(crate) struct Keys<'a> {
    section: &'a Section,
    table: &'a str,
    known: Vec<&'static str>,
    /// What is not there but has to be, and what to say of it.
    missing: Vec<(&'static str, String)>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(section: &'a Section, table: &'a str, problems: &'a mut Vec<Problem>) -> Self {
        Self { section, table, known: Vec::new(), missing: Vec::new(), problems }
    }

    pub(crate) fn problem(&mut self, place: Place, key: &str, message: &str) {
        let key = match self.table {
            "" => key.to_owned(),
            table => format!("{table}.{key}"),
        };
        self.problems.push(Problem { place, key, message: message.to_owned() });
    }

    /// A key has to be there and is not. That is not said where a key that is not known is this one, mistyped.
    pub(crate) fn missing(&mut self, key: &'static str, message: &str) {
        self.missing.push((key, message.to_owned()));
    }

    /// Where the table begins.
    pub(crate) fn place(&self) -> Place {
        self.section.place.clone()
    }

    /// The value of a key that is read by other means.
    pub(crate) fn placed(&mut self, key: &'static str) -> Option<&'a Placed> {
        self.known.push(key);
        self.section.get(key)
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.section.get(key).is_some()
    }

    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&Value) -> Read<T>,
    ) -> Option<T> {
        self.known.push(key);
        let placed = self.section.get(key)?;
        read(&placed.value).map_err(|message| self.problem(placed.place.clone(), key, &message)).ok()
    }

    pub(crate) fn or<T>(&mut self, key: &'static str, default: T, read: impl FnOnce(&Value) -> Read<T>) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    pub(crate) fn required<T>(
        &mut self,
        key: &'static str,
        remedy: &str,
        read: impl FnOnce(&Value) -> Read<T>,
    ) -> Option<T> {
        if self.section.get(key).is_none() {
            self.missing(key, &format!("is missing; {remedy}"));
        }
        self.optional(key, read)
    }

    /// A list; a single value that is no table stands for a list of one. None if the key is missing.
    pub(crate) fn list<T>(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&Placed, &mut Vec<Problem>) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.known.push(key);
        let placed = self.section.get(key)?;
        let items = match &placed.value {
            Value::List(items) => items.as_slice(),
            Value::Table(_) => {
                let message = format!("is a table, must be a list; write [[{key}]] or {key} = [...]");
                self.problem(placed.place.clone(), key, &message);
                return None;
            }
            Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other(_) => {
                std::slice::from_ref(placed)
            }
        };
        if items.is_empty() {
            self.problem(placed.place.clone(), key, "must not be empty; write at least one, or leave the key out for the default where there is one");
        }
        Some(items.iter().filter_map(|item| read(item, self.problems)).collect())
    }

    /// A table within the table; an absent one is empty.
    pub(crate) fn table<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Keys<'_>) -> T) -> T {
        self.known.push(key);
        let empty = Section::new(self.section.place.clone());
        let section = match self.section.get(key) {
            None => &empty,
            Some(Placed { value: Value::Table(section), .. }) => section,
            Some(other) => {
                let message = format!("is {}, must be a table such as {key} = {{ ... }}", other.value.kind());
                self.problem(other.place.clone(), key, &message);
                &empty
            }
        };
        self.inner(key, section, read)
    }

    /// A table within the table, found already.
    pub(crate) fn inner<T>(
        &mut self,
        key: &str,
        section: &Section,
        read: impl FnOnce(&mut Keys<'_>) -> T,
    ) -> T {
        let name = match self.table {
            "" => key.to_owned(),
            table => format!("{table}.{key}"),
        };
        let mut keys = Keys::new(section, &name, self.problems);
        let result = read(&mut keys);
        keys.reject_unknown();
        result
    }

    pub(crate) fn reject_unknown(&mut self) {
        let mut mistyped = Vec::new();
        for (key, place, _) in &self.section.entries {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            let hint = match value::nearest(key, self.known.iter().copied()) {
                Some(near) => {
                    mistyped.push(near);
                    format!("did you mean {near}?")
                }
                None => format!("known here are: {}", self.known.join(", ")),
            };
            self.problem(place.clone(), key, &format!("is not known; {hint}"));
        }
        for (key, message) in std::mem::take(&mut self.missing) {
            if !mistyped.contains(&key) {
                self.problem(self.section.place.clone(), key, &message);
            }
        }
    }
}
