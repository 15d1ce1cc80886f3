//! What the demo shows at its end, and the judgement whether all was well.

use crate::cli::screen::{Share, bytes, percent, rate};
use std::fmt::Write;
use std::time::Duration;

/// Everything that was observed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    /// How long the workload ran.
    pub(super) ran: Duration,
    /// Commands that completed.
    pub(super) commands: u64,
    /// Payload of those, in bytes.
    pub(super) transferred: u64,
    /// Bytes read and compared with what had been written.
    pub(super) verified: u64,
    /// I/O errors that the initiator saw.
    pub(super) errors: Vec<String>,
    /// The first blocks that did not hold what they must.
    pub(super) wrong: Vec<String>,
    /// How many there are.
    pub(super) wrong_blocks: u64,
    /// Longest time without any completion.
    pub(super) stall: Duration,
    /// Longest time that a command took.
    pub(super) slowest: Duration,
    /// Bytes carried by each path in the end.
    pub(super) carried: Vec<Share>,
    /// The link that was cut.
    pub(super) cut: String,
    /// Commands that were moved off lost and suspect paths.
    pub(super) moved: u64,
    /// Bytes that the cut path carried after it was healed; none if it did not come back.
    pub(super) after_heal: Option<u64>,
}

impl Outcome {
    /// What was not well; empty if all was.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut complain = |wrong: bool, text: String| {
            if wrong {
                complaints.push(text);
            }
        };
        complain(!self.errors.is_empty(), format!("I/O errors: {}", self.errors.join("; ")));
        complain(
            self.wrong_blocks > 0,
            format!("{} wrong blocks: {}", self.wrong_blocks, self.wrong.join("; ")),
        );
        complain(self.verified == 0, "nothing was read back and verified".to_owned());
        complain(self.moved == 0, "the cut hit no command: it proved nothing".to_owned());
        complain(self.after_heal.is_none(), format!("{} did not come back after it was healed", self.cut));
        complain(self.after_heal == Some(0), format!("{} carried nothing after it came back", self.cut));
        for share in self.carried.iter().filter(|share| share.bytes == 0) {
            complaints.push(format!("{} never carried anything", share.path));
        }
        complaints
    }

    /// The closing summary, judgement included.
    pub(super) fn summary(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a String cannot fail.
            writeln!(text, "  {name:<16} {value}").ok();
        };
        let total: u64 = self.carried.iter().map(|share| share.bytes).sum();
        line("commands", format!("{} in {:.1} s", self.commands, self.ran.as_secs_f64()));
        line("throughput", format!("{}/s on average", bytes(rate(self.transferred, self.ran))));
        for share in &self.carried {
            let mark = if share.path == self.cut { "  (cut and healed)" } else { "" };
            line(&share.path, format!("{:>4}  {}{mark}", percent(share.bytes, total), bytes(share.bytes)));
        }
        line("commands moved", format!("{} from {} to other paths", self.moved, self.cut));
        let back = self.after_heal.map_or_else(
            || "did not rejoin".to_owned(),
            |carried| format!("rejoined, then carried {}", bytes(carried)),
        );
        line("healed path", back);
        line("longest stall", format!("{} ms without any completion", self.stall.as_millis()));
        line("slowest command", format!("{} ms", self.slowest.as_millis()));
        line("data verified", bytes(self.verified));
        line("wrong data", self.wrong_blocks.to_string());
        line("I/O errors", if self.errors.is_empty() { "0".to_owned() } else { self.errors.join("; ") });
        let complaints = self.complaints();
        if complaints.is_empty() {
            text.push_str(
                "\nAll was well: a link was lost, and the initiator noticed nothing but the stall.\n",
            );
        } else {
            text.push_str("\nNot well:\n");
            for complaint in complaints {
                writeln!(text, "  - {complaint}").ok();
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(path: &str, bytes: u64) -> Share {
        Share { path: path.to_owned(), bytes }
    }

    fn good() -> Outcome {
        Outcome {
            ran: Duration::from_secs(20),
            commands: 1000,
            transferred: 4 << 20,
            verified: 5 << 20,
            errors: Vec::new(),
            wrong: Vec::new(),
            wrong_blocks: 0,
            stall: Duration::from_millis(12),
            slowest: Duration::from_millis(900),
            carried: vec![share("link1", 3 << 20), share("link2", 1 << 20)],
            cut: "link2".to_owned(),
            moved: 7,
            after_heal: Some(4096),
        }
    }

    #[test]
    fn a_good_run_is_told_as_such() {
        let summary = good().summary();
        for part in [
            "All was well",
            "75%  3.0 MiB",
            "25%  1.0 MiB  (cut and healed)",
            "7 from link2",
            "12 ms",
            "5.0 MiB",
        ] {
            assert!(summary.contains(part), "{part} is missing in\n{summary}");
        }
    }

    #[test]
    fn whatever_is_not_well_is_found() {
        let complaint = |change: fn(&mut Outcome)| {
            let mut outcome = good();
            change(&mut outcome);
            assert!(outcome.summary().contains("Not well"));
            outcome.complaints().join("\n")
        };
        assert!(complaint(|o| o.errors.push("BUSY".into())).contains("I/O errors: BUSY"));
        assert!(
            complaint(|o| (o.wrong_blocks, o.wrong) = (9, vec!["LBA 7".into()]))
                .contains("9 wrong blocks: LBA 7")
        );
        assert!(complaint(|o| o.verified = 0).contains("nothing was read back"));
        assert!(complaint(|o| o.moved = 0).contains("proved nothing"));
        assert!(complaint(|o| o.after_heal = None).contains("did not come back"));
        assert!(complaint(|o| o.after_heal = Some(0)).contains("carried nothing after"));
        assert!(complaint(|o| o.carried[0].bytes = 0).contains("link1 never carried"));
    }
}
