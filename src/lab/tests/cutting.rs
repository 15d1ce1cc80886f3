//! The cutter: what each way of cutting looks like from both ends.

use super::{options, soon, target};
use crate::lab::cutter::{Cutter, Direction, LinkOptions};
use crate::lab::initiator::{Initiator, InitiatorError, InitiatorOptions};
use crate::lab::workload::{Limit, Workload, WorkloadOptions};
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A link, and the two ends of one connection through it.
async fn link(options: LinkOptions) -> (Cutter, TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cutter =
        Cutter::start(([127, 0, 0, 1], 0).into(), listener.local_addr().unwrap(), options).await.unwrap();
    let near = TcpStream::connect(cutter.address()).await.unwrap();
    let (far, _) = soon(listener.accept()).await.unwrap();
    (cutter, listener, near, far)
}

async fn says(from: &mut TcpStream, to: &mut TcpStream, words: &[u8]) {
    from.write_all(words).await.unwrap();
    let mut heard = vec![0; words.len()];
    soon(to.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, words);
}

/// Nothing comes for a while; a silent link can only be told from a slow one by waiting.
async fn silence<T: std::fmt::Debug>(what: impl Future<Output = T>) {
    let heard = tokio::time::timeout(Duration::from_millis(50), what).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test]
async fn an_open_link_carries_both_ways_and_closes() {
    let (cutter, _listener, mut near, mut far) = link(LinkOptions::default()).await;
    says(&mut near, &mut far, b"there").await;
    says(&mut far, &mut near, b"and back").await;
    assert_eq!((cutter.bytes(Direction::ToTarget), cutter.bytes(Direction::ToInitiator)), (5, 8));
    assert_eq!(cutter.connections(), 1);
    near.shutdown().await.unwrap();
    assert_eq!(soon(far.read(&mut [0; 8])).await.unwrap(), 0);
    says(&mut far, &mut near, b"half closed").await;
}

#[tokio::test]
async fn a_reset_reaches_both_ends_and_refuses_until_healed() {
    let (cutter, listener, mut near, mut far) = link(LinkOptions::default()).await;
    cutter.cut_reset().await;
    for end in [&mut near, &mut far] {
        let error = soon(end.read(&mut [0; 8])).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    let refused = TcpStream::connect(cutter.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    cutter.heal().await;
    let mut near = TcpStream::connect(cutter.address()).await.unwrap();
    let (mut far, _) = soon(listener.accept()).await.unwrap();
    says(&mut near, &mut far, b"again").await;
}

#[tokio::test]
async fn a_reset_kills_old_connections_however_soon_it_heals() {
    let (cutter, _listener, mut near, _far) = link(LinkOptions::default()).await;
    tokio::join!(cutter.cut_reset(), cutter.heal());
    assert!(soon(near.read(&mut [0; 8])).await.is_err());
}

#[tokio::test]
async fn a_silent_link_swallows_and_gives_back_when_healed() {
    let (cutter, listener, mut near, mut far) = link(LinkOptions::default()).await;
    cutter.cut_silent().await;
    near.write_all(b"lost?").await.unwrap();
    far.write_all(b"hello?").await.unwrap();
    silence(far.read(&mut [0; 8])).await;
    silence(near.read(&mut [0; 8])).await;
    // The connection is made, but nobody is behind it.
    let _pending = TcpStream::connect(cutter.address()).await.unwrap();
    silence(listener.accept()).await;
    cutter.heal().await;
    let mut heard = [0; 6];
    soon(far.read_exact(&mut heard[..5])).await.unwrap();
    assert_eq!(&heard[..5], b"lost?");
    soon(near.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"hello?");
    soon(listener.accept()).await.unwrap();
}

#[tokio::test]
async fn half_a_cut_leaves_the_other_half() {
    let (cutter, _listener, mut near, mut far) = link(LinkOptions::default()).await;
    cutter.cut_half(Direction::ToInitiator).await;
    says(&mut near, &mut far, b"one way").await;
    far.write_all(b"answer").await.unwrap();
    silence(near.read(&mut [0; 8])).await;
    cutter.heal().await;
    let mut heard = [0; 6];
    soon(near.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"answer");
}

/// Bounds that a correct link cannot miss however slow the machine: it may be slower than asked, never faster.
#[tokio::test]
async fn rate_and_delay_hold_back() {
    let options =
        LinkOptions { rate: Some(10 << 20), delay: Duration::from_millis(30), ..LinkOptions::default() };
    let (_cutter, _listener, mut near, mut far) = link(options).await;
    let start = tokio::time::Instant::now();
    says(&mut near, &mut far, b"x").await;
    assert!(start.elapsed() >= Duration::from_millis(30));
    let data = vec![7; 2 << 20];
    let mut back = vec![0; data.len()];
    let start = tokio::time::Instant::now();
    let (sent, received) =
        soon(async { tokio::join!(near.write_all(&data), far.read_exact(&mut back)) }).await;
    sent.unwrap();
    received.unwrap();
    assert_eq!(back, data);
    assert!(start.elapsed() >= Duration::from_millis(190));
}

/// As above, for a link that changes under a connection.
#[tokio::test]
async fn a_link_becomes_slow_long_and_lossy_and_good_again() {
    let (cutter, _listener, mut near, mut far) = link(LinkOptions::default()).await;
    says(&mut near, &mut far, b"good").await;
    let delay = Duration::from_millis(30);
    cutter.set_options(LinkOptions { delay, ..LinkOptions::default() }).await;
    for _ in 0..3 {
        let start = tokio::time::Instant::now();
        says(&mut near, &mut far, b"long").await;
        assert!(start.elapsed() >= delay);
    }
    cutter.set_options(LinkOptions { rate: Some(1 << 20), ..LinkOptions::default() }).await;
    let (data, mut back) = (vec![7; 256 << 10], vec![0; 256 << 10]);
    let start = tokio::time::Instant::now();
    let (sent, received) =
        soon(async { tokio::join!(near.write_all(&data), far.read_exact(&mut back)) }).await;
    sent.unwrap();
    received.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(200) && back == data);
    cutter.set_options(LinkOptions { loses_one_in: Some(2), ..LinkOptions::default() }).await;
    let start = tokio::time::Instant::now();
    says(&mut far, &mut near, b"one").await;
    says(&mut far, &mut near, b"two").await;
    assert!(start.elapsed() >= Duration::from_millis(200), "every second packet is lost");
    cutter.set_options(LinkOptions::default()).await;
    says(&mut near, &mut far, b"good").await;
    near.shutdown().await.unwrap();
    assert_eq!(soon(far.read(&mut [0; 8])).await.unwrap(), 0);
}

/// The whole chain: a session through a link that is cut and healed.
#[tokio::test]
async fn a_workload_through_a_link() {
    let target = target(1, |_| ()).await;
    let cutter = Cutter::start(([127, 0, 0, 1], 0).into(), target.addresses()[0], LinkOptions::default())
        .await
        .unwrap();
    let through = InitiatorOptions { address: cutter.address().to_string(), ..options(&target) };
    let mut initiator = Initiator::connect(&through).await.unwrap();
    let region = Some((0, 4096));
    let mut workload =
        Workload::new(WorkloadOptions { region, ..WorkloadOptions::default() }, &initiator).unwrap();
    assert!(soon(workload.prepare(&mut initiator)).await.is_clean());
    assert!(soon(workload.run(&mut initiator, Limit::Operations(500))).await.is_clean());
    assert!(cutter.bytes(Direction::ToTarget) > 4096 * 512);
    cutter.cut_reset().await;
    assert!(matches!(soon(initiator.read(0, 1)).await, Err(InitiatorError::Io(_) | InitiatorError::Closed)));
    assert!(Initiator::connect(&through).await.is_err());
    cutter.heal().await;
    let mut again = Initiator::connect(&through).await.unwrap();
    assert!(soon(workload.verify(&mut again)).await.is_clean());
}
