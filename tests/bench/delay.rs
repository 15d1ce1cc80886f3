//! A long way to the target: a relay that passes everything on a fixed time later.
//!
//! Two threads per direction and connection: one notes when something came, one writes it when its time has come, so that a
//! long way costs time and not bandwidth.

use anyhow::Result;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// Pieces under way in one direction.
const MOST_PIECES: usize = 4096;

type Piece = (Instant, Vec<u8>);

/// Relays `listen[n]` to `to[n]` until it is killed.
pub(crate) fn serve(one_way: Duration, listen: &[SocketAddr], to: &[SocketAddr]) -> Result<()> {
    let mut serving = Vec::new();
    for (listen, to) in listen.iter().zip(to) {
        let (listener, to) = (TcpListener::bind(listen)?, *to);
        serving.push(spawn(move || accept(&listener, to, one_way)));
    }
    for thread in serving {
        thread.join().map_err(|_| anyhow::anyhow!("a listener panicked"))??;
    }
    Ok(())
}

fn accept(listener: &TcpListener, to: SocketAddr, one_way: Duration) -> Result<()> {
    loop {
        let (near, _) = listener.accept()?;
        let far = TcpStream::connect(to)?;
        for stream in [&near, &far] {
            stream.set_nodelay(true)?;
        }
        for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
            let (sender, receiver) = sync_channel(MOST_PIECES);
            spawn(move || take(from, &sender, one_way));
            spawn(move || give(to, &receiver));
        }
    }
}

/// Notes what comes, and when it is due.
fn take(mut from: TcpStream, sender: &SyncSender<Piece>, one_way: Duration) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if sender.send((Instant::now() + one_way, buffer[..length].to_vec())).is_err() {
            return;
        }
    }
}

/// Writes what is due; the end of one side is told to the other.
fn give(mut to: TcpStream, receiver: &Receiver<Piece>) {
    for (due, piece) in receiver {
        sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    // It may be gone already.
    to.shutdown(Shutdown::Both).ok();
}
