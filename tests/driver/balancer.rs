//! Listeners behind load balancers, which tell by the PROXY protocol whose connections are whose.

use crate::rig::{Client, TARGET, assert_closed, bounded, counted, plan, refusal, stranger, table};
use braid::config::Config;
use braid::iscsi::framer::Receiver;
use braid::lab::target::{RamTarget, TargetOptions};
use braid::login::{LoginKind, LoginPlan, SessionParams};
use braid::metrics::Metrics;
use braid::proxy::Proxy;
use braid::proxy::conn::Conn;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Where balancers connect from.
const BALANCER: &str = "127.0.9.7";

/// Braid with a listener of each kind.
struct Rig {
    _ram: RamTarget,
    proxy: Proxy,
    metrics: Arc<Metrics>,
}

impl Rig {
    async fn new(top: &str, settings: &str) -> Self {
        let ram = RamTarget::start(TargetOptions::loopback(1)).await.unwrap();
        let text = table(top, ram.addresses(), settings);
        let behind = format!(
            "listen = [\"127.0.0.1\", {{ address = \"127.0.0.2\", proxy_protocol = \"{BALANCER}\" }}]\n{text}"
        );
        let mut config = Config::from_toml(&behind, "test").unwrap_or_else(|error| panic!("{error}"));
        for listen in &mut config.listen {
            listen.address.set_port(0);
        }
        let metrics = Arc::new(Metrics::new());
        let proxy = Proxy::start(Arc::new(config), Arc::clone(&metrics)).await.unwrap();
        Self { _ram: ram, proxy, metrics }
    }

    /// The listener behind the balancer.
    fn behind(&self) -> SocketAddr {
        self.proxy.addresses()[1]
    }

    fn logins(&self, result: &str) -> u64 {
        counted(&self.metrics, &format!("braid_logins_total{{result=\"{result}\"}}"))
    }

    /// A balancer that begins its connections with this; gives its portal.
    async fn balancer(&self, header: &[u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (portal, behind, header) = (listener.local_addr().unwrap(), self.behind(), header.to_vec());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let header = header.clone();
                tokio::spawn(async move {
                    let mut far = from_balancer(behind).await;
                    far.write_all(&header).await.unwrap();
                    drop(copy_bidirectional(&mut near, &mut far).await);
                });
            }
        });
        portal
    }
}

async fn from_balancer(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(BALANCER.parse().unwrap(), 0)).unwrap();
    socket.connect(to).await.unwrap()
}

fn header(from: &str) -> Vec<u8> {
    format!("PROXY TCP4 {from} 10.9.9.9 4711 3260\r\n").into_bytes()
}

async fn found(portal: SocketAddr) -> String {
    let offer = SessionParams::default();
    let plan = LoginPlan { kind: LoginKind::Discovery, target_name: String::new(), offer, ..plan(9) };
    let mut client = Client::login_as(portal, plan).await.unwrap();
    let found = client.text("SendTargets=All\0").await.unwrap();
    client.logout().await;
    found
}

#[tokio::test]
async fn the_told_address_is_the_initiators() {
    bounded(async {
        let rig = Rig::new("", "allow = { addresses = [\"10.0.0.0/24\"] }").await;
        let welcome = rig.balancer(&header("10.0.0.7")).await;
        let mut client = Client::login(welcome, 1).await.unwrap();
        client.ping().await.unwrap();
        let shown = rig.proxy.operator().status().await;
        assert_eq!(format!("{shown:?}").matches("10.0.0.7").count(), 1, "{shown:?}");
        client.logout().await;
        let stranger = rig.balancer(&header("10.0.1.7")).await;
        assert_eq!(refusal(Client::login(stranger, 2).await), (2, 2));
        // Nor does it help to be let in by name and place what the balancer does not tell.
        let own = rig.balancer(b"PROXY UNKNOWN\r\n").await;
        assert_eq!(refusal(Client::login(own, 3).await), (2, 2));
        assert_eq!((rig.logins("accepted"), rig.logins("denied")), (1, 2));
    })
    .await;
}

#[tokio::test]
async fn r239_discovery_shows_the_way_by_which_the_initiator_came() {
    bounded(async {
        let rig = Rig::new("", "").await;
        let through = found(rig.balancer(&header("10.0.0.7")).await).await;
        assert_eq!(through, format!("TargetName={TARGET}\0TargetAddress=10.9.9.9:3260,1\0"));
        let open = rig.proxy.addresses()[0];
        assert_eq!(found(open).await, format!("TargetName={TARGET}\0TargetAddress={open},1\0"));
    })
    .await;
}

#[tokio::test]
async fn the_told_address_has_its_own_rate() {
    bounded(async {
        let rig = Rig::new("limits = { login_rate = 1 }", "").await;
        let (fast, slow) = (rig.balancer(&header("10.0.0.7")).await, rig.balancer(&header("10.0.0.8")).await);
        for isid in 1..=4 {
            Client::login(fast, isid).await.unwrap().logout().await;
        }
        assert_closed(stranger(fast).await).await;
        Client::login(slow, 5).await.unwrap().logout().await;
    })
    .await;
}

#[tokio::test]
async fn who_does_not_introduce_himself_is_sent_away() {
    bounded(async {
        let rig = Rig::new("", "").await;
        // Somebody who is no balancer, though he talks like one.
        let conn = stranger(rig.behind()).await;
        conn.stream().try_write(&header("10.0.0.7")).ok();
        assert_closed(conn).await;
        assert_eq!(rig.logins("denied"), 1);
        // A balancer that says nothing, or nonsense, before it passes a login on.
        for (nonsense, before) in [(&b""[..], 0), (b"PROXY TCP4 10.0.0.7\r\n", 1)] {
            assert_eq!(rig.logins("protocol"), before);
            assert!(Client::login(rig.balancer(nonsense).await, 1).await.is_err());
        }
        assert_eq!(rig.logins("protocol"), 2);
        // One that looks whether Braid is there does nothing wrong.
        let itself = header(BALANCER);
        for check in [&b""[..], b"PROXY UNKNOWN\r\n", &itself] {
            let mut stream = from_balancer(rig.behind()).await;
            stream.write_all(check).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_closed(Conn::new(stream, Receiver::Initiator)).await;
        }
        assert_eq!((rig.logins("protocol"), rig.logins("unfinished")), (2, 0));
    })
    .await;
}
