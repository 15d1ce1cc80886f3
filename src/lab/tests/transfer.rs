//! What was written is read back, however the data travel.

use super::{initiator, options, pattern, soon, target};
use crate::lab::initiator::{Data, Initiator};
use crate::login::ConnectionParams;
use std::collections::BTreeMap;

/// One way to negotiate.
#[derive(Clone, Copy, Debug)]
struct Way {
    max_burst: u32,
    first_burst: u32,
    immediate: bool,
    initial_r2t: bool,
    /// MaxRecvDataSegmentLength of target and initiator.
    segments: (u32, u32),
    digests: bool,
    collapse: bool,
    r2ts: u16,
}

const WAYS: [Way; 7] = [
    Way {
        max_burst: 262_144,
        first_burst: 65_536,
        immediate: true,
        initial_r2t: true,
        segments: (8192, 8192),
        digests: false,
        collapse: true,
        r2ts: 1,
    },
    Way {
        max_burst: 1 << 20,
        first_burst: 262_144,
        immediate: true,
        initial_r2t: false,
        segments: (262_144, 262_144),
        digests: false,
        collapse: true,
        r2ts: 4,
    },
    Way {
        max_burst: 16_384,
        first_burst: 16_384,
        immediate: false,
        initial_r2t: false,
        segments: (4096, 8192),
        digests: true,
        collapse: false,
        r2ts: 2,
    },
    Way {
        max_burst: 512,
        first_burst: 512,
        immediate: true,
        initial_r2t: false,
        segments: (512, 512),
        digests: false,
        collapse: true,
        r2ts: 1,
    },
    Way {
        max_burst: 100_000,
        first_burst: 3000,
        immediate: true,
        initial_r2t: false,
        segments: (5000, 7000),
        digests: true,
        collapse: true,
        r2ts: 3,
    },
    Way {
        max_burst: 65_536,
        first_burst: 65_536,
        immediate: false,
        initial_r2t: true,
        segments: (65_536, 1024),
        digests: true,
        collapse: false,
        r2ts: 8,
    },
    Way {
        max_burst: 8192,
        first_burst: 4096,
        immediate: true,
        initial_r2t: true,
        segments: (2048, 262_144),
        digests: false,
        collapse: false,
        r2ts: 1,
    },
];

async fn round_trip(way: Way) {
    let target = target(1, |options| {
        let limits = &mut options.target.limits;
        limits.max_burst_length = way.max_burst;
        limits.first_burst_length = way.first_burst;
        limits.immediate_data = way.immediate;
        limits.initial_r2t = way.initial_r2t;
        limits.max_outstanding_r2t = way.r2ts;
        options.target.max_recv_data_segment = way.segments.0;
        options.target.phase_collapse = way.collapse;
    })
    .await;
    let mut options = options(&target);
    options.session.max_outstanding_r2t = 8;
    options.connection = ConnectionParams {
        header_digest: way.digests,
        data_digest: way.digests,
        max_recv_data_segment: way.segments.1,
        ..ConnectionParams::default()
    };
    let mut initiator = Initiator::connect(&options).await.unwrap();
    let agreed = initiator.negotiated().clone();
    assert_eq!(agreed.session.max_burst_length, way.max_burst);
    assert_eq!(agreed.session.initial_r2t, way.initial_r2t);
    assert_eq!(agreed.session.immediate_data, way.immediate);
    assert_eq!(agreed.connection.data_digest, way.digests);
    let mut lba = 3;
    for blocks in [1_u32, 2, 7, 8, 16, 31, 128, 129, 400] {
        let data = pattern(u64::from(blocks), blocks as usize * 512);
        initiator.write(lba, data.clone()).await.unwrap();
        assert_eq!(initiator.read(lba, blocks).await.unwrap().contiguous(), data, "{blocks} blocks");
        assert_eq!(target.read_medium(0, lba, u64::from(blocks)).unwrap(), data);
        lba += u64::from(blocks) + 1;
    }
    initiator.flush().await.unwrap();
    initiator.logout().await.unwrap();
}

#[tokio::test]
async fn data_survive_every_way_of_negotiating() {
    for way in WAYS {
        soon(round_trip(way)).await;
    }
}

#[tokio::test]
async fn many_commands_are_outstanding_beyond_the_window() {
    let target = target(1, |options| options.target.window = 8).await;
    let mut initiator = initiator(&target).await;
    let mut expected = BTreeMap::new();
    for index in 0..100_u64 {
        let data = pattern(index, 8192);
        expected.insert(initiator.submit_write(index * 16, data.clone()), None);
    }
    for index in 0..100_u64 {
        expected.insert(initiator.submit_read(4096 + index, 1), Some(vec![0; 512]));
    }
    soon(async {
        while initiator.outstanding() > 0 {
            let (tag, done) = initiator.complete().await.unwrap();
            let wanted = expected.remove(&tag).expect("completed once").unwrap_or_default();
            assert_eq!(done.good().unwrap().contiguous(), wanted);
        }
    })
    .await;
    assert!(expected.is_empty());
    for index in 0..100_u64 {
        assert_eq!(target.read_medium(0, index * 16, 16).unwrap(), pattern(index, 8192));
    }
}

/// Expected length and real length differ: residuals say so, and only what was expected moves (R134).
#[tokio::test]
async fn residuals_are_counted() {
    let target = target(1, |_| ()).await;
    let mut initiator = initiator(&target).await;
    let read_two = [0x28, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    let done = initiator.command(&read_two, Data::In(512)).await.unwrap();
    assert_eq!((done.status, done.residual, done.data.len()), (0, 512, 512));
    let done = initiator.command(&read_two, Data::In(4096)).await.unwrap();
    assert_eq!((done.status, done.residual, done.data.len()), (0, -3072, 1024));
    let write_two = [0x2a, 0, 0, 0, 0, 0, 0, 0, 2, 0];
    let data = pattern(9, 2048);
    let done = initiator.command(&write_two, Data::Out(data.clone().into())).await.unwrap();
    assert_eq!((done.status, done.residual), (0, -1024));
    assert_eq!(target.read_medium(0, 0, 3).unwrap()[..1024], data[..1024]);
    assert_eq!(target.read_medium(0, 2, 1).unwrap(), [0; 512]);
}

#[tokio::test]
async fn what_does_not_fit_the_disk_is_refused() {
    let target = target(1, |_| ()).await;
    let mut initiator = initiator(&target).await;
    let last = initiator.blocks() - 1;
    for (cdb, data, sense) in [
        (vec![0x28, 0, 0, 1, 255, 255, 0, 0, 2, 0], Data::In(1024), (5, 0x21)),
        (vec![0x2a, 0, 0, 1, 255, 255, 0, 0, 2, 0], Data::Out(vec![1; 1024].into()), (5, 0x21)),
        (vec![0x88, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 9, 0, 0], Data::In(4608), (5, 0x21)),
        (vec![0xc0, 0, 0, 0, 0, 0], Data::None, (5, 0x20)),
        (vec![0x28, 0x20, 0, 0, 0, 0, 0, 0, 1, 0], Data::In(512), (5, 0x24)),
    ] {
        let done = initiator.command(&cdb, data).await.unwrap();
        let found = crate::scsi::Sense::parse(&done.sense).unwrap();
        assert_eq!((done.status, found.key, found.asc), (2, sense.0, sense.1), "{cdb:x?}");
    }
    assert_eq!(last, 131_071);
    assert_eq!(target.read_medium(0, last, 1).unwrap(), [0; 512]);
    assert_eq!(target.read_medium(0, last, 2), None);
}
