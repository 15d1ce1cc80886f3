//! The one table of keys (RFC 7143 section 13): both roles and the documentation read it.
