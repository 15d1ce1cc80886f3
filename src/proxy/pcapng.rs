//! Recordings as a pcapng file, which Wireshark dissects as iSCSI.
//!
//! The headers are real, with their addresses and ports; IP and TCP around them are made up: sequence numbers begin at 1 with
//! the first PDU that is there, every PDU begins a segment, digests are left out, checksums are zero. Data segments count in all
//! lengths and are cut off, as in a capture with a short snap length. Each connection is an interface of its own, named
//! after its path.
//!
//! The format is draft-ietf-opsawg-pcapng: a section header, an interface description per connection, and a packet block
//! per packet.

use super::tape::{BlackBox, Record, Recording, Way};
use crate::iscsi::pdu::{BHS_LEN, data_len, padding};
use std::net::{IpAddr, SocketAddr};
use std::time::UNIX_EPOCH;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
/// Tells the byte order.
const MAGIC: u32 = 0x1a2b_3c4d;
/// Packets begin with an IP header.
const RAW_IP: u16 = 101;

const OPTION_END: u16 = 0;
const OPTION_NAME: u16 = 2;
const OPTION_DESCRIPTION: u16 = 3;
const OPTION_APPLICATION: u16 = 4;

const TCP: u8 = 6;
const TCP_HEADER: usize = 20;
const PUSH_AND_ACK: u8 = 0x18;
/// Payload of a packet, at most: what the lengths of IP can say.
const MOST_PAYLOAD: usize = 65_000;

/// Makes the file.
pub(super) fn file(black_box: &BlackBox, recordings: &[Recording]) -> Vec<u8> {
    let mut file = Vec::new();
    let application = concat!("Braid ", env!("CARGO_PKG_VERSION"));
    let head =
        [&MAGIC.to_le_bytes()[..], &1_u16.to_le_bytes(), &0_u16.to_le_bytes(), &u64::MAX.to_le_bytes()];
    let mut section = head.concat();
    option(&mut section, OPTION_APPLICATION, application);
    option(&mut section, OPTION_END, "");
    block(&mut file, SECTION, &section);
    for recording in recordings {
        block(&mut file, INTERFACE, &interface(recording));
    }
    let records = recordings
        .iter()
        .enumerate()
        .flat_map(|(of, recording)| recording.records().map(move |record| (of, record)));
    let mut records: Vec<_> = records.collect();
    records.sort_by_key(|(_, record)| record.at);
    let mut flows: Vec<_> = recordings.iter().map(Flow::new).collect();
    for (of, record) in records {
        let since = black_box.time_of(record.at).duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        let (Some(flow), Ok(of)) = (flows.get_mut(of), u32::try_from(of)) else { continue };
        flow.packets(&record, |data, original| {
            let [high, low] =
                [at >> 32, at & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(u32::MAX));
            let lengths = [data.len(), original].map(|length| u32::try_from(length).unwrap_or(u32::MAX));
            let mut body = Vec::with_capacity(20 + data.len());
            for number in [of, high, low].into_iter().chain(lengths) {
                body.extend(number.to_le_bytes());
            }
            padded(&mut body, data);
            block(&mut file, PACKET, &body);
        });
    }
    file
}

fn interface(recording: &Recording) -> Vec<u8> {
    let label = &recording.label;
    let mut body = [&RAW_IP.to_le_bytes()[..], &[0; 2], &[0; 4]].concat();
    option(&mut body, OPTION_NAME, label.path.as_deref().unwrap_or("initiator"));
    option(&mut body, OPTION_DESCRIPTION, &format!("{} of {}", label.target, label.initiator));
    option(&mut body, OPTION_END, "");
    body
}

fn block(file: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let length = u32::try_from(body.len() + 12).unwrap_or(u32::MAX).to_le_bytes();
    file.extend(kind.to_le_bytes());
    file.extend(length);
    file.extend(body);
    file.extend(length);
}

fn option(body: &mut Vec<u8>, code: u16, text: &str) {
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    padded(body, text.as_bytes());
}

fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.extend(std::iter::repeat_n(0, padding(bytes.len())));
}

/// A connection's TCP.
struct Flow {
    local: SocketAddr,
    peer: SocketAddr,
    /// The next sequence number of each way.
    sent: u32,
    received: u32,
}

impl Flow {
    fn new(recording: &Recording) -> Self {
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        Self { local: plain(recording.local), peer: plain(recording.peer), sent: 1, received: 1 }
    }

    /// The packets that carried a PDU: what is there of each, and how long it was.
    fn packets(&mut self, record: &Record<'_>, mut emit: impl FnMut(&[u8], usize)) {
        let data = record.header.first_chunk::<BHS_LEN>().map_or(0, data_len);
        let mut left = record.header.len() + data + padding(data);
        let mut there = record.header;
        while left > 0 {
            let payload = left.min(MOST_PAYLOAD);
            let mut packet = self.headers(record.way, payload);
            let original = packet.len() + payload;
            packet.extend(there);
            emit(&packet, original);
            let counter = if record.way == Way::Sent { &mut self.sent } else { &mut self.received };
            *counter = counter.wrapping_add(u32::try_from(payload).unwrap_or_default());
            left -= payload;
            there = &[];
        }
    }

    /// IP and TCP before so much payload.
    fn headers(&self, way: Way, payload: usize) -> Vec<u8> {
        let (from, to, sequence, acknowledged) = match way {
            Way::Sent => (self.local, self.peer, self.sent, self.received),
            Way::Received => (self.peer, self.local, self.received, self.sent),
        };
        let length =
            |more: usize| u16::try_from(more + TCP_HEADER + payload).unwrap_or(u16::MAX).to_be_bytes();
        let mut packet = Vec::with_capacity(60 + payload.min(BHS_LEN));
        match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet.extend([0x45, 0]);
                packet.extend(length(20));
                packet.extend([0, 0, 0x40, 0, 64, TCP, 0, 0]);
                packet.extend(from.octets());
                packet.extend(to.octets());
            }
            (from, to) => {
                packet.extend([0x60, 0, 0, 0]);
                packet.extend(length(0));
                packet.extend([TCP, 64]);
                for address in [from, to] {
                    let address = match address {
                        IpAddr::V4(address) => address.to_ipv6_mapped(),
                        IpAddr::V6(address) => address,
                    };
                    packet.extend(address.octets());
                }
            }
        }
        packet.extend(from.port().to_be_bytes());
        packet.extend(to.port().to_be_bytes());
        packet.extend(sequence.to_be_bytes());
        packet.extend(acknowledged.to_be_bytes());
        packet.extend([5 << 4, PUSH_AND_ACK, 0xff, 0xff, 0, 0, 0, 0]);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::super::tape::Label;
    use super::*;

    fn header(length: u32) -> [u8; BHS_LEN] {
        let mut header = [0; BHS_LEN];
        header[4..8].copy_from_slice(&length.to_be_bytes());
        header
    }

    /// Blocks: kind and body.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut found = Vec::new();
        while !file.is_empty() {
            let word = |at: usize| u32::from_le_bytes(*file[at..].first_chunk().unwrap());
            let length = word(4) as usize;
            assert!(
                length.is_multiple_of(4) && word(length - 4) as usize == length,
                "both lengths of a block"
            );
            found.push((word(0), file[8..length - 4].to_vec()));
            file = &file[length..];
        }
        found
    }

    fn packets(local: &str, peer: &str) -> Vec<Vec<u8>> {
        let black_box = BlackBox::new(0, None);
        let label =
            Label { target: "t".to_owned(), initiator: "i".to_owned(), path: Some("left".to_owned()) };
        let mut tape = black_box.tape(label, local.parse().unwrap(), peer.parse().unwrap());
        tape.note(Way::Sent, &header(0), &[]);
        tape.note(Way::Received, &header(150_001), &[]);
        tape.note(Way::Received, &header(0), &[9; 4]);
        tape.note(Way::Sent, &header(0), &[]);
        let blocks = blocks(&file(&black_box, &[tape.recording()]));
        assert_eq!(
            blocks.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(),
            [&[SECTION, INTERFACE][..], &[PACKET; 6]].concat()
        );
        blocks.into_iter().skip(2).map(|(_, body)| body).collect()
    }

    /// Source port, sequence number, acknowledgement, bytes there and bytes of the whole, of each packet.
    fn tcp(packets: &[Vec<u8>], ip: usize) -> Vec<(u16, u32, u32, u32, u32)> {
        let of = |body: &Vec<u8>| {
            let tcp = &body[20 + ip..];
            let big = |at: usize| u32::from_be_bytes(*tcp[at..].first_chunk().unwrap());
            let little = |at: usize| u32::from_le_bytes(*body[at..].first_chunk().unwrap());
            let headers = u32::try_from(ip + TCP_HEADER).unwrap();
            (u16::from_be_bytes([tcp[0], tcp[1]]), big(4), big(8), little(12) - headers, little(16) - headers)
        };
        packets.iter().map(of).collect()
    }

    #[test]
    fn sequence_numbers_go_on_over_what_is_cut_off() {
        let long = 48 + 150_004;
        let expected = [
            (1000, 1, 1, 48, 48),
            (3260, 1, 49, 48, 65_000),
            (3260, 65_001, 49, 0, 65_000),
            (3260, 130_001, 49, 0, long - 130_000),
            (3260, 1 + long, 49, 52, 52),
            (1000, 49, 1 + long + 52, 48, 48),
        ];
        assert_eq!(tcp(&packets("10.0.0.1:1000", "10.0.0.2:3260"), 20), expected);
        assert_eq!(tcp(&packets("[fd00::1]:1000", "[fd00::2]:3260"), 40), expected);
        assert_eq!(tcp(&packets("[::ffff:10.0.0.1]:1000", "10.0.0.2:3260"), 20), expected);
    }
}
