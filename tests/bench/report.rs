//! What was measured, as Markdown.

use crate::initiator::{Measured, Workload};
use std::time::Duration;

/// One run of one workload through one box.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) measured: Measured,
    /// Processor time of the box in the middle.
    pub(crate) cpu: Duration,
}

impl Sample {
    /// Median time of a command in microseconds.
    fn latency(&self) -> f64 {
        self.measured.median.as_secs_f64() * 1e6
    }
}

/// All runs of one workload.
pub(crate) struct Row {
    pub(crate) workload: Workload,
    /// Per round, per box in the order of the boxes.
    pub(crate) rounds: Vec<Vec<Sample>>,
}

/// All runs.
pub(crate) struct Report {
    /// Names of the boxes: the direct way, the relay, and Braids.
    pub(crate) boxes: Vec<String>,
    /// The box whose throughput the others are held against.
    pub(crate) reference: usize,
    pub(crate) rows: Vec<Row>,
}

impl Row {
    /// Median over the rounds of a figure of one box.
    fn median(&self, of: usize, figure: impl Fn(&Sample) -> f64) -> f64 {
        let [_, median, _] = quartiles(self.rounds.iter().map(|round| figure(&round[of])).collect());
        median
    }

    /// The quotient of two boxes' throughput, each within one round.
    fn ratio(&self, of: usize, to: usize) -> String {
        let quotient = |round: &Vec<Sample>| round[of].measured.rate() / round[to].measured.rate();
        let [low, middle, high] = quartiles(self.rounds.iter().map(quotient).collect());
        format!("**{middle:.2}** {low:.2}-{high:.2}")
    }

    /// What a box adds to the latency of the direct way, each within one round.
    fn added_latency(&self, of: usize) -> String {
        let added = |round: &Vec<Sample>| round[of].latency() - round[Report::DIRECT].latency();
        let [low, middle, high] = quartiles(self.rounds.iter().map(added).collect());
        format!("**{middle:+.1}** {low:+.1} to {high:+.1}")
    }

    /// Processor seconds per GiB over all rounds.
    fn cpu_per_gib(&self, of: usize) -> f64 {
        let cpu: Duration = self.rounds.iter().map(|round| round[of].cpu).sum();
        let bytes: u64 = self.rounds.iter().map(|round| round[of].measured.bytes).sum();
        cpu.as_secs_f64() / (bytes as f64 / f64::from(1 << 30))
    }
}

/// Lower quartile, median and upper quartile, each a figure that occurred.
pub(crate) fn quartiles(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_by(f64::total_cmp);
    let last = figures.len().saturating_sub(1);
    [1, 2, 3].map(|quarter| figures.get((last * quarter).div_ceil(4)).copied().unwrap_or(f64::NAN))
}

impl Report {
    /// Index of the direct way, which has no box.
    pub(crate) const DIRECT: usize = 0;
    /// Index of the relay.
    pub(crate) const RELAY: usize = 1;

    /// Throughput in MiB/s and its ratio to the reference box.
    pub(crate) fn throughput(&self) -> String {
        let reference = &self.boxes[self.reference];
        let mut columns: Vec<String> = self.boxes.iter().map(|name| format!("{name} MiB/s")).collect();
        columns.extend(self.others().map(|(_, name)| format!("{name} : {reference}")));
        self.table("Throughput", &columns, |row| {
            let mut cells: Vec<String> = (0..self.boxes.len())
                .map(|of| format!("{:.1}", row.median(of, |sample| sample.measured.rate())))
                .collect();
            cells.extend(self.others().map(|(of, _)| row.ratio(of, self.reference)));
            Some(cells)
        })
    }

    /// Median latency at depth 1: of the direct way, and what each box adds to it.
    pub(crate) fn latency(&self) -> String {
        let mut columns = vec![format!("{} us", self.boxes[Self::DIRECT])];
        columns.extend(self.boxes.iter().skip(Self::RELAY).map(|name| format!("{name} adds us")));
        self.table("Median latency at depth 1", &columns, |row| {
            let added = (Self::RELAY..self.boxes.len()).map(|of| row.added_latency(of));
            let direct = row.median(Self::DIRECT, Sample::latency);
            let cells = std::iter::once(format!("{direct:.1}")).chain(added);
            (row.workload.depth == 1).then(|| cells.collect())
        })
    }

    /// Processor seconds per GiB of each box in the middle, and their ratio to the relay's.
    pub(crate) fn cpu(&self) -> String {
        let boxes = |from| self.boxes.iter().enumerate().skip(from);
        let mut columns: Vec<String> = boxes(Self::RELAY).map(|(_, name)| format!("{name} s/GiB")).collect();
        let relay = &self.boxes[Self::RELAY];
        columns.extend(boxes(Self::RELAY + 1).map(|(_, name)| format!("{name} : {relay}")));
        self.table("Processor time", &columns, |row| {
            let mut cells: Vec<String> =
                boxes(Self::RELAY).map(|(of, _)| format!("{:.3}", row.cpu_per_gib(of))).collect();
            let ratio = |of| row.cpu_per_gib(of) / row.cpu_per_gib(Self::RELAY);
            cells.extend(boxes(Self::RELAY + 1).map(|(of, _)| format!("{:.2}", ratio(of))));
            Some(cells)
        })
    }

    /// All boxes but the reference.
    fn others(&self) -> impl Iterator<Item = (usize, &String)> {
        self.boxes.iter().enumerate().filter(|(of, _)| *of != self.reference)
    }

    /// A table of the rows that have cells; nothing if none has.
    fn table(&self, title: &str, columns: &[String], cells: impl Fn(&Row) -> Option<Vec<String>>) -> String {
        let rows: Vec<String> = self
            .rows
            .iter()
            .filter_map(|row| Some(format!("| {} | {} |\n", row.workload.name, cells(row)?.join(" | "))))
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        let rule = "---:|".repeat(columns.len());
        format!("\n### {title}\n\n| workload | {} |\n|---|{rule}\n{}", columns.join(" | "), rows.concat())
    }
}
