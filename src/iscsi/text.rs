//! `key=value` lists of login and text PDUs (RFC 7143 section 6.1).
//!
//! Bytes come from the network: nothing here panics on them, and what is kept of them is limited. Whether keys are known,
//! repeated or in place is for the negotiation to judge ([`crate::login`]).

use super::{Payload, WireError, show};
use std::fmt;

/// Longest key name, in bytes (R48).
const KEY_MAX: usize = 63;
/// Longest value, in bytes: far above the usual 255, for lists of addresses and long authentication items.
const VALUE_MAX: usize = 8192;
/// Longest text over all its PDUs, in bytes (R44).
const TEXT_MAX: usize = 64 * 1024;

/// Pairs in the order they stand. Printing it hides secret values.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct KeyList {
    pairs: Vec<(String, String)>,
}

impl KeyList {
    /// No pairs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses the bytes of a whole (reassembled) text; repeated keys are kept for the caller to judge. NULs beyond the one
    /// that ends each pair are skipped: some initiators count padding as text.
    ///
    /// # Errors
    /// [`WireError::Text`] names what is malformed: no NUL at the end, a pair without `=` or without a key, a key over 63
    /// bytes, a value over 8192 bytes, bytes that are not UTF-8.
    pub fn parse(text: &[u8]) -> Result<Self, WireError> {
        let mut list = Self::new();
        let Some((last, pairs)) = text.split_last() else {
            return Ok(list);
        };
        if *last != 0 {
            return Err(WireError::Text("no NUL at the end"));
        }
        for pair in pairs.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()) {
            let pair = std::str::from_utf8(pair).map_err(|_| WireError::Text("not UTF-8"))?;
            let (key, value) = pair.split_once('=').ok_or(WireError::Text("no = in a pair"))?;
            if key.is_empty() {
                return Err(WireError::Text("empty key"));
            }
            if key.len() > KEY_MAX {
                return Err(WireError::Text("key too long"));
            }
            if value.len() > VALUE_MAX {
                return Err(WireError::Text("value too long"));
            }
            list.push(key, value);
        }
        Ok(list)
    }

    /// The value of the first pair with this key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Appends a pair.
    pub fn push(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.pairs.push((key.into(), value.into()));
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// Whether there are no pairs.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The bytes as sent: each pair followed by one NUL.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in &self.pairs {
            bytes.extend_from_slice(key.as_bytes());
            bytes.push(b'=');
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(0);
        }
        bytes
    }
}

impl fmt::Display for KeyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.iter().enumerate() {
            let gap = if index == 0 { "" } else { " " };
            write!(f, "{gap}{}={}", key.escape_debug(), show::value(key, value))?;
        }
        Ok(())
    }
}

impl fmt::Debug for KeyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyList({self})")
    }
}

/// Puts texts together that span several PDUs (R50).
#[derive(Default)]
pub struct TextCollector {
    text: Vec<u8>,
}

impl TextCollector {
    /// Nothing collected.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next PDU's data segment; with the C bit clear, the text is whole and its keys come out. Whoever gets
    /// none answers with an empty PDU and waits (R26).
    ///
    /// # Errors
    /// [`WireError::Text`] if the text is malformed or longer than 64 KiB in all; what was collected is dropped.
    pub fn push(&mut self, segment: &Payload, continue_: bool) -> Result<Option<KeyList>, WireError> {
        if self.text.len() + segment.len() > TEXT_MAX {
            self.text = Vec::new();
            return Err(WireError::Text("text too long"));
        }
        for chunk in segment.chunks() {
            self.text.extend_from_slice(chunk);
        }
        if continue_ {
            return Ok(None);
        }
        KeyList::parse(&std::mem::take(&mut self.text)).map(Some)
    }

    /// Whether part of a text has come and the rest has not.
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        !self.text.is_empty()
    }
}

impl fmt::Debug for TextCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TextCollector({} bytes)", self.text.len())
    }
}

/// A number in decimal, or in hexadecimal after `0x` or `0X`; none if it is neither or 2^64 and more (R49).
#[must_use]
pub fn parse_number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None => (text, 10),
    };
    // The standard library would take a sign as well.
    digits.chars().all(|digit| digit.is_digit(radix)).then(|| u64::from_str_radix(digits, radix).ok())?
}

/// `Yes` or `No`.
#[must_use]
pub fn parse_boolean(text: &str) -> Option<bool> {
    match text {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// The items of a list in order of preference, separated by commas.
pub fn parse_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
}

/// A range of numbers, `low~high`, both ends within; none if it is malformed or empty.
#[must_use]
pub fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (low, high) = text.split_once('~')?;
    let range = (parse_number(low)?, parse_number(high)?);
    (range.0 <= range.1).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &[u8]) -> &'static str {
        match KeyList::parse(text) {
            Err(WireError::Text(what)) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn r48_pairs_end_with_one_nul() {
        let mut list = KeyList::new();
        list.push("InitiatorName", "iqn.2026-01.test:a=b");
        list.push("SessionType", "");
        let bytes = b"InitiatorName=iqn.2026-01.test:a=b\0SessionType=\0";
        assert_eq!(list.to_bytes(), bytes);
        assert_eq!(KeyList::parse(bytes), Ok(list));
        assert_eq!(KeyList::parse(b""), Ok(KeyList::new()));
        assert_eq!(KeyList::parse(b"\0\0").map(|list| list.is_empty()), Ok(true));
    }

    #[test]
    fn repeated_keys_are_kept_in_order() {
        let list = KeyList::parse(b"A=1\0B=2\0A=3\0\0\0").unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), [("A", "1"), ("B", "2"), ("A", "3")]);
        assert_eq!(list.value("A"), Some("1"));
        assert_eq!(list.value("a"), None, "keys are case-sensitive");
    }

    #[test]
    fn malformed_text_says_what_is_wrong() {
        assert_eq!(error(b"A=1"), "no NUL at the end");
        assert_eq!(error(b"A=1\0B"), "no NUL at the end");
        assert_eq!(error(b"A=1\0B\0"), "no = in a pair");
        assert_eq!(error(b"=1\0"), "empty key");
        assert_eq!(error(b"A=\xff\0"), "not UTF-8");
        let long =
            |key: usize, value: usize| [vec![b'K'; key], vec![b'='], vec![b'v'; value], vec![0]].concat();
        assert!(KeyList::parse(&long(63, 8192)).is_ok());
        assert_eq!(error(&long(64, 0)), "key too long");
        assert_eq!(error(&long(1, 8193)), "value too long");
    }

    #[test]
    fn r49_numbers() {
        for (text, number) in [
            ("0", Some(0)),
            ("0262144", Some(262_144)),
            ("0x40000", Some(262_144)),
            ("0XaB", Some(0xab)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("0x10000000000000000", None),
            ("", None),
            ("0x", None),
            ("+1", None),
            ("-1", None),
            ("0x+1", None),
            ("1 ", None),
            ("12a", None),
        ] {
            assert_eq!(parse_number(text), number, "{text:?}");
        }
    }

    #[test]
    fn other_values() {
        assert_eq!(["Yes", "No", "yes", ""].map(parse_boolean), [Some(true), Some(false), None, None]);
        assert_eq!(parse_list("CRC32C,None").collect::<Vec<_>>(), ["CRC32C", "None"]);
        assert_eq!(parse_range("1~0x10"), Some((1, 16)));
        assert_eq!(["1", "2~1", "~1", "1~"].map(parse_range), [None; 4]);
    }

    #[test]
    fn r50_texts_are_collected_over_pdus() {
        let segment = |text: &str| Payload::from(text.as_bytes().to_vec());
        let mut collector = TextCollector::new();
        assert_eq!(collector.push(&segment("Initiator"), true), Ok(None));
        assert!(collector.is_pending());
        assert_eq!(collector.push(&segment("Name=a\0Al"), true), Ok(None));
        let list = collector.push(&segment("ias=b\0"), false).unwrap().unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), [("InitiatorName", "a"), ("Alias", "b")]);
        assert!(!collector.is_pending());
        assert_eq!(collector.push(&Payload::new(), false), Ok(Some(KeyList::new())));
    }

    #[test]
    fn r44_texts_end_at_64_kib() {
        let segment = Payload::from(vec![b'x'; 8192]);
        let mut collector = TextCollector::new();
        for _ in 0..8 {
            assert_eq!(collector.push(&segment, true), Ok(None));
        }
        assert_eq!(collector.push(&segment, true), Err(WireError::Text("text too long")));
        assert!(!collector.is_pending());
    }

    #[test]
    fn printing_hides_secrets() {
        let mut collector = TextCollector::new();
        let mut list = KeyList::new();
        list.push("CHAP_N", "alice");
        list.push("CHAP_R", "0xc0ffee");
        list.push("CHAP_A", "5");
        assert_eq!(format!("{list} {list:?}").matches("alice").count(), 0);
        assert_eq!(list.to_string(), "CHAP_N=<hidden> CHAP_R=<hidden> CHAP_A=5");
        collector.push(&Payload::from(list.to_bytes()), true).unwrap();
        assert_eq!(format!("{collector:?}"), "TextCollector(38 bytes)");
    }
}
