//! iSCSI names (RFC 7143 section 4.2.7).

/// Longest name, in bytes (R11).
const LONGEST: usize = 223;

/// Whether a name may stand in InitiatorName or TargetName: neither empty nor too long, no white space, no control
/// characters. The naming authority prefix is not asked for: real nodes are named without.
#[must_use]
pub fn is_valid(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST && !name.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Whether two names are the same node: compared without regard to case, which names are normalised to lose (R11).
/// Names are kept as received, because targets exist that were given upper case and insist on it.
#[must_use]
pub fn same(one: &str, other: &str) -> bool {
    one == other || one.to_lowercase() == other.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r11_names() {
        assert!(is_valid("iqn.2026-01.example:disk"));
        assert!(is_valid(&"n".repeat(223)));
        assert!(!is_valid(&"n".repeat(224)));
        assert!(!is_valid(""));
        assert!(!is_valid("iqn.2026-01.example: disk"));
        assert!(!is_valid("iqn\u{7}"));
        assert!(same("iqn.2026-01.Example:Disk", "iqn.2026-01.example:disk"));
        assert!(!same("iqn.2026-01.example:a", "iqn.2026-01.example:b"));
    }
}
