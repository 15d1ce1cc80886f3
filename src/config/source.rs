//! Where a configuration comes from, so that it can be read again while Braid runs.

use super::diff::Change;
use super::draft::{self, Section, Value};
use super::problem::Place;
use super::{Config, ConfigError, schema};
use std::path::{Path, PathBuf};

/// A file, and the flags that win over it.
#[derive(Clone, Debug)]
pub struct Source {
    file: Option<PathBuf>,
    flags: Section,
}

impl Source {
    /// These flags, over this file if there is one.
    #[must_use]
    pub fn new(file: Option<PathBuf>, flags: Section) -> Self {
        Self { file, flags }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads and checks everything anew.
    ///
    /// # Errors
    /// [`ConfigError`] with all problems; an unreadable file is one too.
    pub fn read(&self) -> Result<Written, ConfigError> {
        let Some(file) = &self.file else {
            return Written::check("command line".to_owned(), self.flags.clone());
        };
        let name = file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(text) => Written::parse(&text, name, &self.flags),
            Err(error) => Err(ConfigError::unreadable(name, &error)),
        }
    }
}

/// A configuration, and how it was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// What it comes to.
    pub config: Config,
    file: String,
    section: Section,
}

impl Written {
    /// Checks the text of a file, over which flags win.
    pub(super) fn parse(text: &str, file: String, flags: &Section) -> Result<Self, ConfigError> {
        let (mut section, problems) = draft::parse_toml(text);
        // What is read in spite of a syntax error is guesswork: do not complain about it too.
        ConfigError::unless_empty(problems, &file)?;
        section.overlay(flags);
        Self::check(file, section)
    }

    pub(super) fn check(file: String, section: Section) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let config = schema::config(&section, &mut problems);
        ConfigError::unless_empty(problems, &file)?;
        Ok(Self { config, file, section })
    }

    /// Where a setting is written, or the table in which it was: `file:line:column`, or the flag.
    #[must_use]
    pub fn place(&self, change: &Change) -> String {
        let table = change.table.as_deref().and_then(|table| self.table(table)).unwrap_or(&self.section);
        let place = match table.get(change.key.split(['.', ' ']).next().unwrap_or_default()) {
            Some(placed) => &placed.place,
            None => &table.place,
        };
        match place {
            Place::File { .. } => format!("{}:{place}", self.file),
            Place::Flag(flag) => flag.clone(),
        }
    }

    fn table(&self, name: &str) -> Option<&Section> {
        let at = self.config.targets.iter().position(|target| target.table == name)?;
        match &self.section.get("target")?.value {
            Value::List(tables) => match &tables.get(at)?.value {
                Value::Table(table) => Some(table),
                Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::List(_) | Value::Other(_) => {
                    None
                }
            },
            Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::Table(_) | Value::Other(_) => {
                None
            }
        }
    }
}
