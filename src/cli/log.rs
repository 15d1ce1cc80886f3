//! Log lines, on standard error.

use crate::config::LogFormat;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// What lets another filter take the place of the one that is in force.
pub type Refilter = Box<dyn Fn(&str) + Send + Sync>;

/// Starts logging. The filter was checked with the configuration; one that is wrong all the same means `info`.
/// Later calls in the same process change nothing.
#[must_use]
pub fn start(filter: &str, format: LogFormat) -> Refilter {
    let lines = tracing_subscriber::fmt().with_env_filter(parsed(filter)).with_writer(std::io::stderr);
    let (started, refilter): (_, Refilter) = match format {
        LogFormat::Human => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = lines.reload_handle();
            (lines.try_init(), Box::new(move |filter| tell(handle.reload(parsed(filter)))))
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_filter_reloading();
            let handle = lines.reload_handle();
            (lines.try_init(), Box::new(move |filter| tell(handle.reload(parsed(filter)))))
        }
    };
    if let Err(error) = started {
        tracing::debug!("logging was started before: {error}");
    }
    refilter
}

fn parsed(filter: &str) -> EnvFilter {
    EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"))
}

fn tell(reloaded: Result<(), tracing_subscriber::reload::Error>) {
    if let Err(error) = reloaded {
        tracing::warn!(%error, "the log filter stays as it was");
    }
}
