//! Log lines, on standard error.

use crate::config::LogFormat;
use crate::metrics::Metrics;
use std::io::IsTerminal;
use std::time::Duration;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Lines kept while standard error takes none. Further ones are lost: what reads the log must not hold up what is logged.
const KEPT: usize = 1024;
/// How often is looked for lines that were lost.
const LOOK: Duration = Duration::from_secs(1);

/// What lets another filter take the place of the one that is in force.
pub type Refilter = Box<dyn Fn(&str) + Send + Sync>;

/// The log of something that serves. What is still kept is written when this is dropped.
pub struct Log {
    /// Takes the place of the filter.
    pub refilter: Refilter,
    lost: ErrorCounter,
    _writer: WorkerGuard,
}

impl Log {
    /// Starts logging beside what is logged: nothing waits for standard error. The filter was checked with the configuration;
    /// one that is wrong all the same means `info`.
    #[must_use]
    pub fn start(filter: &str, format: LogFormat) -> Self {
        let builder = NonBlockingBuilder::default().buffered_lines_limit(KEPT).thread_name("log");
        let (writer, guard): (NonBlocking, _) = builder.finish(std::io::stderr());
        let lost = writer.error_counter();
        Self { refilter: begin(filter, format, writer), lost, _writer: guard }
    }

    /// Counts lines that were lost, and says so. Never ends.
    pub async fn watch(&self, metrics: &Metrics) {
        let mut told = 0;
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            let lost = u64::try_from(self.lost.dropped_lines()).unwrap_or(u64::MAX);
            if lost > told {
                metrics.log_lines_lost(lost - told);
                tracing::warn!(lines = lost - told, "log lines were lost: standard error takes no more");
                told = lost;
            }
        }
    }
}

/// Logs errors of a program that a person runs. Later calls in the same process change nothing.
pub fn errors() {
    drop(begin("error", LogFormat::Human, std::io::stderr));
}

fn begin<W>(filter: &str, format: LogFormat, writer: W) -> Refilter
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt().with_env_filter(parsed(filter)).with_writer(writer);
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
