//! `index.toml` as data.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Requirements are numbered R1 to this.
pub(crate) const LAST: u32 = 245;

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Side {
    /// Downstream: Braid as the target.
    F,
    /// Upstream: Braid as the initiator.
    B,
    /// Both.
    FB,
    /// What a proxy makes of the standards.
    D,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Strength {
    Must,
    Should,
    May,
    Derived,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Status {
    Tested,
    Met,
    NotApplicable,
    Deviates,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) side: Side,
    pub(crate) strength: Strength,
    /// Of RFC 7143 where no other document is named.
    pub(crate) section: String,
    pub(crate) summary: String,
    pub(crate) status: Status,
    #[serde(default)]
    pub(crate) tests: Vec<String>,
    #[serde(default)]
    pub(crate) code: Vec<String>,
    #[serde(default)]
    pub(crate) because: String,
    /// What would end a deviation.
    #[serde(default)]
    pub(crate) change: String,
}

/// All entries by their key.
pub(crate) struct Index(pub(crate) BTreeMap<String, Entry>);

impl Index {
    /// Reads the index; that a requirement stands twice is an error of the format already.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        toml::from_str(text).map(Self).map_err(|error| error.to_string())
    }

    /// Number of a key, if it is one.
    pub(crate) fn number(key: &str) -> Option<u32> {
        let number = key.strip_prefix('R')?.parse().ok()?;
        (key == format!("R{number}") && (1..=LAST).contains(&number)).then_some(number)
    }

    /// How many requirements have which status, and the musts that are not kept, by side.
    pub(crate) fn table(&self) -> String {
        const COLUMNS: [(&str, Status); 4] = [
            ("tested", Status::Tested),
            ("met", Status::Met),
            ("not applicable", Status::NotApplicable),
            ("deviates", Status::Deviates),
        ];
        const ROWS: [(&str, Strength); 4] = [
            ("must", Strength::Must),
            ("should", Strength::Should),
            ("may", Strength::May),
            ("derived", Strength::Derived),
        ];
        let mut table = format!("{:8}", "");
        for (name, _) in COLUMNS {
            write!(table, "{name:>15}").unwrap();
        }
        for (name, strength) in ROWS {
            write!(table, "\n{name:8}").unwrap();
            for (_, status) in COLUMNS {
                let same = |entry: &&Entry| entry.strength == strength && entry.status == status;
                write!(table, "{:>15}", self.0.values().filter(same).count()).unwrap();
            }
        }
        table.push_str("\nmusts that deviate:");
        let mut musts: Vec<(Side, u32)> = self
            .0
            .iter()
            .filter(|(_, entry)| entry.strength == Strength::Must && entry.status == Status::Deviates)
            .filter_map(|(key, entry)| Some((entry.side, Self::number(key)?)))
            .collect();
        musts.sort_unstable();
        for side in musts.chunk_by(|a, b| a.0 == b.0) {
            write!(table, " {:?}", side[0].0).unwrap();
            side.iter().for_each(|(_, number)| write!(table, " R{number}").unwrap());
            table.push(';');
        }
        table.pop();
        table.push('\n');
        table
    }
}
