//! A lab target, Braid in front of it, and an initiator that can also misbehave.

use braid::config::Config;
use braid::iscsi::framer::Receiver;
use braid::iscsi::{
    Cdb, Cid, CmdSn, DataOut, Isid, Itt, LogoutRequest, Lun, NopOut, Payload, Pdu, R2t, ScsiCommand, StatSn,
    TextRequest, Ttt,
};
use braid::lab::target::{RamTarget, TargetOptions};
use braid::login::{ConnectionParams, LoginError, LoginKind, LoginPlan, Negotiated, SessionParams};
use braid::metrics::Metrics;
use braid::proxy::Proxy;
use braid::proxy::conn::{Conn, ConnError};
use braid::proxy::dial::{self, DialError, Route, Timing};
use braid::proxy::events::Kind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longer than anything here takes; a test that waits this long hangs.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Name of the lab target.
pub(crate) const TARGET: &str = "iqn.2026-01.org.braid:lab";

/// Block size of the lab target.
pub(crate) const BLOCK: usize = 512;

/// Fails a test that hangs.
pub(crate) async fn bounded<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, test).await.expect("the test hangs")
}

/// A target with some portals, and Braid with one path to each.
pub(crate) struct Rig {
    pub(crate) target: RamTarget,
    pub(crate) proxy: Proxy,
    pub(crate) metrics: Arc<Metrics>,
}

impl Rig {
    /// With the target's default behaviour; `settings` are further lines of the target's table.
    pub(crate) async fn new(portals: usize, settings: &str) -> Self {
        Self::with(TargetOptions::loopback(portals), "", settings).await
    }

    /// With a target of one's own, and lines for the top of the configuration.
    pub(crate) async fn with(options: TargetOptions, top: &str, settings: &str) -> Self {
        let target = RamTarget::start(options).await.unwrap();
        let (proxy, metrics) = start(top, target.addresses(), settings).await;
        Self { target, proxy, metrics }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.proxy.addresses()[0]
    }

    /// Connections to the target that were lost so far.
    pub(crate) fn losses(&self) -> u64 {
        counted(&self.metrics, "braid_path_losses_total")
    }

    /// The same for this cause.
    pub(crate) fn losses_by(&self, cause: &str) -> u64 {
        counted(&self.metrics, &format!("braid_path_losses_total{{cause=\"{cause}\""))
    }

    /// Times that initiators were said to have broken the protocol.
    pub(crate) fn breaches(&self) -> u64 {
        counted(&self.metrics, "braid_initiator_protocol_errors_total")
    }

    /// What events of this kind have told so far.
    pub(crate) fn told(&self, kind: Kind) -> Vec<String> {
        let all = self.proxy.operator().events().after(0).events;
        all.into_iter().filter(|event| event.kind == kind).map(|event| event.text).collect()
    }

    /// PDUs with wrong digests from this side so far.
    pub(crate) fn digest_errors(&self, from: &str) -> u64 {
        counted(&self.metrics, &format!("braid_digest_errors_total{{from=\"{from}\""))
    }

    pub(crate) async fn client(&self, isid: u8) -> Client {
        Client::login(self.address(), isid).await.unwrap()
    }
}

/// The sum of all series that begin so.
pub(crate) fn counted(metrics: &Metrics, series: &str) -> u64 {
    let text = metrics.render();
    let values = text.lines().filter(|line| line.starts_with(series));
    values.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Braid with paths to these portals.
pub(crate) async fn start(top: &str, portals: &[SocketAddr], settings: &str) -> (Proxy, Arc<Metrics>) {
    start_on(1, top, portals, settings).await
}

/// A configuration with a target behind these portals.
pub(crate) fn table(top: &str, portals: &[SocketAddr], settings: &str) -> String {
    let paths: Vec<_> = portals.iter().map(|portal| format!("\"{portal}\"")).collect();
    format!("{top}\n[[target]]\nname = \"{TARGET}\"\npaths = [{}]\n{settings}\n", paths.join(", "))
}

/// The same with so many addresses to listen on.
pub(crate) async fn start_on(
    listeners: usize,
    top: &str,
    portals: &[SocketAddr],
    settings: &str,
) -> (Proxy, Arc<Metrics>) {
    let text = table(top, portals, settings);
    let mut config = Config::from_toml(&text, "test").unwrap_or_else(|error| panic!("{error}"));
    config.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into(); listeners];
    let metrics = Arc::new(Metrics::new());
    (Proxy::start(Arc::new(config), Arc::clone(&metrics)).await.unwrap(), metrics)
}

/// The status of a refused login.
pub(crate) fn refusal(login: Result<Client, DialError>) -> (u8, u8) {
    match login {
        Err(DialError::Login(LoginError::Refused { class, detail })) => (class, detail),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("login was accepted"),
    }
}

/// A leading login with nothing special about it.
pub(crate) fn plan(isid: u8) -> LoginPlan {
    LoginPlan {
        kind: LoginKind::Leading,
        initiator_name: "iqn.2026-11.example:host".into(),
        target_name: TARGET.into(),
        isid: Isid([0x40, 0, 0, 0, 0, isid]),
        cid: Cid(1),
        cmd_sn: CmdSn(u32::MAX - 2),
        offer: SessionParams { initial_r2t: false, ..SessionParams::default() },
        connection: ConnectionParams { max_recv_data_segment: 65_536, ..ConnectionParams::default() },
    }
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    pub(crate) status: u8,
    pub(crate) data: Vec<u8>,
    pub(crate) sense: Payload,
}

/// A logged-in initiator with one connection.
pub(crate) struct Client {
    pub(crate) conn: Conn,
    pub(crate) agreed: Negotiated,
    pub(crate) cmd_sn: CmdSn,
    pub(crate) exp_stat_sn: StatSn,
    next_itt: u32,
}

impl Client {
    pub(crate) async fn login(address: SocketAddr, isid: u8) -> Result<Self, DialError> {
        Self::login_as(address, plan(isid)).await
    }

    pub(crate) async fn login_as(address: SocketAddr, plan: LoginPlan) -> Result<Self, DialError> {
        Self::login_over(&Route::to(address.to_string()), plan).await
    }

    pub(crate) async fn login_over(route: &Route, plan: LoginPlan) -> Result<Self, DialError> {
        let (conn, agreed) = dial::dial(route, &plan, &Timing::default()).await?;
        Ok(Self { conn, cmd_sn: agreed.cmd_sn, exp_stat_sn: agreed.stat_sn, agreed, next_itt: 1 })
    }

    pub(crate) fn itt(&mut self) -> Itt {
        self.next_itt += 1;
        Itt(self.next_itt)
    }

    /// The next CmdSN, used up.
    pub(crate) fn take_cmd_sn(&mut self) -> CmdSn {
        let now = self.cmd_sn;
        self.cmd_sn = now.next();
        now
    }

    /// A command with the next numbers.
    pub(crate) fn command(&mut self, cdb: &[u8], expected: usize) -> ScsiCommand {
        ScsiCommand {
            final_: true,
            itt: self.itt(),
            cmd_sn: self.take_cmd_sn(),
            exp_stat_sn: self.exp_stat_sn,
            expected_length: u32::try_from(expected).unwrap(),
            cdb: Cdb(cdb.into()),
            ..ScsiCommand::default()
        }
    }

    pub(crate) fn read_command(&mut self, lba: u32, blocks: u16) -> ScsiCommand {
        let cdb = rw(0x28, lba, blocks);
        ScsiCommand { read: true, ..self.command(&cdb, usize::from(blocks) * BLOCK) }
    }

    /// A write; data that may go with the command does.
    pub(crate) fn write_command(&mut self, lba: u32, data: &[u8]) -> ScsiCommand {
        let cdb = rw(0x2a, lba, u16::try_from(data.len() / BLOCK).unwrap());
        let most = self.agreed.connection.max_send_data_segment.min(self.agreed.session.first_burst_length);
        let immediate = if self.agreed.session.immediate_data { data.len().min(most as usize) } else { 0 };
        let payload = Payload::from(data[..immediate].to_vec());
        ScsiCommand { write: true, data: payload, ..self.command(&cdb, data.len()) }
    }

    pub(crate) async fn write(&mut self, lba: u32, data: &[u8]) -> Outcome {
        let command = self.write_command(lba, data);
        self.run(command, data).await.unwrap()
    }

    pub(crate) async fn read(&mut self, lba: u32, blocks: u16) -> Outcome {
        let command = self.read_command(lba, blocks);
        self.run(command, &[]).await.unwrap()
    }

    /// Sends a command and waits for its end; answers pings of the target and solicits nothing else.
    pub(crate) async fn run(&mut self, command: ScsiCommand, data: &[u8]) -> Result<Outcome, ConnError> {
        let itt = command.itt;
        self.conn.send(&[Pdu::ScsiCommand(command)]).await?;
        self.finish(itt, data).await
    }

    /// Waits for the end of a command that was sent.
    pub(crate) async fn finish(&mut self, itt: Itt, data: &[u8]) -> Result<Outcome, ConnError> {
        let mut outcome = Outcome { status: 0, data: Vec::new(), sense: Payload::new() };
        loop {
            match self.conn.recv().await? {
                Pdu::DataIn(part) if part.itt == itt => {
                    assert_eq!(part.buffer_offset as usize, outcome.data.len(), "data in order");
                    outcome.data.extend_from_slice(&part.data.contiguous());
                    if part.has_status {
                        self.exp_stat_sn = part.stat_sn.next();
                        outcome.status = part.status;
                        return Ok(outcome);
                    }
                }
                Pdu::R2t(r2t) if r2t.itt == itt => self.answer(&r2t, data).await?,
                Pdu::ScsiResponse(response) if response.itt == itt => {
                    self.exp_stat_sn = response.stat_sn.next();
                    assert_eq!(response.response, 0, "command completed at target");
                    outcome.status = response.status;
                    outcome.sense = response.data;
                    return Ok(outcome);
                }
                Pdu::NopIn(ping) => self.pong(ping.ttt, ping.lun).await?,
                pdu => panic!("not for this command: {pdu:?}"),
            }
        }
    }

    async fn answer(&mut self, r2t: &R2t, data: &[u8]) -> Result<(), ConnError> {
        let segment = self.agreed.connection.max_send_data_segment as usize;
        let start = r2t.buffer_offset as usize;
        let wanted = &data[start..start + r2t.desired_length as usize];
        let parts = wanted.chunks(segment).enumerate().map(|(number, part)| {
            Pdu::DataOut(DataOut {
                final_: number * segment + part.len() == wanted.len(),
                itt: r2t.itt,
                ttt: r2t.ttt,
                lun: r2t.lun,
                exp_stat_sn: self.exp_stat_sn,
                data_sn: u32::try_from(number).unwrap(),
                buffer_offset: u32::try_from(start + number * segment).unwrap(),
                data: Payload::from(part.to_vec()),
            })
        });
        let parts: Vec<_> = parts.collect();
        self.conn.send(&parts).await
    }

    async fn pong(&mut self, ttt: Ttt, lun: Lun) -> Result<(), ConnError> {
        if ttt == Ttt::NONE {
            return Ok(());
        }
        let pong = NopOut {
            immediate: true,
            ttt,
            lun,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ..NopOut::default()
        };
        self.conn.send(&[Pdu::NopOut(pong)]).await
    }

    /// An immediate ping; returns when it is answered, everything else that came before is passed over.
    pub(crate) async fn ping(&mut self) -> Result<(), ConnError> {
        let itt = self.itt();
        let ping = NopOut {
            immediate: true,
            itt,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ..NopOut::default()
        };
        self.conn.send(&[Pdu::NopOut(ping)]).await?;
        loop {
            if let Pdu::NopIn(answer) = self.conn.recv().await?
                && answer.itt == itt
            {
                self.exp_stat_sn = answer.stat_sn.next();
                return Ok(());
            }
        }
    }

    /// A text request and the whole of its answer.
    pub(crate) async fn text(&mut self, keys: &str) -> Result<String, ConnError> {
        let request = TextRequest {
            final_: true,
            itt: self.itt(),
            cmd_sn: self.take_cmd_sn(),
            exp_stat_sn: self.exp_stat_sn,
            data: Payload::from(keys.as_bytes().to_vec()),
            ..TextRequest::default()
        };
        self.conn.send(&[Pdu::TextRequest(request)]).await?;
        let pdu = self.conn.recv().await?;
        let Pdu::TextResponse(response) = pdu else { panic!("{pdu:?}") };
        assert!(response.final_);
        self.exp_stat_sn = response.stat_sn.next();
        Ok(String::from_utf8(response.data.contiguous().to_vec()).unwrap())
    }

    /// The same where the answer comes in parts; how many there were.
    pub(crate) async fn text_in_parts(&mut self, keys: &str) -> (String, usize) {
        let itt = self.itt();
        let (mut ttt, mut data) = (Ttt::NONE, Payload::from(keys.as_bytes().to_vec()));
        let (mut whole, mut parts) = (Vec::new(), 0);
        loop {
            let cmd_sn = self.take_cmd_sn();
            let exp_stat_sn = self.exp_stat_sn;
            let request =
                TextRequest { final_: true, itt, ttt, cmd_sn, exp_stat_sn, data, ..TextRequest::default() };
            self.conn.send(&[Pdu::TextRequest(request)]).await.unwrap();
            let pdu = self.conn.recv().await.unwrap();
            let Pdu::TextResponse(response) = pdu else { panic!("{pdu:?}") };
            self.exp_stat_sn = response.stat_sn.next();
            whole.extend_from_slice(&response.data.contiguous());
            parts += 1;
            if response.final_ {
                return (String::from_utf8(whole).unwrap(), parts);
            }
            (ttt, data) = (response.ttt, Payload::new());
        }
    }

    /// Logs out and waits for the answer and for the end of the connection.
    pub(crate) async fn logout(mut self) {
        let request = LogoutRequest {
            itt: self.itt(),
            cmd_sn: self.take_cmd_sn(),
            exp_stat_sn: self.exp_stat_sn,
            ..LogoutRequest::default()
        };
        self.conn.send(&[Pdu::LogoutRequest(request)]).await.unwrap();
        let pdu = self.conn.recv().await.unwrap();
        assert!(matches!(&pdu, Pdu::LogoutResponse(response) if response.response == 0), "{pdu:?}");
        assert_closed(self.conn).await;
    }
}

/// A connection to Braid that has not logged in.
pub(crate) async fn stranger(address: SocketAddr) -> Conn {
    Conn::new(TcpStream::connect(address).await.unwrap(), Receiver::Initiator)
}

/// Sends bytes as they are.
pub(crate) async fn send_raw(conn: &Conn, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        conn.stream().writable().await.unwrap();
        match conn.stream().try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

/// Reads until the peer closes; fails if it sends bytes for ever.
pub(crate) async fn assert_closed(mut conn: Conn) {
    loop {
        match conn.recv().await {
            Ok(_) => {}
            Err(ConnError::Closed | ConnError::Io(_)) => return,
            Err(ConnError::Frame(error)) => panic!("{error}"),
        }
    }
}

/// Blocks that differ from each other and from zero.
pub(crate) fn pattern(blocks: usize, seed: u8) -> Vec<u8> {
    (0..blocks * BLOCK)
        .map(|at| {
            let [low, ..] = at.to_le_bytes();
            let [block, ..] = (at / BLOCK).to_le_bytes();
            block ^ low.wrapping_mul(31) ^ seed | 1
        })
        .collect()
}

fn rw(opcode: u8, lba: u32, blocks: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [high, low] = blocks.to_be_bytes();
    [opcode, 0, a, b, c, d, 0, high, low, 0]
}
