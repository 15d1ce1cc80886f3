//! Connections that were on their way to a target's own address, and met Braid instead.
//!
//! # Where they wanted to go
//! The rules of `braid intercept` send them to a listener that intercepts. With REDIRECT the kernel has rewritten their
//! destination and remembers the one before; with TPROXY they still have it, as the local address of the accepted socket.
//! A connection that was made to the listener itself is nobody's but Braid's, and is served as on any other listener.
//!
//! # Whose they are
//! Nothing is answered before it is known whose a connection is: [`sort`] reads as far as the end of the first PDU. Braid
//! keeps a login to a configured target of which the original destination is a portal, and discovery at such a portal. A target
//! that is discovered (`catalogue`) is Braid's if its portals have told of it.
//! Everything else is [`pass_on`]: connected to the original destination, given the bytes that were read, and copied both
//! ways, with bounded buffers, until both sides have closed. So is a connection that says nothing at first, because in its
//! protocol the other side speaks first.
//!
//! # No loops
//! Braid's own connections carry a mark that the rules leave alone ([`can_mark`] sees to it that they can), and no connection
//! is passed on to a listener of Braid's own ([`own`]).

use super::Shared;
use super::catalogue::{Found, Sought};
use super::dial::{self, Route, Timing};
use super::told::Answer;
use crate::config::{Config, Intercept, Listen, PathConfig, Target};
use crate::iscsi::Pdu;
use crate::iscsi::framer::{Framer, Receiver};
use crate::iscsi::text::KeyList;
use crate::login::discovery::TargetRecord;
use bytes::BytesMut;
use socket2::{Domain, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long the first PDU may take: an initiator sends it at once, and a peer that waits for a greeting never does.
const PATIENCE: Duration = Duration::from_secs(3);

/// Bytes read at most to sort a connection: more than a header, its AHS and a data segment as long as a login's may be.
const LONGEST: usize = 12 * 1024;

/// Opcode byte of a login request, with the bit that makes it immediate.
const LOGIN_REQUEST: u8 = 0x43;

/// Bytes under way at most in one direction of a connection that is passed on.
const BUFFER: usize = 64 * 1024;

/// A connection that intercepts, sorted.
pub(super) enum Sorted {
    /// Braid's; the bytes are what was read of it.
    Ours(BytesMut),
    /// Somebody else's, likewise.
    Foreign(BytesMut),
    /// It is over.
    Gone,
}

/// Opens a listener that intercepts. It takes one address family only, so that each can have its own.
///
/// # Errors
/// If the system refuses; TPROXY wants CAP_NET_ADMIN.
pub(super) fn bind(listen: &Listen, how: Intercept) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(listen.address), Type::STREAM, None)?;
    let v6 = listen.address.is_ipv6();
    if v6 {
        socket.set_only_v6(true)?;
    }
    match how {
        Intercept::Redirect => {}
        Intercept::Tproxy if v6 => socket.set_ip_transparent_v6(true)?,
        Intercept::Tproxy => socket.set_ip_transparent_v4(true)?,
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&listen.address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether this process may mark its connections.
///
/// # Errors
/// What the system says if not: it wants CAP_NET_ADMIN.
pub(super) fn can_mark(mark: u32) -> io::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM, None)?.set_mark(mark)
}

/// Where a connection accepted on a listener wanted to go; none if to the listener itself.
pub(super) fn original(stream: &TcpStream, listener: SocketAddr, how: Intercept) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let wanted = match how {
        Intercept::Tproxy if local.port() == listener.port() => return None,
        Intercept::Tproxy => local,
        // Fails where the kernel has rewritten nothing.
        Intercept::Redirect => {
            let socket = SockRef::from(stream);
            let v4 = local.is_ipv4();
            let wanted = if v4 { socket.original_dst_v4() } else { socket.original_dst_v6() };
            wanted.ok()?.as_socket()?
        }
    };
    (wanted != local || how == Intercept::Tproxy).then(|| SocketAddr::new(wanted.ip(), wanted.port()))
}

/// What a first PDU asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Request {
    initiator: String,
    /// The target; none in discovery.
    target: Option<String>,
}

/// Finds out whose a connection to this original destination is, without answering anything.
pub(super) async fn sort(shared: &Shared, stream: &mut TcpStream, wanted: SocketAddr) -> Sorted {
    let peer = stream.peer_addr().ok().map(|peer| peer.ip());
    let config = shared.config();
    if !config.targets.iter().any(|target| has_portal(target, wanted)) {
        return Sorted::Foreign(BytesMut::new());
    }
    read_and_judge(stream, async |request| match is_ours(&config, request, wanted, peer) {
        Ours::Yes => true,
        Ours::No => false,
        Ours::IfThere(name) => {
            let sought = Sought { name, initiator: &request.initiator, peer, wanted: Some(wanted) };
            matches!(shared.target(&config, &sought).await, Found::Served(_))
        }
    })
    .await
}

/// Reads what a connection begins with, and asks whether it is Braid's if that is a login request.
async fn read_and_judge(stream: &mut TcpStream, is_ours: impl AsyncFnOnce(&Request) -> bool) -> Sorted {
    let mut read = BytesMut::new();
    let reading = async {
        loop {
            if let Some(found) = first_request(&read) {
                return Some(found);
            }
            match stream.read_buf(&mut read).await {
                Ok(0) if read.is_empty() => return None,
                Ok(0) => return Some(None),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    };
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(None) => Sorted::Gone,
        Ok(Some(Some(request))) if is_ours(&request).await => Sorted::Ours(read),
        Ok(Some(_)) | Err(_) => Sorted::Foreign(read),
    }
}

/// The login request that a connection begins with, or that it begins with something else; none if its bytes do not tell yet.
fn first_request(read: &BytesMut) -> Option<Option<Request>> {
    if *read.first()? != LOGIN_REQUEST {
        return Some(None);
    }
    let mut framer = Framer::new(Receiver::Target);
    framer.buffer().extend_from_slice(read);
    match framer.next_pdu() {
        Ok(Some(Pdu::LoginRequest(request))) => {
            let keys = KeyList::parse(&request.data.contiguous()).unwrap_or_default();
            let value = |key| keys.value(key).unwrap_or_default().to_owned();
            let discovery = keys.value("SessionType") == Some("Discovery");
            let target = (!discovery).then(|| value("TargetName"));
            Some(Some(Request { initiator: value("InitiatorName"), target }))
        }
        Ok(None) if read.len() < LONGEST => None,
        Ok(_) | Err(_) => Some(None),
    }
}

/// Whether a login is Braid's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ours<'r> {
    Yes,
    No,
    /// If the target of this name is to be had at the portal.
    IfThere(&'r str),
}

/// Whether a login on its way to this portal is Braid's. For those whom the table of a discovered target does not admit no portal
/// is asked: they are refused.
fn is_ours<'r>(config: &Config, request: &'r Request, wanted: SocketAddr, peer: Option<IpAddr>) -> Ours<'r> {
    let Some(name) = &request.target else { return Ours::Yes };
    let tables: Vec<_> = config.tables(name).filter(|table| has_portal(table, wanted)).collect();
    let admits = |table: &&Target| table.allow.admits(&request.initiator, peer);
    match tables.as_slice() {
        [] => Ours::No,
        [table, ..] if table.discover.is_none() => Ours::Yes,
        tables if tables.iter().any(admits) => Ours::IfThere(name),
        _ => Ours::Yes,
    }
}

/// Whether one of a target's paths leads to this portal.
pub(super) fn has_portal(target: &Target, portal: SocketAddr) -> bool {
    target.portals().any(|own| own == portal)
}

/// Carries a connection on to where it wanted to go, with what was read of it, until both sides have closed.
pub(super) async fn pass_on(shared: &Shared, mut near: TcpStream, wanted: SocketAddr, read: &[u8]) {
    let peer = near.peer_addr().ok();
    let config = shared.config();
    let Some(_seat) = shared.passing.take(config.limits.max_sessions) else {
        tracing::warn!(?peer, %wanted, "as many connections passed on as limits.max_sessions allows: closed");
        return reset(&near);
    };
    if shared.portals.iter().any(|listener| own(*listener, wanted)) {
        tracing::warn!(?peer, %wanted, "not passed on: that is where Braid itself listens");
        return reset(&near);
    }
    shared.metrics.passed_on();
    tracing::info!(?peer, %wanted, "no session of a configured target: passed on untouched");
    let route = Route { mark: config.own_mark(), ..Route::to(wanted.to_string()) };
    let mut far = match dial::connect_tcp(&route, &Timing::default()).await {
        Ok(far) => far,
        Err(error) => {
            tracing::info!(%wanted, %error, "not passed on");
            return reset(&near);
        }
    };
    let copied = async {
        far.write_all(read).await?;
        copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await
    };
    if let Err(error) = copied.await {
        tracing::debug!(%wanted, %error, "a connection that was passed on broke");
        reset(&near);
        reset(&far);
    }
}

/// Lets a socket be closed with a reset, as the other side of what is passed on was.
fn reset(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "no reset on close");
    }
}

/// Whether what connects to `address` would meet this listener of Braid's own.
pub(super) fn own(listener: SocketAddr, address: SocketAddr) -> bool {
    let ip = listener.ip();
    listener.port() == address.port() && (ip == address.ip() || (ip.is_unspecified() && is_here(address)))
}

/// Whether an address is this machine's own, by the source that the kernel would take to reach it.
fn is_here(address: SocketAddr) -> bool {
    address.ip().is_loopback() || dial::local_address(address).is_ok_and(|source| source == address.ip())
}

impl Shared {
    /// The answer to discovery at an intercepted portal: what the portal itself tells this initiator, with the portal in place
    /// of all addresses of the targets that are Braid's there; those alone if it does not answer. `shows` says which of these
    /// the initiator is told of.
    pub(super) async fn records_at(
        &self,
        config: &Config,
        portal: SocketAddr,
        initiator: &str,
        shows: impl Fn(&Target, &str) -> bool,
    ) -> Vec<TargetRecord> {
        let here: Vec<&Target> = config.targets.iter().filter(|target| has_portal(target, portal)).collect();
        let Some(path) = here.iter().find_map(|table| path_to(table, portal)) else { return Vec::new() };
        let answered = |answers: &[Option<Answer>]| answers.iter().all(Option::is_some);
        let asked = self.told.by(initiator, [path], answered).await.pop();
        let Some(answer) = asked.flatten() else {
            tracing::warn!(%portal, "the portal tells nothing: discovery shows configured targets only");
            return self.records_without((config, &here), portal, initiator, shows).await;
        };
        let mut records = answer.to_vec();
        records.retain_mut(|record| {
            let tables: Vec<_> =
                config.tables(&record.name).filter(|table| has_portal(table, portal)).collect();
            if tables.is_empty() {
                return true;
            }
            let told = record.portals.iter().find(|(address, _)| *address == portal.to_string());
            let tpgt = told.map_or_else(|| self.tpgt(&record.name), |(_, tpgt)| *tpgt);
            record.portals = vec![(portal.to_string(), tpgt)];
            tables.iter().any(|table| shows(table, &record.name))
        });
        records
    }

    /// The same without the portal's help.
    async fn records_without(
        &self,
        (config, here): (&Config, &[&Target]),
        portal: SocketAddr,
        initiator: &str,
        shows: impl Fn(&Target, &str) -> bool,
    ) -> Vec<TargetRecord> {
        let mut records: Vec<TargetRecord> = Vec::new();
        for table in here {
            let targets = self.targets_of(config, table, initiator).await;
            for target in targets.iter().filter(|target| has_portal(target, portal)) {
                if shows(table, &target.name) && !records.iter().any(|record| record.name == target.name) {
                    records.push(self.record_at(portal, target, initiator));
                }
            }
        }
        records
    }

    /// A target as it is shown at an intercepted portal.
    pub(super) fn record_at(&self, portal: SocketAddr, target: &Target, initiator: &str) -> TargetRecord {
        let told = self.tpgt_at(portal, target, initiator);
        let tpgt = told.or_else(|| self.tags.known(&target.name, Some(portal)));
        let tpgt = tpgt.unwrap_or_else(|| self.tpgt(&target.name));
        TargetRecord { name: target.name.clone(), portals: vec![(portal.to_string(), tpgt)] }
    }

    /// The tag that a portal has told of a target.
    pub(super) fn tpgt_at(&self, portal: SocketAddr, target: &Target, initiator: &str) -> Option<u16> {
        let path = path_to(target, portal)?;
        let told = || {
            let answer = self.told.remembered(initiator, path)?;
            let record = answer.iter().find(|record| record.name == target.name)?;
            let own = record.portals.iter().find(|(address, _)| *address == portal.to_string());
            own.map(|(_, tpgt)| *tpgt)
        };
        path.group.or_else(told)
    }
}

/// The first path that leads to a portal.
fn path_to(target: &Target, portal: SocketAddr) -> Option<&PathConfig> {
    target.paths.iter().find(|path| path.portal == portal && path.target == target.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::{Cid, CmdSn, Isid};
    use crate::login::{ConnectionParams, InitiatorLogin, LoginKind, LoginPlan, SessionParams};
    use crate::proxy::conn::Conn;

    fn config() -> Config {
        let text = "[[target]]\nname = \"iqn.a\"\npaths = [\"10.0.0.1\", \"10.0.0.2\"]\n\
                    [[target]]\nname = \"iqn.b\"\npaths = [\"10.0.0.3\"]\n";
        Config::from_toml(text, "t").unwrap()
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    /// How a login to this target, or for discovery if it has no name, is sorted on its way to a portal.
    async fn sorted(target: &str, wanted: &str) -> Sorted {
        let plan = LoginPlan {
            kind: if target.is_empty() { LoginKind::Discovery } else { LoginKind::Leading },
            initiator_name: "iqn.2026-11.example:host".into(),
            target_name: target.into(),
            isid: Isid([0x80, 0, 0, 0, 0, 1]),
            cid: Cid(0),
            cmd_sn: CmdSn(1),
            offer: SessionParams::default(),
            connection: ConnectionParams::default(),
        };
        let (near, mut far) = pair().await;
        let mut near = Conn::new(near, Receiver::Initiator);
        near.send(&[InitiatorLogin::start(plan).1]).await.unwrap();
        sorted_at(&mut far, wanted.parse().unwrap()).await
    }

    async fn sorted_at(stream: &mut TcpStream, wanted: SocketAddr) -> Sorted {
        let yes = async |request: &Request| is_ours(&config(), request, wanted, None) == Ours::Yes;
        read_and_judge(stream, yes).await
    }

    /// The same for bytes.
    async fn sorted_bytes(bytes: &[u8], end: bool) -> Sorted {
        let (mut near, mut far) = pair().await;
        near.write_all(bytes).await.unwrap();
        if end {
            near.shutdown().await.unwrap();
        }
        sorted_at(&mut far, "10.0.0.1:3260".parse().unwrap()).await
    }

    #[tokio::test]
    async fn logins_are_sorted_by_target_and_portal() {
        for (target, wanted, ours) in [
            ("iqn.a", "10.0.0.1:3260", true),
            ("iqn.a", "10.0.0.2:3260", true),
            ("iqn.a", "10.0.0.3:3260", false),
            ("iqn.c", "10.0.0.1:3260", false),
            ("", "10.0.0.3:3260", true),
        ] {
            let sorted = sorted(target, wanted).await;
            assert_eq!(matches!(sorted, Sorted::Ours(_)), ours, "{target} at {wanted}");
            assert_eq!(matches!(sorted, Sorted::Foreign(_)), !ours, "{target} at {wanted}");
        }
    }

    #[test]
    fn a_target_that_is_discovered_is_looked_for_where_it_is_asked_for() {
        let text = "[[target]]\nname = \"iqn.*\"\ndiscover = true\npaths = [\"10.0.0.1\"]\nallow = { names = [\"iqn.me\"] }\n\
                    [[target]]\nname = \"iqn.b\"\npaths = [\"10.0.0.1\"]\n";
        let config = Config::from_toml(text, "t").unwrap();
        for (initiator, target, wanted, ours) in [
            ("iqn.me", "iqn.a", "10.0.0.1:3260", Ours::IfThere("iqn.a")),
            ("iqn.me", "iqn.a", "10.0.0.2:3260", Ours::No),
            ("iqn.me", "eui.a", "10.0.0.1:3260", Ours::No),
            ("iqn.you", "iqn.a", "10.0.0.1:3260", Ours::Yes),
            ("iqn.you", "iqn.b", "10.0.0.1:3260", Ours::Yes),
        ] {
            let request = Request { initiator: initiator.to_owned(), target: Some(target.to_owned()) };
            assert_eq!(
                is_ours(&config, &request, wanted.parse().unwrap(), None),
                ours,
                "{initiator} {target} {wanted}"
            );
        }
    }

    #[tokio::test]
    async fn nothing_is_decided_before_the_login_request_is_whole() {
        let Sorted::Ours(read) = sorted("iqn.a", "10.0.0.1:3260").await else { panic!("ours") };
        for length in 0..read.len() {
            assert_eq!(first_request(&BytesMut::from(&read[..length])), None, "{length} bytes");
        }
        let request = first_request(&read).flatten().unwrap();
        assert_eq!(
            (request.initiator.as_str(), request.target.as_deref()),
            ("iqn.2026-11.example:host", Some("iqn.a"))
        );
    }

    #[tokio::test]
    async fn what_is_no_login_is_foreign_with_all_that_was_read() {
        let mut endless = [0; 48];
        endless[0] = LOGIN_REQUEST;
        endless[5..8].fill(0xff);
        let mut garbage = [0xff; 148];
        garbage[0] = LOGIN_REQUEST;
        garbage[4..8].copy_from_slice(&[0, 0, 0, 100]);
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x01], &endless, &garbage] {
            let Sorted::Foreign(read) = sorted_bytes(bytes, false).await else { panic!("{bytes:?}") };
            assert_eq!(read, bytes);
        }
        let Sorted::Foreign(read) = sorted_bytes(&[LOGIN_REQUEST; 20], true).await else { panic!("half") };
        assert_eq!(read, &[LOGIN_REQUEST; 20][..]);
        assert!(matches!(sorted_bytes(&[], true).await, Sorted::Gone));
    }

    #[tokio::test]
    async fn who_waits_to_be_greeted_is_passed_on() {
        tokio::time::pause();
        let (_near, mut far) = pair().await;
        let sorted = sorted_at(&mut far, "10.0.0.1:3260".parse().unwrap()).await;
        assert!(matches!(sorted, Sorted::Foreign(read) if read.is_empty()));
    }

    #[test]
    fn own_listeners_are_recognised() {
        let own = |listener: &str, address: &str| own(listener.parse().unwrap(), address.parse().unwrap());
        assert!(own("10.0.0.1:3260", "10.0.0.1:3260"));
        assert!(!own("10.0.0.1:3260", "10.0.0.1:3261"));
        assert!(own("0.0.0.0:3260", "127.0.0.9:3260"));
        assert!(own("[::]:3260", "[::1]:3260"));
        assert!(!own("0.0.0.0:3260", "192.0.2.1:3260"), "nobody here has an address for documentation");
    }
}
