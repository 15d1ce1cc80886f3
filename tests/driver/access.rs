//! Who is let in: CHAP that Braid ends, CHAP that it passes on, names, addresses and rates. The target with CHAP is another
//! Braid, in front of the lab's.

use crate::rig::{
    Client, Rig, TARGET, assert_closed, bounded, pattern, plan, refusal, start, start_on, stranger,
};
use braid::iscsi::framer::Receiver;
use braid::iscsi::text::KeyList;
use braid::iscsi::{LoginResponse, Payload, Pdu, Stage};
use braid::lab::target::{RamTarget, TargetOptions};
use braid::login::chap::{Account, Credentials, Secret};
use braid::login::{LoginError, LoginKind, LoginPlan, SessionParams};
use braid::metrics::Metrics;
use braid::proxy::Proxy;
use braid::proxy::conn::Conn;
use braid::proxy::dial::{DialError, Route};
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpListener;

const HOST: &str = "secret-of-the-host";
const BRAID: &str = "secret-of-braid-itself";
const DISK: &str = "secret-of-the-disk";

/// Files with the secrets.
fn secrets() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, secret) in [("host", HOST), ("braid", BRAID), ("disk", DISK)] {
        fs::write(dir.path().join(name), format!("{secret}\n")).unwrap();
    }
    dir
}

/// An account as the configuration writes it.
fn account(dir: &TempDir, name: &str) -> String {
    format!("{{ name = \"{name}\", secret_file = \"{}\" }}", dir.path().join(name).display())
}

/// The settings of a target that knows the host and Braid, and proves itself as the disk.
fn terminate(dir: &TempDir) -> String {
    let [host, braid, disk] = ["host", "braid", "disk"].map(|name| account(dir, name));
    format!("chap = {{ initiators = [{host}, {braid}], target = {disk} }}")
}

/// Credentials at a target, mutual if the target's secret is given.
fn credentials(name: &str, secret: &str, disk: Option<&str>) -> Arc<Credentials> {
    let account = |name: &str, secret: &str| Account { name: name.to_owned(), secret: Secret::new(secret) };
    let peer = disk.map(|secret| account("disk", secret));
    Arc::new(Credentials { own: account(name, secret), peer })
}

async fn login(
    address: SocketAddr,
    plan: LoginPlan,
    credentials: Arc<Credentials>,
) -> Result<Client, DialError> {
    let route = Route { credentials: Some(credentials), ..Route::to(address.to_string()) };
    Client::login_over(&route, plan).await
}

fn discovery(isid: u8) -> LoginPlan {
    LoginPlan {
        kind: LoginKind::Discovery,
        target_name: String::new(),
        offer: SessionParams::default(),
        ..plan(isid)
    }
}

/// A Braid with accounts as a target with two portals, and a Braid before it.
struct Chain {
    _ram: RamTarget,
    _far: Proxy,
    far_metrics: Arc<Metrics>,
    near: Proxy,
    metrics: Arc<Metrics>,
}

impl Chain {
    async fn new(far: &str, near: &str) -> Self {
        let ram = RamTarget::start(TargetOptions::loopback(1)).await.unwrap();
        let (far, far_metrics) = start_on(2, "", ram.addresses(), far).await;
        let near_settings = format!("mode = \"sessions\"\n{near}");
        let (near, metrics) = start("", far.addresses(), &near_settings).await;
        Self { _ram: ram, _far: far, far_metrics, near, metrics }
    }

    fn address(&self) -> SocketAddr {
        self.near.addresses()[0]
    }

    /// Waits until so many of its paths have come up.
    async fn paths_up(&self, wanted: usize) {
        while up(&self.metrics) < wanted {
            tokio::task::yield_now().await;
        }
    }
}

fn up(metrics: &Metrics) -> usize {
    let health = metrics.health();
    health.iter().map(braid::metrics::TargetHealth::usable).sum()
}

/// The value of a series without labels other than the target.
fn counted(metrics: &Metrics, start: &str) -> u64 {
    let text = metrics.render();
    let line = text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn r84_r89_initiators_prove_themselves_to_braid() {
    bounded(async {
        let dir = secrets();
        let rig = Rig::new(1, &terminate(&dir)).await;
        let right = || credentials("host", HOST, None);
        let mut client = login(rig.address(), plan(1), right()).await.unwrap();
        assert_eq!(client.write(0, &pattern(1, 1)).await.status, 0);
        let mutual = login(rig.address(), plan(2), credentials("host", HOST, Some(DISK))).await.unwrap();
        mutual.logout().await;
        // Who does not prove himself gets nowhere, and ends nobody's session.
        for wrong in [credentials("host", BRAID, None), credentials("nobody", HOST, None)] {
            assert_eq!(refusal(login(rig.address(), plan(1), wrong).await), (2, 1));
        }
        assert_eq!(refusal(Client::login(rig.address(), 1).await), (2, 1));
        client.ping().await.unwrap();
        assert_eq!(counted(&rig.metrics, "braid_logins_total{result=\"unauthenticated\"}"), 3);
        // Braid does prove itself: a wrong idea of it is noticed at the other end.
        let error = login(rig.address(), plan(3), credentials("host", HOST, Some("not-of-the-disk"))).await;
        assert!(matches!(error.err(), Some(DialError::Login(LoginError::Unproved(_)))));
        // And nobody else's session is in the way of a reinstatement.
        let mut again = login(rig.address(), plan(1), right()).await.unwrap();
        again.ping().await.unwrap();
        assert_closed(client.conn).await;
    })
    .await;
}

#[tokio::test]
async fn r84_discovery_is_proved_too() {
    bounded(async {
        let dir = secrets();
        let ram = RamTarget::start(TargetOptions::loopback(1)).await.unwrap();
        let top = format!("discovery = {{ chap = {{ initiators = [{}] }} }}", account(&dir, "host"));
        let (proxy, _) = start(&top, ram.addresses(), &terminate(&dir)).await;
        let address = proxy.addresses()[0];
        assert_eq!(refusal(Client::login_as(address, discovery(1)).await), (2, 1));
        let mut client = login(address, discovery(1), credentials("host", HOST, None)).await.unwrap();
        assert!(client.text("SendTargets=All\0").await.unwrap().contains(TARGET));
        client.logout().await;
        // A discovery session that names a target is that target's.
        let named = LoginPlan { target_name: TARGET.into(), ..discovery(2) };
        assert_eq!(refusal(Client::login_as(address, named.clone()).await), (2, 1));
        let mut named = login(address, named, credentials("braid", BRAID, None)).await.unwrap();
        assert!(named.text("SendTargets=All\0").await.unwrap().contains(TARGET));
        named.logout().await;
        // What the discovery's accounts guard is not had by the name of a target without.
        let (open, _) = start(&top, ram.addresses(), "").await;
        let named = LoginPlan { target_name: TARGET.into(), ..discovery(3) };
        assert_eq!(refusal(Client::login_as(open.addresses()[0], named).await), (2, 1));
        Client::login(open.addresses()[0], 3).await.unwrap().logout().await;
    })
    .await;
}

#[tokio::test]
async fn r84_braid_proves_itself_to_the_target_on_every_path() {
    bounded(async {
        let dir = secrets();
        let upstream = format!(
            "upstream_chap = {{ name = \"braid\", secret_file = \"{}\", target = {} }}",
            dir.path().join("braid").display(),
            account(&dir, "disk")
        );
        let chain = Chain::new(&terminate(&dir), &upstream).await;
        let mut client = Client::login(chain.address(), 1).await.unwrap();
        let data = pattern(8, 3);
        assert_eq!(client.write(0, &data).await.status, 0);
        chain.paths_up(2).await;
        assert_eq!(client.read(0, 8).await.data, data);
        assert_eq!(counted(&chain.far_metrics, "braid_logins_total{result=\"unauthenticated\"}"), 0);
        client.logout().await;
        // Without the right secret the target's refusal is the initiator's.
        let wrong = format!(
            "upstream_chap = {{ name = \"braid\", secret_file = \"{}\" }}",
            dir.path().join("host").display()
        );
        let chain = Chain::new(&terminate(&dir), &wrong).await;
        assert_eq!(refusal(Client::login(chain.address(), 1).await), (2, 1));
    })
    .await;
}

#[tokio::test]
async fn r84_a_relayed_proof_is_good_for_one_path() {
    bounded(async {
        let dir = secrets();
        let chain = Chain::new(&terminate(&dir), "chap = \"relay\"").await;
        for disk in [None, Some(DISK)] {
            let right = credentials("host", HOST, disk);
            let mut client = login(chain.address(), plan(1), right).await.unwrap();
            assert_eq!(client.write(0, &pattern(4, 5)).await.status, 0);
            assert_eq!(client.read(0, 4).await.data, pattern(4, 5));
            assert_eq!(up(&chain.metrics), 1);
            client.logout().await;
        }
        assert_eq!(counted(&chain.metrics, "braid_sessions_single_path_total"), 2);
        // The target's refusal reaches the initiator as it is.
        let wrong = login(chain.address(), plan(1), credentials("host", DISK, None)).await;
        assert_eq!(refusal(wrong), (2, 1));
        assert_eq!(refusal(Client::login(chain.address(), 1).await), (2, 1));
        // Somebody else's try does no harm to a session.
        let mut client = login(chain.address(), plan(1), credentials("host", HOST, None)).await.unwrap();
        let wrong = login(chain.address(), plan(1), credentials("host", DISK, None)).await;
        assert_eq!(refusal(wrong), (2, 1));
        client.ping().await.unwrap();
        // The right one reinstates it.
        let mut again = login(chain.address(), plan(1), credentials("host", HOST, None)).await.unwrap();
        assert_eq!(again.write(0, &pattern(1, 6)).await.status, 0);
        assert_closed(client.conn).await;
    })
    .await;
}

#[tokio::test]
async fn a_relayed_session_uses_all_paths_for_which_there_are_credentials() {
    bounded(async {
        let dir = secrets();
        let near = format!("chap = \"relay\"\nupstream_chap = {}", account(&dir, "braid"));
        let chain = Chain::new(&terminate(&dir), &near).await;
        let mut client = login(chain.address(), plan(1), credentials("host", HOST, None)).await.unwrap();
        client.ping().await.unwrap();
        chain.paths_up(2).await;
        assert_eq!(counted(&chain.metrics, "braid_sessions_single_path_total"), 0);
        // But nobody is lent Braid's proof.
        assert_eq!(refusal(Client::login(chain.address(), 2).await), (2, 1));
        // A target that wants no proof lets Braid in everywhere.
        let open = Chain::new("", "chap = \"relay\"").await;
        let mut client = login(open.address(), plan(1), credentials("host", HOST, None)).await.unwrap();
        client.ping().await.unwrap();
        open.paths_up(2).await;
    })
    .await;
}

/// Braid cannot log in again for the initiator: it lets go of it, so that it does so itself.
#[tokio::test]
async fn a_relayed_session_ends_with_its_only_path() {
    bounded(async {
        let dir = secrets();
        let chain = Chain::new(&terminate(&dir), "chap = \"relay\"").await;
        let client = login(chain.address(), plan(1), credentials("host", HOST, None)).await.unwrap();
        // The target's side loses its session to somebody who logs in with the same name.
        let there = chain._far.addresses()[0];
        let thief = login(there, plan(1), credentials("host", HOST, None)).await.unwrap();
        assert_closed(client.conn).await;
        thief.logout().await;
        let mut again = login(chain.address(), plan(1), credentials("host", HOST, None)).await.unwrap();
        again.ping().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn names_and_addresses_that_are_not_allowed_are_refused() {
    bounded(async {
        let allowed = "allow = { names = [\"iqn.2026-11.example:*\"], addresses = [\"127.0.0.0/8\"] }";
        let rig = Rig::new(1, allowed).await;
        rig.client(1).await.ping().await.unwrap();
        let other = LoginPlan { initiator_name: "iqn.2026-12.example:host".into(), ..plan(2) };
        assert_eq!(refusal(Client::login_as(rig.address(), other).await), (2, 2));
        let stranger = LoginPlan { initiator_name: "iqn.2026-12.example:host".into(), ..discovery(3) };
        let mut found = Client::login_as(rig.address(), stranger).await.unwrap();
        assert_eq!(found.text("SendTargets=All\0").await.unwrap(), "", "what is not for it is not shown");
        let mut found = Client::login_as(rig.address(), discovery(4)).await.unwrap();
        assert!(found.text("SendTargets=All\0").await.unwrap().contains(TARGET));

        let rig = Rig::new(1, "allow = { addresses = [\"10.0.0.0/24\"] }").await;
        assert_eq!(refusal(Client::login(rig.address(), 1).await), (2, 2));
    })
    .await;
}

/// Those who ask for targets and stay take places from nobody else but each other.
#[tokio::test]
async fn discovery_sessions_are_bounded_apart_from_others() {
    bounded(async {
        let rig = Rig::with(TargetOptions::loopback(1), "limits = { max_sessions = 2 }", "").await;
        let mut client = rig.client(1).await;
        let first = Client::login_as(rig.address(), discovery(1)).await.unwrap();
        let _second = Client::login_as(rig.address(), discovery(2)).await.unwrap();
        assert_eq!(refusal(Client::login_as(rig.address(), discovery(3)).await), (3, 2));
        assert_eq!(client.write(0, &pattern(1, 1)).await.status, 0);
        rig.client(2).await.logout().await;
        first.logout().await;
        while Client::login_as(rig.address(), discovery(3)).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn connections_that_come_too_fast_are_closed() {
    bounded(async {
        let ram = RamTarget::start(TargetOptions::loopback(1)).await.unwrap();
        let (proxy, _) = start("limits = { login_rate = 1 }", ram.addresses(), "").await;
        let address = proxy.addresses()[0];
        for isid in 1..=4 {
            Client::login(address, isid).await.unwrap().logout().await;
        }
        assert_closed(stranger(address).await).await;
    })
    .await;
}

/// tgt means SHA-1 by 7, which is SHA-256's number, and finds the answer too long. What it does know is tried then.
#[tokio::test]
async fn r85_a_target_that_means_something_else_by_a_number_gets_md5() {
    bounded(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let target = tokio::spawn(async move {
            let mut offers = Vec::new();
            for _ in 0..2 {
                let mut conn = Conn::new(listener.accept().await.unwrap().0, Receiver::Target);
                while let Ok(Pdu::LoginRequest(request)) = conn.recv().await {
                    let keys = KeyList::parse(&request.data.contiguous()).unwrap();
                    let mut response = LoginResponse {
                        current: Stage::Security,
                        isid: request.isid,
                        itt: request.itt,
                        ..LoginResponse::default()
                    };
                    let mut words = KeyList::new();
                    if let Some(offer) = keys.value("CHAP_A") {
                        offers.push(offer.to_owned());
                        words.push("CHAP_A", if offer.contains('7') { "7" } else { "5" });
                        words.push("CHAP_I", "1");
                        words.push("CHAP_C", "0x0102030405060708");
                    } else if let Some(answer) = keys.value("CHAP_R") {
                        // 16 bytes are what it can take; then it has no room.
                        (response.status_class, response.status_detail) =
                            if answer.len() == 34 { (3, 2) } else { (2, 0) };
                    } else {
                        words.push("AuthMethod", "CHAP");
                    }
                    response.data = Payload::from(words.to_bytes());
                    conn.send(&[Pdu::LoginResponse(response)]).await.unwrap();
                }
            }
            offers
        });
        let refused = refusal(login(address, plan(1), credentials("host", HOST, None)).await);
        assert_eq!(refused, (3, 2));
        assert_eq!(target.await.unwrap(), ["8,7,6,5", "5"]);
    })
    .await;
}
