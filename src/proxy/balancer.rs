//! What a load balancer tells of a connection before its first byte: the header of the PROXY protocol, version 1 or 2.
//!
//! A listener with `proxy_protocol` takes connections from the balancers that stand there, and from nobody else: whoever may
//! send the header can be anybody. Each has to begin with the header ([`hear`]), or is closed. What it tells counts as the
//! ends of the connection, in allow-lists, login rates, logs, events and status; and as the initiator can come back only the
//! way it came, the balancer's portal is what discovery shows it.
//! A connection of the balancer's own (LOCAL; in version 1 UNKNOWN, or its own address) has the ends that it has.
//!
//! The header is read by a crate; how long it may be and take is bounded here.

use super::conn::Ends;
use crate::metrics::LoginResult;
use bytes::{Buf as _, BytesMut};
use proxy_protocol_rs::{ParseError, ProxyInfo, TransportProtocol};
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest header. Addresses take 52 bytes at most, and what balancers add beside them (names, certificates) some more.
const LONGEST: usize = 4096;

/// How long it may take. It comes at once; this is room for packets that have to be sent again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whose a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// The one's between these ends.
    Between(Ends),
    /// The balancer's own, or of somebody whom it cannot name.
    Own,
}

impl Told {
    /// The ends, where they are not those of the connection itself.
    pub(super) const fn ends(self) -> Option<Ends> {
        match self {
            Self::Between(ends) => Some(ends),
            Self::Own => None,
        }
    }

    /// The same of a balancer at this address: in version 1 HAProxy tells of its checks by naming itself.
    pub(super) fn seen_from(self, balancer: IpAddr) -> Self {
        let own = |ends: Ends| ends.peer.ip().to_canonical() == balancer.to_canonical();
        if self.ends().is_some_and(own) { Self::Own } else { self }
    }
}

/// Why that is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Untold {
    #[error("it has ended without a word")]
    Silent,
    #[error("it has ended within its PROXY protocol header")]
    Ended,
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("its PROXY protocol header has not come within {PATIENCE:?}")]
    Slow,
    #[error("its PROXY protocol header is longer than {LONGEST} bytes")]
    TooLong,
    #[error("it begins without a PROXY protocol header")]
    Missing,
    #[error("its PROXY protocol header is broken: {0}")]
    Broken(String),
}

impl Untold {
    /// What it is counted as.
    pub(super) const fn as_login(&self) -> LoginResult {
        match self {
            Self::Silent | Self::Ended | Self::Io(_) | Self::Slow => LoginResult::Unfinished,
            Self::TooLong | Self::Missing | Self::Broken(_) => LoginResult::Protocol,
        }
    }
}

/// Reads the header; gives what it tells, and what has been read behind it.
///
/// # Errors
/// [`Untold`]: nobody knows whose connection this is.
pub(super) async fn hear(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Told, BytesMut), Untold> {
    let mut read = BytesMut::with_capacity(LONGEST);
    let hearing = async {
        loop {
            if let Some((told, length)) = understand(&read)? {
                read.advance(length);
                return Ok(told);
            }
            if stream.read_buf(&mut read).await? == 0 {
                return Err(if read.is_empty() { Untold::Silent } else { Untold::Ended });
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, hearing).await.map_err(|_| Untold::Slow)??;
    Ok((told, read))
}

/// What a header tells, and its length; none if there is more of it to come.
fn understand(read: &[u8]) -> Result<Option<(Told, usize)>, Untold> {
    match proxy_protocol_rs::parse(read) {
        Ok((info, length)) if length <= LONGEST => Ok(Some((told(&info)?, length))),
        Err(ParseError::Incomplete) if read.len() < LONGEST => Ok(None),
        Ok(_) | Err(ParseError::Incomplete) => Err(Untold::TooLong),
        Err(ParseError::NotProxyProtocol) => Err(Untold::Missing),
        // It may quote what came.
        Err(error) => Err(Untold::Broken(error.to_string().escape_debug().to_string())),
    }
}

fn told(info: &ProxyInfo) -> Result<Told, Untold> {
    let Some(transport) = info.transport else { return Ok(Told::Own) };
    if transport.protocol != TransportProtocol::Stream {
        return Err(Untold::Broken("it tells of no TCP connection".to_owned()));
    }
    let ends = info.source_inet().zip(info.destination_inet());
    Ok(ends.map_or(Told::Own, |(peer, reached)| Told::Between(Ends { peer, reached })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_protocol_rs::HeaderBuilder;
    use std::net::SocketAddr;
    use tokio::io::AsyncWriteExt as _;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn between(peer: &str, reached: &str) -> Told {
        Told::Between(Ends { peer: at(peer), reached: at(reached) })
    }

    /// Headers and what they tell.
    fn good() -> Vec<(Vec<u8>, Told)> {
        let (peer, reached) = ("10.0.0.7:4711", "10.0.9.9:3260");
        let (peer6, reached6) = ("[fd00::7]:4711", "[fd00::9]:3260");
        let v2 = || HeaderBuilder::v2_proxy(at(peer), at(reached));
        vec![
            (b"PROXY TCP4 10.0.0.7 10.0.9.9 4711 3260\r\n".to_vec(), between(peer, reached)),
            (b"PROXY TCP6 fd00::7 fd00::9 4711 3260\r\n".to_vec(), between(peer6, reached6)),
            (b"PROXY UNKNOWN\r\n".to_vec(), Told::Own),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), Told::Own),
            (v2().build(), between(peer, reached)),
            (
                v2().with_unique_id(*b"17").with_authority("disk.example").with_crc32c().build(),
                between(peer, reached),
            ),
            (HeaderBuilder::v2_proxy(at(peer6), at(reached6)).build(), between(peer6, reached6)),
            (HeaderBuilder::v2_local().build(), Told::Own),
            (HeaderBuilder::v2_unix("/run/a", "/run/b", TransportProtocol::Stream).build(), Told::Own),
            (v2().with_padding(4000).build(), between(peer, reached)),
        ]
    }

    /// What is made of bytes that come one by one, or at once, and end then.
    async fn heard(bytes: &[u8], one_by_one: bool) -> Result<(Told, BytesMut), Untold> {
        let (mut near, mut far) = tokio::io::duplex(if one_by_one { 1 } else { 1 << 17 });
        let bytes = bytes.to_vec();
        let sending = tokio::spawn(async move { near.write_all(&bytes).await });
        let heard = hear(&mut far).await;
        drop(far);
        drop(sending.await);
        heard
    }

    #[tokio::test]
    async fn headers_tell_whose_a_connection_is() {
        for (header, wanted) in good() {
            let all = [&header[..], b"login"].concat();
            let (told, rest) = heard(&all, false).await.unwrap();
            assert_eq!((told, &rest[..]), (wanted, &b"login"[..]), "{header:?}");
            let (told, rest) = heard(&all, true).await.unwrap();
            assert_eq!((told, &rest[..]), (wanted, &b""[..]), "{header:?}");
        }
    }

    #[tokio::test]
    async fn half_a_header_tells_nothing() {
        assert!(matches!(heard(b"", false).await, Err(Untold::Silent)));
        for (header, _) in good() {
            for length in 1..header.len() {
                assert!(matches!(understand(&header[..length]), Ok(None)), "{length} of {header:?}");
            }
            let half = &header[..header.len() / 2];
            assert!(matches!(heard(half, false).await, Err(Untold::Ended)), "{header:?}");
        }
    }

    #[tokio::test]
    async fn a_header_takes_its_time_but_no_longer() {
        tokio::time::pause();
        let (mut near, mut far) = tokio::io::duplex(64);
        near.write_all(b"PROXY TCP4 ").await.unwrap();
        assert!(matches!(hear(&mut far).await, Err(Untold::Slow)));
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let missing: [&[u8]; 4] =
            [&[0x43; 48], b"PROXYTCP4 ", b"\r\n\r\n\0\r\nQUIT\r", b"GET / HTTP/1.1\r\n\r\n"];
        for bytes in missing {
            assert!(matches!(heard(bytes, false).await, Err(Untold::Missing)), "{bytes:?}");
        }
        let v2 = |tail: &[u8]| [b"\r\n\r\n\0\r\nQUIT\n", tail].concat();
        let mut spoilt = HeaderBuilder::v2_proxy(at("10.0.0.7:1"), at("10.0.9.9:2")).with_crc32c().build();
        spoilt[16] ^= 1;
        let broken = [
            [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat(),
            b"PROXY TCP4 10.0.0.7 10.0.9.9 4711\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.7 10.0.9.9 4711 3260 1\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.7 10.0.9.9 4711 99999\r\n".to_vec(),
            b"PROXY TCP4 fd00::7 fd00::9 4711 3260\r\n".to_vec(),
            b"PROXY TCP6 10.0.0.7 10.0.9.9 4711 3260\r\n".to_vec(),
            b"PROXY UDP4 10.0.0.7 10.0.9.9 4711 3260\r\n".to_vec(),
            b"PROXY \x1b[2J 10.0.0.7 10.0.9.9 4711 3260\r\n".to_vec(),
            v2(&[0x11, 0x11, 0, 12, 10, 0, 0, 7, 10, 0, 9, 9, 0, 1, 0, 2]),
            v2(&[0x22, 0x11, 0, 12, 10, 0, 0, 7, 10, 0, 9, 9, 0, 1, 0, 2]),
            v2(&[0x21, 0x12, 0, 12, 10, 0, 0, 7, 10, 0, 9, 9, 0, 1, 0, 2]),
            v2(&[0x21, 0x11, 0, 11, 10, 0, 0, 7, 10, 0, 9, 9, 0, 1, 0]),
            v2(&[0x21, 0x11, 0, 13, 10, 0, 0, 7, 10, 0, 9, 9, 0, 1, 0, 2, 4]),
            v2(&[0x21, 0x41, 0, 0]),
            spoilt,
        ];
        for bytes in broken {
            let error = heard(&bytes, false).await.unwrap_err();
            assert!(matches!(error, Untold::Broken(_)), "{bytes:?}: {error}");
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
            assert_eq!(error.as_login(), LoginResult::Protocol);
        }
    }

    #[tokio::test]
    async fn a_long_header_is_cut_off() {
        let header = |padding| {
            HeaderBuilder::v2_proxy(at("10.0.0.7:1"), at("10.0.9.9:2")).with_padding(padding).build()
        };
        let fits = u16::try_from(LONGEST - header(0).len()).unwrap();
        assert!(heard(&header(fits), false).await.is_ok());
        for padding in [fits + 1, 60_000] {
            for one_by_one in [false, true] {
                assert!(
                    matches!(heard(&header(padding), one_by_one).await, Err(Untold::TooLong)),
                    "{padding}"
                );
            }
        }
    }
}
