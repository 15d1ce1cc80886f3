//! Key lists longer than one PDU: the C bit in both directions (R26, R44, R50).

use crate::iscsi::Payload;
use crate::iscsi::text::KeyList;
use std::collections::BTreeSet;

/// Longest data segment of a login PDU, in bytes: nothing else is agreed yet (R20).
const SEGMENT: usize = 8192;

/// Longest key list accepted, in bytes (R44).
const LONGEST: usize = 65_536;

/// Collects a key list that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct TextIn {
    bytes: Vec<u8>,
}

impl TextIn {
    /// Takes a piece.
    ///
    /// # Errors
    /// The list has become too long.
    pub(super) fn push(&mut self, piece: &Payload) -> Result<(), &'static str> {
        if self.bytes.len() + piece.len() > LONGEST {
            return Err("key list longer than 64 KiB");
        }
        for chunk in piece.chunks() {
            self.bytes.extend_from_slice(chunk);
        }
        Ok(())
    }

    /// The whole list; the next piece starts another.
    ///
    /// # Errors
    /// The text is malformed, or names a key twice (R28).
    pub(super) fn finish(&mut self) -> Result<KeyList, String> {
        let bytes = std::mem::take(&mut self.bytes);
        let keys = KeyList::parse(&bytes).map_err(|error| error.to_string())?;
        let mut seen = BTreeSet::new();
        let twice = keys.iter().find(|(name, _)| !seen.insert(*name)).map(|(name, _)| name.to_owned());
        match twice {
            Some(name) => Err(format!("key {name} stands twice")),
            None => Ok(keys),
        }
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
        let mut back = TextIn::default();
        loop {
            let (piece, more) = out.piece();
            assert!(piece.len() <= SEGMENT);
            back.push(&piece).unwrap();
            if !more {
                break;
            }
        }
        assert!(out.is_empty());
        assert_eq!(back.finish().unwrap(), keys);
    }

    #[test]
    fn r28_a_key_that_stands_twice_is_found() {
        let mut text = TextIn::default();
        text.push(&Payload::from(b"A=1\0B=2\0A=1\0".to_vec())).unwrap();
        assert_eq!(text.finish().unwrap_err(), "key A stands twice");
    }

    #[test]
    fn r44_a_list_may_have_64_kib_and_no_more() {
        let mut text = TextIn::default();
        text.push(&Payload::from(vec![b'a'; LONGEST])).unwrap();
        assert!(text.push(&Payload::from(vec![b'a'])).is_err());
    }
}
