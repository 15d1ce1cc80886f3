//! A target that knows INQUIRY, SendTargets and logout, and breaks the rules it is told to break.
//!
//! One task owns all connections of its session, of which a new one takes the place of the old; each connection has a task that reads and writes for it.

use braid::iscsi::framer::Receiver;
use braid::iscsi::{
    CmdSn, DataIn, Itt, LogoutResponse, Payload, Pdu, ScsiCommand, StatSn, TextRequest, TextResponse, Tsih,
    Ttt,
};
use braid::login::{Negotiated, Offer, Refusal, SessionParams, TargetLogin, TargetStep};
use braid::proxy::conn::{Conn, ConnError};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// What it does with a command whose predecessor is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Gap {
    /// Waits for it.
    #[default]
    Hold,
    /// Runs it.
    Run,
    /// Closes the connection.
    Close,
    /// Drops it.
    Forget,
}

/// What it does when a connection is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum AfterLoss {
    /// Goes on.
    #[default]
    GoOn,
    /// Closes the others.
    EndSession,
    /// Answers nothing any more.
    Silence,
    /// Goes on without taking another in.
    RefuseJoin,
}

/// How it behaves.
#[derive(Clone, Debug)]
pub(crate) struct Manners {
    pub(crate) gap: Gap,
    pub(crate) after_loss: AfterLoss,
    /// Connections really taken, whatever was granted.
    pub(crate) most: usize,
    /// In so many sessions; after these it breaks nothing any more.
    pub(crate) sessions: usize,
    /// Answer to SendTargets.
    pub(crate) targets: Vec<u8>,
    /// Bytes of it that are given out at a time.
    pub(crate) part: usize,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            gap: Gap::Hold,
            after_loss: AfterLoss::GoOn,
            most: 8,
            sessions: usize::MAX,
            targets: Vec::new(),
            part: 10,
        }
    }
}

const TSIH: Tsih = Tsih(9);
const WINDOW: u32 = 32;

/// From a connection to the owner.
enum Input {
    /// A login wants in, to the session or with a new one; the answer is whether it may.
    Knock(bool, oneshot::Sender<bool>),
    /// It is in.
    Enter(usize, Negotiated, mpsc::Sender<Pdu>),
    Pdu(usize, Pdu),
    Gone(usize),
}

/// Starts it on a free port of 127.0.0.1; it ends with the runtime.
pub(crate) async fn start(manners: Manners) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let portal = listener.local_addr().unwrap();
    let (send, receive) = mpsc::channel(64);
    tokio::spawn(
        Owner { manners, exp: CmdSn(0), held: BTreeMap::new(), lines: BTreeMap::new(), lost: false }
            .run(receive),
    );
    tokio::spawn(async move {
        for id in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(serve(id, Conn::new(stream, Receiver::Target), send.clone()));
        }
    });
    portal
}

/// One connection, from login to end.
async fn serve(id: usize, mut conn: Conn, owner: mpsc::Sender<Input>) {
    let Ok(Some(agreed)) = log_in(&mut conn, &owner).await else {
        conn.close().await;
        return;
    };
    let (send, mut receive) = mpsc::channel(64);
    if owner.send(Input::Enter(id, agreed, send)).await.is_err() {
        return;
    }
    loop {
        let input = tokio::select! {
            reply = receive.recv() => match reply {
                Some(reply) => {
                    if conn.send(&[reply]).await.is_err() { break }
                    continue;
                }
                None => break,
            },
            pdu = conn.recv() => pdu,
        };
        let Ok(pdu) = input else { break };
        if owner.send(Input::Pdu(id, pdu)).await.is_err() {
            return;
        }
    }
    drop(owner.send(Input::Gone(id)).await);
    conn.close().await;
}

async fn log_in(conn: &mut Conn, owner: &mpsc::Sender<Input>) -> Result<Option<Negotiated>, ConnError> {
    let mut login = TargetLogin::new();
    loop {
        let Pdu::LoginRequest(request) = conn.recv().await? else { panic!("not a login request") };
        let mut step = login.handle(request);
        if let TargetStep::Decide(intent) = &step {
            let (answer, may) = oneshot::channel();
            let joining = intent.tsih != Tsih(0);
            drop(owner.send(Input::Knock(joining, answer)).await);
            step = if may.await.unwrap_or(false) {
                login.accept(offer(joining))
            } else {
                login.refuse(Refusal { class: 2, detail: 6, address: None })
            };
        }
        match step {
            TargetStep::Send(pdus) => conn.send(&pdus).await?,
            TargetStep::Close(pdus) => {
                conn.send(&pdus).await?;
                return Ok(None);
            }
            TargetStep::Done(pdus, agreed) => {
                conn.send(&pdus).await?;
                conn.enter_full_feature(&agreed.connection);
                return Ok(Some(*agreed));
            }
            TargetStep::Decide(intent) => panic!("asked twice: {intent:?}"),
        }
    }
}

fn offer(joining: bool) -> Offer {
    Offer {
        limits: SessionParams { max_connections: 8, ..SessionParams::default() },
        joining,
        max_recv_data_segment: 8192,
        allow_digests: false,
        tpgt: 1,
        target_alias: None,
        tsih: TSIH,
        window: WINDOW,
    }
}

/// The one who owns the session.
struct Owner {
    manners: Manners,
    exp: CmdSn,
    /// Commands that came too early, by number.
    held: BTreeMap<u32, (usize, ScsiCommand)>,
    lines: BTreeMap<usize, (StatSn, mpsc::Sender<Pdu>)>,
    lost: bool,
}

impl Owner {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        while let Some(input) = inputs.recv().await {
            match input {
                Input::Knock(joining, answer) => {
                    if !joining {
                        self.begin();
                    }
                    let shut = self.lost && self.manners.after_loss == AfterLoss::RefuseJoin;
                    let may = !shut && self.lines.len() < self.manners.most;
                    if answer.send(may).is_err() {
                        return;
                    }
                }
                Input::Enter(id, agreed, line) => {
                    if self.lines.is_empty() {
                        self.exp = agreed.cmd_sn;
                    }
                    self.lines.insert(id, (agreed.stat_sn, line));
                }
                Input::Pdu(id, pdu) => self.take(id, pdu).await,
                Input::Gone(id) => {
                    // After a logout the connection is not among them any more.
                    self.lost |= self.lines.remove(&id).is_some();
                    if self.lost && self.manners.after_loss == AfterLoss::EndSession {
                        self.lines.clear();
                    }
                }
            }
        }
    }

    fn begin(&mut self) {
        (self.held, self.lost) = (BTreeMap::new(), false);
        self.lines.clear();
        if self.manners.sessions == 0 {
            self.manners =
                Manners { targets: std::mem::take(&mut self.manners.targets), ..Manners::default() };
        }
        self.manners.sessions -= 1;
    }

    async fn take(&mut self, id: usize, pdu: Pdu) {
        if self.lost && self.manners.after_loss == AfterLoss::Silence {
            return;
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else may come")]
        match pdu {
            Pdu::ScsiCommand(command) => self.command(id, command).await,
            Pdu::TextRequest(text) => self.text(id, &text).await,
            Pdu::LogoutRequest(request) => {
                assert!(self.held.is_empty(), "a logout with commands outstanding");
                let itt = request.itt;
                self.reply(id, |stat_sn, exp_cmd_sn, max_cmd_sn| {
                    Pdu::LogoutResponse(LogoutResponse {
                        itt,
                        stat_sn,
                        exp_cmd_sn,
                        max_cmd_sn,
                        ..Default::default()
                    })
                })
                .await;
                self.lines.remove(&id);
            }
            other => panic!("the probe is to send nothing but INQUIRY: {other:?}"),
        }
    }

    async fn command(&mut self, id: usize, command: ScsiCommand) {
        assert_eq!(command.cdb.0.first(), Some(&0x12), "nothing but INQUIRY");
        assert!(!command.immediate);
        if command.cmd_sn != self.exp {
            match self.manners.gap {
                Gap::Run => self.answer(id, command.itt).await,
                Gap::Close => drop(self.lines.remove(&id)),
                Gap::Forget => {}
                Gap::Hold => drop(self.held.insert(command.cmd_sn.0, (id, command))),
            }
            return;
        }
        let mut next = Some((id, command));
        while let Some((id, command)) = next {
            self.exp = self.exp.next();
            self.answer(id, command.itt).await;
            next = self.held.remove(&self.exp.0);
        }
    }

    async fn answer(&mut self, id: usize, itt: Itt) {
        let mut data = vec![0, 0, 5, 2, 31, 0, 0, 0];
        data.extend_from_slice(b"FAKE    TARGET          1   ");
        self.reply(id, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            let data = Payload::from(data);
            let whole = DataIn {
                final_: true,
                has_status: true,
                itt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                data,
                ..Default::default()
            };
            Pdu::DataIn(whole)
        })
        .await;
    }

    /// Gives out the answer from where the transfer tag says.
    async fn text(&mut self, id: usize, request: &TextRequest) {
        assert!(!request.immediate);
        self.exp = self.exp.next();
        let start = if request.ttt == Ttt::NONE { 0 } else { usize::try_from(request.ttt.0).unwrap() };
        let rest = self.manners.targets.get(start..).unwrap_or_default();
        let part = rest.get(..self.manners.part).unwrap_or(rest).to_vec();
        let end = start + part.len();
        let final_ = end == self.manners.targets.len();
        let ttt = if final_ { Ttt::NONE } else { Ttt(u32::try_from(end).unwrap()) };
        let itt = request.itt;
        self.reply(id, |stat_sn, exp_cmd_sn, max_cmd_sn| {
            let data = Payload::from(part);
            let text = TextResponse {
                final_,
                itt,
                ttt,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                data,
                ..Default::default()
            };
            Pdu::TextResponse(text)
        })
        .await;
    }

    async fn reply(&mut self, id: usize, build: impl FnOnce(StatSn, CmdSn, CmdSn) -> Pdu) {
        let exp = self.exp;
        let Some((stat_sn, line)) = self.lines.get_mut(&id) else { return };
        let pdu = build(*stat_sn, exp, exp.plus(WINDOW).minus(1));
        *stat_sn = stat_sn.next();
        drop(line.send(pdu).await);
    }
}
