//! Exit codes, decided in one place.

use crate::config::ConfigError;
use std::fmt;
use std::process::ExitCode;

/// Wrong usage or configuration.
const USAGE: u8 = 64;

/// The code for arguments that make no sense.
#[must_use]
pub fn usage() -> ExitCode {
    ExitCode::from(USAGE)
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// Wrong configuration, in a file or by flags.
    Config(ConfigError),
    /// The same, as a running Braid tells it.
    Wrong(String),
    /// The target, or a path to it, could not be used.
    Unavailable(String),
    /// Braid is at fault.
    Bug(String),
    /// Anything else: an address is taken, a file cannot be written, the demo did not go well.
    Other(anyhow::Error),
}

impl Failure {
    /// The number the process ends with; those above 63 are BSD's sysexits.
    #[must_use]
    pub fn number(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Wrong(_) => USAGE,
            Self::Unavailable(_) => 69,
            Self::Bug(_) => 70,
            Self::Other(_) => 1,
        }
    }

    /// The code the process ends with.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.number())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => write!(f, "{error}"),
            Self::Wrong(message) => write!(f, "{message}"),
            Self::Unavailable(message) => write!(f, "braid: {message}"),
            Self::Bug(message) => write!(f, "braid: a bug, please report it: {message}"),
            Self::Other(error) => write!(f, "braid: {error:#}"),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn each_failure_has_its_number() {
        let config = Config::from_toml("", "t").unwrap_err();
        assert_eq!(Failure::from(config).number(), 64);
        assert_eq!(Failure::Wrong("x".into()).number(), 64);
        assert_eq!(Failure::Unavailable("x".into()).number(), 69);
        assert_eq!(Failure::Bug("x".into()).number(), 70);
        assert_eq!(Failure::from(anyhow::anyhow!("x")).number(), 1);
    }
}
