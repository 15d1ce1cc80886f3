//! What is wrong with a configuration, told so that it can be put right.

use std::fmt;

/// Where a setting stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a file: line and column, from 1.
    File {
        /// Line.
        line: usize,
        /// Column in characters.
        column: usize,
    },
    /// On the command line: the flag, with as much of its value as helps to find it.
    Flag(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { line, column } => write!(f, "{line}:{column}"),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// Which key, with the table it stands in (`target.ping_interval`); empty for a syntax error.
    pub key: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, self.key.as_str()) {
            (place, "") => write!(f, "{place}: {}", self.message),
            (Place::Flag(flag), _) => write!(f, "{flag}: {}", self.message),
            (place @ Place::File { .. }, key) => write!(f, "{place}: {key}: {}", self.message),
        }
    }
}

/// A configuration that cannot be used: all its problems, in the order of their places.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Name of the file, or `command line`.
    pub file: String,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// An error if there are problems.
    pub(crate) fn unless_empty(mut problems: Vec<Problem>, file: &str) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort_by_key(|problem| match problem.place {
            Place::File { line, column } => (line, column),
            Place::Flag(_) => (0, 0),
        });
        Err(Self { file: file.to_owned(), problems })
    }

    /// The file could not be read.
    pub(crate) fn unreadable(file: String, error: &std::io::Error) -> Self {
        let message = format!("cannot read the file ({error}); check the path and its permissions");
        let place = Place::File { line: 1, column: 1 };
        Self { file, problems: vec![Problem { place, key: String::new(), message }] }
    }
}

impl fmt::Display for ConfigError {
    /// One line per problem: `file:line:column: key: what is wrong; what to do`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            match problem.place {
                Place::File { .. } => write!(f, "{}:{problem}", self.file)?,
                Place::Flag(_) => write!(f, "{problem}")?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
