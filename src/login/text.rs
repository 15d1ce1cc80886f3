//! Key lists longer than one PDU: the C bit in both directions (R26, R44, R50).

use crate::iscsi::Payload;
use crate::iscsi::text::{KeyList, TextCollector};
use std::collections::BTreeSet;

/// Longest data segment of a login PDU, in bytes: nothing else is agreed yet (R20).
const SEGMENT: usize = 8192;

/// Takes one PDU's part of a key list; the keys come out once the list is whole.
///
/// # Errors
/// The list is malformed or too long (R44), or names a key twice (R28).
pub(super) fn collect(
    text: &mut TextCollector,
    piece: &Payload,
    continue_: bool,
) -> Result<Option<KeyList>, String> {
    let Some(keys) = text.push(piece, continue_).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let mut seen = BTreeSet::new();
    let twice = keys.iter().find(|(name, _)| !seen.insert(*name)).map(|(name, _)| name.to_owned());
    match twice {
        Some(name) => Err(format!("key {name} stands twice")),
        None => Ok(Some(keys)),
    }
}

/// Hands out a key list in pieces.
#[derive(Debug, Default)]
pub(super) struct TextOut {
    rest: Payload,
}

impl TextOut {
    /// Appends keys to what is still to be sent.
    pub(super) fn add(&mut self, keys: &KeyList) {
        self.rest.append(&Payload::from(keys.to_bytes()));
    }

    /// Whether the rest goes into one piece.
    pub(super) const fn is_last(&self) -> bool {
        self.rest.len() <= SEGMENT
    }

    /// Whether nothing is left.
    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next piece, and whether more follow (the C bit).
    pub(super) fn piece(&mut self) -> (Payload, bool) {
        let piece = self.rest.slice(0, SEGMENT);
        self.rest = self.rest.slice(SEGMENT, usize::MAX);
        (piece, !self.rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_survives_the_pieces() {
        let mut keys = KeyList::new();
        for n in 0..1000 {
            keys.push(format!("X-key{n}"), "NotUnderstood");
        }
        let mut out = TextOut::default();
        out.add(&keys);
        let mut back = TextCollector::new();
        loop {
            let (piece, more) = out.piece();
            assert!(piece.len() <= SEGMENT);
            if let Some(whole) = collect(&mut back, &piece, more).unwrap() {
                assert_eq!(whole, keys);
                break;
            }
        }
        assert!(out.is_empty());
    }

    #[test]
    fn r28_a_key_that_stands_twice_is_found() {
        let piece = Payload::from(b"A=1\0B=2\0A=1\0".to_vec());
        let result = collect(&mut TextCollector::new(), &piece, false);
        assert_eq!(result.unwrap_err(), "key A stands twice");
    }
}
