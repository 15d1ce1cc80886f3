//! What the kernel knows of a connection (TCP_INFO), as the engine judges it.
//!
//! The option is read as bytes, and taken apart by the field offsets that libc gives: its layout only ever grows at the end,
//! and an older kernel tells less. One that does not tell how much was acknowledged (before Linux 4.1) is of no use.

use crate::session::Sample;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::net::TcpStream;
use uapi::c;

const LENGTH: usize = size_of::<c::tcp_info>();

/// Takes a sample.
///
/// # Errors
/// If the system refuses the option, or tells too little.
pub(super) fn sample(stream: &TcpStream) -> io::Result<Sample> {
    let mut told = [0; LENGTH];
    let length = uapi::getsockopt(stream.as_raw_fd(), c::IPPROTO_TCP, c::TCP_INFO, &mut told)
        .map_err(io::Error::from)?;
    parse(told.get(..length).unwrap_or(&told)).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

fn parse(told: &[u8]) -> Option<Sample> {
    let byte = |at: usize| told.get(at).copied();
    let word = |at: usize| Some(u32::from_ne_bytes(*told.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u64::from_ne_bytes(*told.get(at..)?.first_chunk()?));
    let micros = |at: usize| Some(Duration::from_micros(u64::from(word(at)?)));
    let millis = |at: usize| Some(Duration::from_millis(u64::from(word(at)?)));
    Some(Sample {
        acked: long(offset_of!(c::tcp_info, tcpi_bytes_acked))?,
        unacked: word(offset_of!(c::tcp_info, tcpi_unacked))? > 0,
        timeouts: u32::from(byte(offset_of!(c::tcp_info, tcpi_retransmits))?),
        resent: word(offset_of!(c::tcp_info, tcpi_total_retrans))?,
        rtt: micros(offset_of!(c::tcp_info, tcpi_rtt))?,
        rtt_variation: micros(offset_of!(c::tcp_info, tcpi_rttvar))?,
        since_ack: millis(offset_of!(c::tcp_info, tcpi_last_ack_recv))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn acknowledged_bytes_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let before = sample(&stream).unwrap();
        stream.write_all(&[7; 1000]).await.unwrap();
        peer.read_exact(&mut [0; 1000]).await.unwrap();
        peer.write_all(&[7; 10]).await.unwrap();
        stream.read_exact(&mut [0; 10]).await.unwrap();
        let after = sample(&stream).unwrap();
        assert_eq!(after.acked - before.acked, 1000);
        assert!(!after.unacked && after.timeouts == 0 && after.rtt > Duration::ZERO);
    }

    #[test]
    fn a_kernel_that_tells_too_little_is_told_apart() {
        assert!(parse(&[0; LENGTH]).is_some());
        assert!(parse(&[0; 104]).is_none(), "Linux before 4.1");
        assert!(parse(&[]).is_none());
    }
}
