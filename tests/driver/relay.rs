//! A relay between Braid and a target that can spoil what the target says.

use braid::iscsi::LoginResponse;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What becomes of a PDU.
pub(crate) enum Spoilt {
    /// These bytes go out instead, and all goes on.
    Instead(Vec<u8>),
    /// These bytes go out instead, and the connection ends.
    Last(Vec<u8>),
}

type Attack = Box<dyn FnMut(&[u8]) -> Option<Spoilt> + Send>;

/// The relay; dropping it cuts all its connections.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    attack: Arc<Mutex<Option<Attack>>>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Starts relaying to a portal. `digest_bytes` is the length of digests in full feature phase: of the header, and of
    /// the data.
    pub(crate) async fn start(portal: SocketAddr, digest_bytes: (usize, usize)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let attack = Arc::new(Mutex::new(None));
        let mut tasks = JoinSet::new();
        let armed = Arc::clone(&attack);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((braid, _)) = listener.accept().await {
                let Ok(target) = TcpStream::connect(portal).await else { continue };
                connections.spawn(relay(braid, target, digest_bytes, Arc::clone(&armed)));
            }
        });
        Self { address, attack, _tasks: tasks }
    }

    /// From now on every PDU of the target is shown to `attack`, until it spoils one.
    pub(crate) fn arm(&self, attack: impl FnMut(&[u8]) -> Option<Spoilt> + Send + 'static) {
        *self.attack.lock().unwrap() = Some(Box::new(attack));
    }

    /// Whether the attack has happened.
    pub(crate) fn has_struck(&self) -> bool {
        self.attack.lock().unwrap().is_none()
    }
}

async fn relay(
    braid: TcpStream,
    target: TcpStream,
    digest_bytes: (usize, usize),
    armed: Arc<Mutex<Option<Attack>>>,
) {
    for stream in [&braid, &target] {
        stream.set_nodelay(true).unwrap();
    }
    let (mut from_braid, to_braid) = braid.into_split();
    let (from_target, mut to_target) = target.into_split();
    tokio::select! {
        _ = tokio::io::copy(&mut from_braid, &mut to_target) => {}
        _ = answers(from_target, to_braid, digest_bytes, armed) => {}
    }
}

/// Relays PDU by PDU. Ends when either side does.
async fn answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    digest_bytes: (usize, usize),
    armed: Arc<Mutex<Option<Attack>>>,
) -> std::io::Result<()> {
    let mut digests = (0, 0);
    loop {
        let mut pdu = vec![0; 48];
        from.read_exact(&mut pdu).await?;
        let length = u32::from_be_bytes([0, pdu[5], pdu[6], pdu[7]]) as usize;
        let ahs = usize::from(pdu[4]) * 4;
        let data = if length == 0 { 0 } else { length.next_multiple_of(4) + digests.1 };
        pdu.resize(48 + ahs + digests.0 + data, 0);
        from.read_exact(&mut pdu[48..]).await?;
        if ends_login(&pdu) {
            digests = digest_bytes;
        }
        let spoilt = {
            let mut attack = armed.lock().unwrap();
            let spoilt = attack.as_mut().and_then(|attack| attack(&pdu));
            if spoilt.is_some() {
                *attack = None;
            }
            spoilt
        };
        match spoilt {
            None => to.write_all(&pdu).await?,
            Some(Spoilt::Instead(bytes)) => to.write_all(&bytes).await?,
            Some(Spoilt::Last(bytes)) => {
                to.write_all(&bytes).await?;
                return to.shutdown().await;
            }
        }
    }
}

/// Whether this is the login response that begins full feature phase.
fn ends_login(pdu: &[u8]) -> bool {
    pdu[0] == 0x23 && pdu[1] & 0x83 == 0x83 && pdu[36] == 0
}

/// A target that answers every login request, and never lets a login end.
pub(crate) async fn endless_target() -> (SocketAddr, JoinSet<()>) {
    use braid::iscsi::Pdu;
    use braid::iscsi::framer::Receiver;
    use braid::proxy::conn::Conn;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut conn = Conn::new(stream, Receiver::Target);
            while let Ok(Pdu::LoginRequest(request)) = conn.recv().await {
                let answer = LoginResponse {
                    current: request.current,
                    isid: request.isid,
                    tsih: request.tsih,
                    itt: request.itt,
                    stat_sn: request.exp_stat_sn,
                    exp_cmd_sn: request.cmd_sn,
                    max_cmd_sn: request.cmd_sn,
                    ..LoginResponse::default()
                };
                if conn.send(&[Pdu::LoginResponse(answer)]).await.is_err() {
                    break;
                }
            }
        }
    });
    (address, tasks)
}
