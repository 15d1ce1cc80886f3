//! `key=value` lists of login and text PDUs (RFC 7143 section 6.1).

use super::WireError;

/// Pairs in the order they stand.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyList {
    pairs: Vec<(String, String)>,
}

impl KeyList {
    /// No pairs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses the bytes of a whole (reassembled) text; repeated keys are kept for the caller to judge.
    ///
    /// # Errors
    /// [`WireError::Text`] names what is malformed.
    pub fn parse(text: &[u8]) -> Result<Self, WireError> {
        todo!("{text:?}")
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
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The bytes as sent: each pair followed by one NUL.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        todo!()
    }
}
