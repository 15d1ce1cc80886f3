//! SendTargets answers: whatever a target says, each target found has an address with a port, and what Braid says in turn
//! reads back.

use arbitrary::Arbitrary;
use braid::iscsi::text::KeyList;
use braid::login::discovery::{TargetRecord, answer, parse_answer};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    text: &'a [u8],
    records: Vec<Record<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Record<'a> {
    Target(&'a str),
    Address(&'a str),
    Portal { v6: bool, host: &'a str, port: Option<u16>, tag: Option<u16> },
    Other(&'a str, &'a str),
}

/// Runs one input.
pub fn run(bytes: &[u8]) {
    super::with_input(bytes, go);
}

fn go(input: &Input<'_>) {
    let mut text = Vec::new();
    for record in &input.records {
        let line = match record {
            Record::Target(name) => format!("TargetName={name}"),
            Record::Address(address) => format!("TargetAddress={address}"),
            Record::Portal { v6, host, port, tag } => {
                let host = if *v6 { format!("[{host}]") } else { (*host).to_owned() };
                let port = port.map_or_else(String::new, |port| format!(":{port}"));
                format!("TargetAddress={host}{port}{}", tag.map_or_else(String::new, |tag| format!(",{tag}")))
            }
            Record::Other(key, value) => format!("{key}={value}"),
        };
        text.extend_from_slice(line.as_bytes());
        text.push(0);
    }
    text.extend_from_slice(input.text);
    let Ok(keys) = KeyList::parse(&text) else { return };
    let targets = parse_answer(&keys, "192.0.2.7:3260");
    assert_eq!(targets.len(), keys.iter().filter(|(key, _)| *key == "TargetName").count());
    for target in &targets {
        assert!(!target.portals.is_empty(), "a target without an address");
        for (address, _) in &target.portals {
            let host_end = address.rfind(']').map_or(0, |end| end + 1);
            assert!(address[host_end..].contains(':'), "no port in {address:?}");
        }
    }
    let said = KeyList::parse(&answer(&targets).to_bytes()).expect("Braid's own answer does not read");
    assert_eq!(parse_answer(&said, "192.0.2.8:3260"), grouped(targets));
}

/// Portals of a group stand together.
fn grouped(mut targets: Vec<TargetRecord>) -> Vec<TargetRecord> {
    for target in &mut targets {
        target.portals.sort_by_key(|(_, tag)| *tag);
    }
    targets
}
