//! What the initiator was told of persistent reservations, to be held against what home alone would have shown (P3).

use crate::target::View;
use std::time::Instant;

/// Something told.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) unit: usize,
    pub(crate) issued: Instant,
    pub(crate) what: What,
}

/// What of.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// READ KEYS or READ FULL STATUS, with this ALLOCATION LENGTH.
    Registered {
        full: bool,
        allocation: usize,
        data: Vec<u8>,
        /// Registrations of the initiator's may have been left behind.
        scarred: bool,
    },
    /// A read or a write met a conflict.
    Conflict { write: bool },
}

/// Bytes before the registrations.
const HEADER: usize = 8;

impl Claim {
    /// Whether home would have shown it.
    pub(crate) fn fits(&self, view: &View) -> bool {
        match &self.what {
            What::Conflict { write } => view.conflicts[usize::from(*write)],
            What::Registered { full: true, data, allocation, .. } => {
                full_status_fits(data, *allocation, view)
            }
            What::Registered { full: false, data, allocation, scarred } => {
                keys_fit(data, *allocation, *scarred, view)
            }
        }
    }
}

fn number(data: &[u8]) -> usize {
    data.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Whether all of `shown` are among `all`, each as often.
fn among<T: PartialEq>(shown: Vec<T>, mut all: Vec<T>) -> bool {
    shown.into_iter().all(|s| all.iter().position(|a| *a == s).map(|at| all.swap_remove(at)).is_some())
}

fn keys_fit(data: &[u8], allocation: usize, scarred: bool, view: &View) -> bool {
    let all: Vec<u64> = view.registered.iter().map(|(key, ..)| *key).collect();
    let whole = HEADER + all.len() * 8;
    let key = |bytes: &[u8]| bytes.first_chunk().map(|b| u64::from_be_bytes(*b));
    let shown: Vec<u64> = data.get(HEADER..).unwrap_or_default().chunks_exact(8).filter_map(key).collect();
    if scarred {
        return true;
    }
    let length = data.len() < HEADER || number(&data[4..HEADER]) == all.len() * 8;
    data.len() == whole.min(allocation) && length && among(shown, all)
}

fn full_status_fits(data: &[u8], allocation: usize, view: &View) -> bool {
    let size = |port: &str| 24 + 4 + (port.len() / 4 + 1) * 4;
    let whole: usize = view.registered.iter().map(|(_, port, _)| size(port)).sum();
    let length = data.len() < HEADER || number(&data[4..HEADER]) == whole;
    let mut rest = data.get(HEADER..).unwrap_or_default();
    let mut shown = Vec::new();
    while rest.len() >= 24 {
        let size = 24 + number(&rest[20..24]);
        let Some((descriptor, behind)) = rest.split_at_checked(size) else { break };
        let key = u64::try_from(number(&descriptor[..8])).unwrap();
        let name: Vec<u8> = descriptor[28..].iter().copied().take_while(|byte| *byte != 0).collect();
        shown.push((key, String::from_utf8(name).unwrap(), descriptor[12] & 1 != 0));
        rest = behind;
    }
    data.len() == (HEADER + whole).min(allocation) && length && among(shown, view.registered.clone())
}
