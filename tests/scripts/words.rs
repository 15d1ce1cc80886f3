//! An input taken apart into words: phrases, flags, and `name=value`. What nobody took is an error.

use braid::iscsi::text::{KeyList, parse_number};

/// A line's words that have not been taken yet.
pub(crate) struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self(text.split_whitespace().collect())
    }

    /// Takes `phrase` if the words begin with it.
    pub(crate) fn begin(&mut self, phrase: &str) -> bool {
        let wanted: Vec<&str> = phrase.split_whitespace().collect();
        let begins = self.0.starts_with(&wanted);
        if begins {
            self.0.drain(..wanted.len());
        }
        begins
    }

    /// Takes the next word.
    pub(crate) fn next(&mut self) -> Result<&'a str, String> {
        if self.0.is_empty() { Err("a word is missing".into()) } else { Ok(self.0.remove(0)) }
    }

    /// Takes a flag, wherever it stands.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let found = self.0.iter().position(|word| *word == name);
        found.map(|at| self.0.remove(at)).is_some()
    }

    /// Takes the value of `name=value`.
    pub(crate) fn value(&mut self, name: &str) -> Option<&'a str> {
        let of = |word: &&'a str| word.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
        let at = self.0.iter().position(|word| of(word).is_some())?;
        of(&self.0.remove(at))
    }

    /// Takes the number `name=number`, decimal or hexadecimal.
    pub(crate) fn number<T: TryFrom<u64>>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(text) = self.value(name) else { return Ok(None) };
        let number = parse_number(text).and_then(|number| T::try_from(number).ok());
        number.map(Some).ok_or_else(|| format!("{name}={text} is no number that fits"))
    }

    pub(crate) fn number_or<T: TryFrom<u64>>(&mut self, name: &str, otherwise: T) -> Result<T, String> {
        Ok(self.number(name)?.unwrap_or(otherwise))
    }

    /// Takes a tag; left out it is the one that names nothing.
    pub(crate) fn tag(&mut self, name: &str) -> Result<u32, String> {
        self.number_or(name, u32::MAX)
    }

    /// Takes all pairs whose key starts like those of the RFC, as text keys. `value*n` repeats a value n times.
    pub(crate) fn keys(&mut self) -> KeyList {
        let named =
            |word: &str| word.starts_with(|c: char| c.is_ascii_uppercase()) || word.starts_with("iSCSI");
        let is_key = |word: &&str| word.contains('=') && named(word);
        let (keys, rest): (Vec<&str>, Vec<&str>) = self.0.iter().partition(|word| is_key(word));
        self.0 = rest;
        let mut list = KeyList::new();
        for (key, value) in keys.iter().filter_map(|word| word.split_once('=')) {
            list.push(key, repeated(value));
        }
        list
    }

    /// All words must have been taken.
    pub(crate) fn end(self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(format!("not understood: {}", self.0.join(" "))) }
    }
}

fn repeated(value: &str) -> String {
    let times = value.rsplit_once('*').and_then(|(unit, times)| Some((unit, times.parse().ok()?)));
    times.map_or_else(|| value.to_owned(), |(unit, times)| unit.repeat(times))
}

/// The bytes of `text`, where `\0` stands for NUL and `_` for a blank.
pub(crate) fn raw(text: &str) -> Vec<u8> {
    text.replace("\\0", "\0").replace('_', " ").into_bytes()
}

/// Bytes written as hexadecimal digits.
pub(crate) fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes()
        .chunks(2)
        .map(pair)
        .collect::<Option<_>>()
        .ok_or_else(|| format!("{text} is not in hexadecimal"))
}
