//! A discovery session (R231 to R240): SendTargets answered with Braid's own portals, logout, and nothing else.

use super::conn::{Conn, ConnError};
use crate::iscsi::text::KeyList;
use crate::iscsi::{
    CmdSn, Itt, LogoutRequest, LogoutResponse, Payload, Pdu, Reject, StatSn, TextRequest, TextResponse, Ttt,
    reject,
};
use crate::login::Negotiated;
use crate::login::discovery::{TargetRecord, answer};
use bytes::Bytes;
use std::time::Duration;

/// A discovery session that is silent this long, or takes no answer, is closed.
const IDLE: Duration = Duration::from_secs(60);

/// And so is one that lasts this long: nobody has that much to ask.
const LONGEST: Duration = Duration::from_secs(600);

/// Longest list of keys taken from the initiator, in bytes: it has one short key to send.
const MAX_REQUEST: usize = 8192;

/// Commands admitted at a time.
pub(super) const WINDOW: u32 = 8;

/// Serves a discovery session until the initiator logs out, goes, falls silent, or goes on for too long.
///
/// # Errors
/// [`ConnError`] if the connection ended otherwise than by logout.
pub(super) async fn run(
    mut conn: Conn,
    agreed: &Negotiated,
    targets: Vec<TargetRecord>,
) -> Result<(), ConnError> {
    let session = Discovery::new(agreed, targets);
    // Late or in order, it is closed.
    tokio::time::timeout(LONGEST, converse(&mut conn, session)).await.unwrap_or(Ok(()))?;
    conn.close().await;
    Ok(())
}

async fn converse(conn: &mut Conn, mut session: Discovery) -> Result<(), ConnError> {
    loop {
        let Ok(received) = tokio::time::timeout(IDLE, conn.recv()).await else { return Ok(()) };
        let (reply, last) = session.handle(&received?);
        if let Some(reply) = reply {
            let Ok(sent) = tokio::time::timeout(IDLE, conn.send(&[reply])).await else { return Ok(()) };
            sent?;
        }
        if last {
            return Ok(());
        }
    }
}

/// The session's numbers, and a text exchange under way.
#[derive(Debug)]
struct Discovery {
    targets: Vec<TargetRecord>,
    own: String,
    segment: usize,
    exp_cmd_sn: CmdSn,
    stat_sn: StatSn,
    text: Text,
}

/// A text exchange (R59: one at a time).
#[derive(Debug)]
enum Text {
    Idle,
    /// The initiator's list is not complete yet.
    Asking {
        itt: Itt,
        keys: Vec<u8>,
    },
    /// The rest of an answer that did not fit (R237).
    Answering {
        itt: Itt,
        rest: Bytes,
    },
}

/// The transfer tag of every exchange: there is one at a time.
const TAG: Ttt = Ttt(1);

impl Discovery {
    fn new(agreed: &Negotiated, targets: Vec<TargetRecord>) -> Self {
        Self {
            targets,
            own: agreed.target_name.clone(),
            segment: usize::try_from(agreed.connection.max_send_data_segment).unwrap_or(usize::MAX),
            exp_cmd_sn: agreed.cmd_sn,
            stat_sn: agreed.stat_sn,
            text: Text::Idle,
        }
    }

    /// The reply, and whether the session is over after it.
    fn handle(&mut self, pdu: &Pdu) -> (Option<Pdu>, bool) {
        if let Pdu::TextRequest(request) = pdu {
            let next = self.in_order(request.immediate, request.cmd_sn);
            return (next.then(|| self.text(request)), false);
        }
        if let Pdu::LogoutRequest(request) = pdu
            && request.reason == 0
        {
            let next = self.in_order(request.immediate, request.cmd_sn);
            return (next.then(|| self.logout(request)), next);
        }
        (Some(self.reject(pdu, reject::PROTOCOL_ERROR)), false)
    }

    /// Takes the request's number; false if it is not the next one, which is ignored in silence (R96).
    fn in_order(&mut self, immediate: bool, cmd_sn: CmdSn) -> bool {
        if immediate {
            return true;
        }
        let next = cmd_sn == self.exp_cmd_sn;
        if next {
            self.exp_cmd_sn = cmd_sn.next();
        }
        next
    }

    fn text(&mut self, request: &TextRequest) -> Pdu {
        match std::mem::replace(&mut self.text, Text::Idle) {
            Text::Answering { itt, rest } if itt == request.itt && request.ttt == TAG => {
                return self.send_part(itt, rest);
            }
            Text::Asking { itt, mut keys } if itt == request.itt && request.ttt == TAG => {
                keys.extend_from_slice(&request.data.contiguous());
                return self.ask(request, keys);
            }
            Text::Idle | Text::Answering { .. } | Text::Asking { .. } => {}
        }
        if request.ttt != Ttt::NONE {
            return self.reject(&Pdu::TextRequest(request.clone()), reject::INVALID_FIELD);
        }
        self.ask(request, request.data.contiguous().to_vec())
    }

    fn ask(&mut self, request: &TextRequest, keys: Vec<u8>) -> Pdu {
        if keys.len() > MAX_REQUEST {
            return self.reject(&Pdu::TextRequest(request.clone()), reject::PROTOCOL_ERROR);
        }
        if request.continue_ {
            self.text = Text::Asking { itt: request.itt, keys };
            return self.response(request.itt, false, false, Payload::new());
        }
        match self.answer_to(&keys) {
            Some(found) => self.send_part(request.itt, Bytes::from(answer(&found).to_bytes())),
            None => self.reject(&Pdu::TextRequest(request.clone()), reject::PROTOCOL_ERROR),
        }
    }

    /// The targets asked for; none if anything but SendTargets is asked (R83, R234).
    fn answer_to(&self, keys: &[u8]) -> Option<Vec<TargetRecord>> {
        let keys = KeyList::parse(keys).ok()?;
        let mut pairs = keys.iter();
        let (Some(("SendTargets", wanted)), None) = (pairs.next(), pairs.next()) else { return None };
        let wanted = match (wanted, self.own.as_str()) {
            ("All", _) => return Some(self.targets.clone()),
            ("", "") => return None,
            ("", own) => own,
            (name, _) => name,
        };
        Some(self.targets.iter().filter(|target| target.name == wanted).cloned().collect())
    }

    /// Sends as much as a segment takes and keeps the rest.
    fn send_part(&mut self, itt: Itt, mut rest: Bytes) -> Pdu {
        let part = rest.split_to(rest.len().min(self.segment));
        let last = rest.is_empty();
        if !last {
            self.text = Text::Answering { itt, rest };
        }
        self.response(itt, last, !last, part.into())
    }

    fn response(&mut self, itt: Itt, final_: bool, continue_: bool, data: Payload) -> Pdu {
        Pdu::TextResponse(TextResponse {
            final_,
            continue_,
            itt,
            ttt: if final_ { Ttt::NONE } else { TAG },
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            data,
            ..TextResponse::default()
        })
    }

    fn logout(&mut self, request: &LogoutRequest) -> Pdu {
        Pdu::LogoutResponse(LogoutResponse {
            itt: request.itt,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            ..LogoutResponse::default()
        })
    }

    fn reject(&mut self, pdu: &Pdu, reason: u8) -> Pdu {
        if let Pdu::TextRequest(TextRequest { immediate: false, cmd_sn, .. }) = pdu {
            // It counts as not received (R105).
            self.exp_cmd_sn = *cmd_sn;
        }
        Pdu::Reject(Reject {
            reason,
            stat_sn: self.next_stat_sn(),
            exp_cmd_sn: self.exp_cmd_sn,
            max_cmd_sn: self.max_cmd_sn(),
            data: Payload::from(pdu.encode().0.to_vec()),
            ..Reject::default()
        })
    }

    fn next_stat_sn(&mut self) -> StatSn {
        let now = self.stat_sn;
        self.stat_sn = now.next();
        now
    }

    fn max_cmd_sn(&self) -> CmdSn {
        self.exp_cmd_sn.plus(WINDOW - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::framer::Receiver;
    use crate::iscsi::{NopOut, ScsiCommand};
    use crate::login::{ConnectionParams, SessionParams};

    const DISK: &str = "iqn.2026-11.example:disk";

    fn agreed(segment: u32, own: &str) -> Negotiated {
        Negotiated {
            session: SessionParams::default(),
            connection: ConnectionParams { max_send_data_segment: segment, ..ConnectionParams::default() },
            discovery: true,
            initiator_name: "iqn.2026-11.example:host".into(),
            target_name: own.into(),
            target_alias: None,
            tpgt: None,
            isid: crate::iscsi::Isid([0; 6]),
            tsih: crate::iscsi::Tsih(1),
            cid: crate::iscsi::Cid(0),
            cmd_sn: CmdSn(7),
            max_cmd_sn: CmdSn(7 + WINDOW - 1),
            stat_sn: StatSn(100),
            quirks: Default::default(),
        }
    }

    fn record(name: &str) -> TargetRecord {
        TargetRecord { name: name.into(), portals: vec![("10.0.0.1:3260".into(), 3)] }
    }

    fn session(segment: u32, own: &str) -> Discovery {
        Discovery::new(&agreed(segment, own), vec![record(DISK), record("iqn.2026-11.example:tape")])
    }

    /// A session that shows so many targets, and the initiator's end of its connection.
    async fn served(targets: usize) -> (Conn, tokio::task::JoinHandle<Result<(), ConnError>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let far = listener.accept().await.unwrap().0;
        let targets = (0..targets).map(|n| record(&format!("{DISK}{n}"))).collect();
        let far = Conn::new(far, Receiver::Target);
        let running = tokio::spawn(async move { run(far, &agreed(8192, ""), targets).await });
        (Conn::new(near, Receiver::Initiator), running)
    }

    /// It asks just often enough not to be silent. (Time that passes while bytes are under way makes it end no later.)
    #[tokio::test]
    async fn a_session_that_would_never_end_is_ended() {
        let (mut client, running) = served(1).await;
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        for _ in 0.. {
            assert!(begun.elapsed() <= LONGEST + IDLE, "it goes on for ever");
            let asked = TextRequest { immediate: true, ..ask(0, "SendTargets=All\0") };
            tokio::time::sleep(IDLE / 3).await;
            if client.send(&[Pdu::TextRequest(asked)]).await.is_err() || client.recv().await.is_err() {
                break;
            }
        }
        tokio::time::resume();
        drop(running.await.unwrap());
    }

    #[tokio::test]
    async fn a_session_that_takes_no_answers_is_ended() {
        let (mut client, running) = served(200).await;
        let asked = TextRequest { immediate: true, ..ask(0, "SendTargets=All\0") };
        // Until neither side takes any more: answers are longer than questions.
        while client.queued() < 1 << 20 {
            client.queue(&Pdu::TextRequest(asked.clone()));
            client.flush().unwrap();
            tokio::task::yield_now().await;
        }
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        drop(running.await.unwrap());
        assert!(begun.elapsed() <= LONGEST + IDLE);
    }

    #[tokio::test]
    async fn half_a_question_is_not_waited_for_without_end() {
        let (client, running) = served(1).await;
        let (header, _) = Pdu::TextRequest(ask(7, "SendTargets=All\0")).encode();
        client.stream().try_write(&header[..47]).unwrap();
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        assert!(running.await.unwrap().is_ok());
        assert!(begun.elapsed() <= 2 * IDLE);
    }

    fn ask(cmd_sn: u32, keys: &str) -> TextRequest {
        let data = Payload::from(keys.as_bytes().to_vec());
        TextRequest { final_: true, itt: Itt(5), cmd_sn: CmdSn(cmd_sn), data, ..TextRequest::default() }
    }

    fn reply(session: &mut Discovery, request: TextRequest) -> Pdu {
        let (reply, last) = session.handle(&Pdu::TextRequest(request));
        assert!(!last);
        reply.expect("a reply")
    }

    fn text(pdu: Pdu) -> TextResponse {
        let Pdu::TextResponse(response) = pdu else { panic!("{pdu:?}") };
        response
    }

    fn is_rejected(pdu: &Pdu) -> bool {
        matches!(pdu, Pdu::Reject(reject) if reject.reason == reject::PROTOCOL_ERROR && reject.data.len() == 48)
    }

    #[test]
    fn r231_all_targets_with_their_portals() {
        let mut session = session(8192, "");
        let response = text(reply(&mut session, ask(7, "SendTargets=All\0")));
        assert_eq!(response.data, Payload::from(answer(&session.targets).to_bytes()));
        assert!(response.final_ && response.ttt == Ttt::NONE);
        assert_eq!((response.stat_sn, response.exp_cmd_sn), (StatSn(100), CmdSn(8)));
    }

    #[test]
    fn one_target_by_name_and_none_by_a_wrong_one() {
        let mut session = session(8192, "");
        let one = text(reply(&mut session, ask(7, &format!("SendTargets={DISK}\0")))).data.contiguous();
        let one = String::from_utf8(one.to_vec()).unwrap();
        assert!(one.contains(DISK) && !one.contains("tape"), "{one}");
        assert!(text(reply(&mut session, ask(8, "SendTargets=iqn.other\0"))).data.is_empty());
    }

    #[test]
    fn r237_a_long_answer_comes_in_parts() {
        let mut session = session(64, "");
        let mut whole = Vec::new();
        let mut request = ask(7, "SendTargets=All\0");
        for sn in 8.. {
            let response = text(reply(&mut session, request));
            assert!(response.data.len() <= 64);
            whole.extend_from_slice(&response.data.contiguous());
            if response.final_ {
                break;
            }
            assert!(response.ttt != Ttt::NONE && response.continue_);
            request = TextRequest { ttt: response.ttt, ..ask(sn, "") };
        }
        assert_eq!(whole, answer(&session.targets).to_bytes());
    }

    #[test]
    fn r50_a_question_may_come_in_parts() {
        let mut session = session(8192, "");
        let first = TextRequest { continue_: true, final_: false, ..ask(7, "SendTar") };
        let go_on = text(reply(&mut session, first));
        assert!(!go_on.final_ && go_on.data.is_empty());
        let response = text(reply(&mut session, TextRequest { ttt: go_on.ttt, ..ask(8, "gets=All\0") }));
        assert!(response.final_ && !response.data.is_empty());
    }

    #[test]
    fn r59_an_exchange_goes_on_under_its_own_tag() {
        let mut session = session(64, "");
        let begun = text(reply(&mut session, ask(7, "SendTargets=All\0")));
        let other = TextRequest { ttt: begun.ttt, itt: Itt(6), ..ask(8, "") };
        assert!(matches!(reply(&mut session, other), Pdu::Reject(r) if r.reason == reject::INVALID_FIELD));
        let again = text(reply(&mut session, TextRequest { itt: Itt(6), ..ask(8, "SendTargets=All\0") }));
        assert_eq!(again.data, begun.data, "there is one exchange at a time");
    }

    #[test]
    fn an_endless_question_is_rejected() {
        let mut session = session(8192, "");
        let mut part = TextRequest { continue_: true, final_: false, ..ask(7, &"x".repeat(5000)) };
        let first = text(reply(&mut session, part.clone()));
        part.ttt = first.ttt;
        part.cmd_sn = CmdSn(8);
        assert!(is_rejected(&reply(&mut session, part)));
    }

    #[test]
    fn r105_r234_everything_else_is_rejected_and_takes_no_number() {
        let mut session = session(8192, "");
        for pdu in [
            Pdu::ScsiCommand(ScsiCommand::default()),
            Pdu::NopOut(NopOut::default()),
            Pdu::LogoutRequest(LogoutRequest { reason: 1, ..LogoutRequest::default() }),
            Pdu::TextRequest(ask(7, "SendTargets=\0")),
            Pdu::TextRequest(ask(7, "MaxBurstLength=512\0")),
            Pdu::TextRequest(ask(7, "no pair")),
        ] {
            let (reply, last) = session.handle(&pdu);
            assert!(is_rejected(&reply.unwrap()) && !last, "{pdu:?}");
        }
    }

    #[test]
    fn a_named_session_may_ask_for_its_own_target() {
        let mut session = session(8192, DISK);
        let own = text(reply(&mut session, ask(7, "SendTargets=\0"))).data.contiguous();
        assert!(String::from_utf8(own.to_vec()).unwrap().contains(DISK));
    }

    #[test]
    fn r96_requests_out_of_order_are_ignored() {
        let mut session = session(8192, "");
        let (reply, last) = session.handle(&Pdu::TextRequest(ask(9, "SendTargets=All\0")));
        assert!(reply.is_none() && !last);
        let logout =
            |cmd_sn| Pdu::LogoutRequest(LogoutRequest { cmd_sn: CmdSn(cmd_sn), ..LogoutRequest::default() });
        assert_eq!(session.handle(&logout(6)), (None, false));
        let (reply, last) = session.handle(&logout(7));
        assert!(
            last && matches!(reply, Some(Pdu::LogoutResponse(response)) if response.exp_cmd_sn == CmdSn(8))
        );
    }

    impl Text {
        fn held(&self) -> usize {
            match self {
                Self::Idle => 0,
                Self::Asking { keys, .. } => keys.len(),
                Self::Answering { rest, .. } => rest.len(),
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

        /// Questions of any kind in any order: each is answered in bounds, the numbers go on, and little is held.
        #[test]
        fn whatever_is_asked_costs_little(
            asked in proptest::collection::vec((0..6u8, 0..6u8, 0..3u8, 0..3u32, 0..9000usize), 1..60),
        ) {
            let mut session = session(512, "");
            let whole = answer(&session.targets).to_bytes().len();
            let (mut stat_sn, mut told) = (session.stat_sn, session.exp_cmd_sn);
            for (kind, text, ttt, skew, length) in asked {
                let text = match text {
                    0 => "SendTargets=All\0".to_owned(),
                    1 => "SendTar".to_owned(),
                    2 => "gets=All\0".to_owned(),
                    3 => "SendTargets=All\0SendTargets=All\0".to_owned(),
                    4 => "SendTargets=".to_owned() + &"x".repeat(length),
                    _ => "\0=".repeat(length / 2),
                };
                let request = TextRequest {
                    immediate: kind == 1,
                    continue_: kind > 2,
                    itt: Itt(5 + u32::from(kind % 2)),
                    ttt: if ttt == 0 { Ttt::NONE } else { Ttt(ttt.into()) },
                    ..ask(told.0.wrapping_add(skew / 2), &text)
                };
                let pdu = match kind {
                    0 => Pdu::NopOut(NopOut::default()),
                    _ => Pdu::TextRequest(request),
                };
                let (reply, last) = session.handle(&pdu);
                proptest::prop_assert!(!last && session.text.held() <= MAX_REQUEST.max(whole));
                let Some(reply) = reply else { continue };
                let (number, exp, _) = reply.target_numbers().unwrap();
                proptest::prop_assert!(number == stat_sn && !exp.is_before(told) && reply.data().len() <= 512);
                (stat_sn, told) = (number.next(), exp);
            }
        }
    }
}
