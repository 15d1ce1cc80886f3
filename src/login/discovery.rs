//! SendTargets (RFC 7143 appendix C): asked of targets, answered to initiators.

use super::initiator::with_port;
use crate::iscsi::text::KeyList;

/// One target and its addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetRecord {
    /// TargetName.
    pub name: String,
    /// `host:port` and portal group tag of each portal.
    pub portals: Vec<(String, u16)>,
}

/// Reads a SendTargets answer. A target without TargetAddress is at `default_address`; a missing port is 3260, a missing
/// portal group tag is 1 (R238). What is not understood is passed over: one target's odd address must not hide the others.
#[must_use]
pub fn parse_answer(keys: &KeyList, default_address: &str) -> Vec<TargetRecord> {
    let mut targets: Vec<TargetRecord> = Vec::new();
    for (key, value) in keys.iter() {
        match (key, targets.last_mut()) {
            ("TargetName", _) => targets.push(TargetRecord { name: value.to_owned(), portals: Vec::new() }),
            ("TargetAddress", Some(target)) => target.portals.extend(portal(value)),
            _ => {}
        }
    }
    for target in &mut targets {
        if target.portals.is_empty() {
            target.portals.push((with_port(default_address), DEFAULT_TAG));
        }
    }
    targets
}

/// Writes a SendTargets answer; portals of a group stand together (R233).
#[must_use]
pub fn answer(targets: &[TargetRecord]) -> KeyList {
    let mut keys = KeyList::new();
    for target in targets {
        keys.push("TargetName", target.name.clone());
        let mut portals: Vec<_> = target.portals.iter().collect();
        portals.sort_by_key(|(_, tag)| *tag);
        for (address, tag) in portals {
            keys.push("TargetAddress", format!("{address},{tag}"));
        }
    }
    keys
}

/// The tag of an address that comes without.
const DEFAULT_TAG: u16 = 1;

/// `host[:port][,tag]`.
fn portal(value: &str) -> Option<(String, u16)> {
    let (address, tag) = match value.split_once(',') {
        Some((address, tag)) => (address, tag.trim().parse().ok()?),
        None => (value, DEFAULT_TAG),
    };
    let address = address.trim();
    (!address.is_empty()).then(|| (with_port(address), tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pairs: &[(&str, &str)]) -> KeyList {
        let mut keys = KeyList::new();
        for (key, value) in pairs {
            keys.push(*key, *value);
        }
        keys
    }

    #[test]
    fn r238_addresses_in_every_form() {
        let keys = list(&[
            ("TargetName", "iqn.a"),
            ("TargetAddress", "192.0.2.1:3261,2"),
            ("TargetAddress", "192.0.2.2,3"),
            ("TargetAddress", "[2001:db8::1]:3262,2"),
            ("TargetAddress", "[2001:db8::2],2"),
            ("TargetAddress", "storage.example"),
            ("TargetAddress", "192.0.2.9,many"),
            ("TargetAddress", ",1"),
            ("TargetName", "iqn.b"),
        ]);
        let targets = parse_answer(&keys, "192.0.2.7:3263");
        let portals: Vec<_> = targets[0].portals.iter().map(|(a, t)| (a.as_str(), *t)).collect();
        let expected = [
            ("192.0.2.1:3261", 2),
            ("192.0.2.2:3260", 3),
            ("[2001:db8::1]:3262", 2),
            ("[2001:db8::2]:3260", 2),
            ("storage.example:3260", 1),
        ];
        assert_eq!(portals, expected);
        assert_eq!(targets[1].portals, [("192.0.2.7:3263".to_owned(), 1)]);
    }

    #[test]
    fn addresses_before_any_target_and_other_keys_are_passed_over() {
        let keys = list(&[("TargetAddress", "192.0.2.1,1"), ("X-vendor", "1"), ("TargetName", "iqn.a")]);
        assert_eq!(parse_answer(&keys, "h:1").len(), 1);
        assert!(parse_answer(&KeyList::new(), "h:1").is_empty());
    }

    #[test]
    fn r233_portals_of_a_group_stand_together_and_the_answer_reads_back() {
        let portals =
            vec![("192.0.2.1:3260".into(), 2), ("192.0.2.2:3260".into(), 1), ("192.0.2.3:3260".into(), 2)];
        let keys = answer(&[TargetRecord { name: "iqn.a".into(), portals }]);
        let tags: Vec<u16> = parse_answer(&keys, "h:1")[0].portals.iter().map(|(_, tag)| *tag).collect();
        assert_eq!(tags, [1, 2, 2]);
        assert_eq!(keys.iter().nth(1), Some(("TargetAddress", "192.0.2.2:3260,1")));
    }
}
