//! Both roles against each other: whatever is planned and offered, both arrive at the same, and they do arrive.

use super::login::{MadeOffer, Plan, judge, request, response};
use arbitrary::Arbitrary;
use braid::iscsi::{Pdu, Tsih};
use braid::login::{
    InitiatorLogin, InitiatorStep, LoginError, LoginKind, LoginPlan, Negotiated, Offer, TargetLogin,
    TargetStep,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    plan: Plan<'a>,
    offer: MadeOffer<'a>,
    /// The session that is to be joined is the one that the target joins it to.
    fitting: bool,
}

/// Runs one input.
pub fn run(bytes: &[u8]) {
    super::with_input(bytes, go);
}

fn go(input: &Input<'_>) {
    let (plan, mut offer) = (input.plan.plan(), input.offer.offer());
    offer.joining = matches!(plan.kind, LoginKind::Joining { .. });
    if let LoginKind::Joining { session, tsih } = &plan.kind {
        offer.limits = session.clone();
        offer.tsih = if input.fitting { *tsih } else { Tsih(!tsih.0) };
    }
    let (initiator, target) = log_in(plan.clone(), &offer);
    match initiator {
        Ok(own) => agreed(&plan, &offer, &own, &target.expect("only the initiator thinks it is done")),
        Err(LoginError::Protocol(_)) if offer.joining && !input.fitting => {}
        Err(error) => panic!("{error}"),
    }
}

fn log_in(plan: LoginPlan, offer: &Offer) -> (Result<Negotiated, LoginError>, Option<Negotiated>) {
    let mut target = TargetLogin::new();
    let (mut initiator, mut next) = InitiatorLogin::start(plan);
    loop {
        let mut step = target.handle(request(&next));
        if matches!(step, TargetStep::Decide(_)) {
            step = target.accept(offer.clone());
        }
        let (pdus, done) = match step {
            TargetStep::Send(pdus) | TargetStep::Close(pdus) => (pdus, None),
            TargetStep::Done(pdus, done) => (pdus, Some(*done)),
            TargetStep::Decide(_) => panic!("asked twice"),
        };
        let [pdu]: [Pdu; 1] = pdus.try_into().expect("one response to each request");
        match initiator.handle(response(&pdu)) {
            Ok(InitiatorStep::Send(pdu)) => next = pdu,
            Ok(InitiatorStep::Done(own)) => return (Ok(*own), done),
            Ok(InitiatorStep::Redirect { .. }) => panic!("redirected"),
            Err(error) => return (Err(error), done),
        }
        assert!(done.is_none(), "only the target thinks it is done");
    }
}

fn agreed(plan: &LoginPlan, offer: &Offer, own: &Negotiated, target: &Negotiated) {
    assert_eq!(own.session, target.session);
    if plan.kind == LoginKind::Leading {
        judge(&own.session, &plan.offer);
        judge(&own.session, &offer.limits);
    }
    let (ours, theirs) = (own.connection, target.connection);
    assert_eq!((ours.header_digest, ours.data_digest), (theirs.header_digest, theirs.data_digest));
    assert_eq!(ours.header_digest, plan.connection.header_digest && offer.allow_digests);
    assert_eq!(ours.data_digest, plan.connection.data_digest && offer.allow_digests);
    assert_eq!(ours.max_send_data_segment, theirs.max_recv_data_segment);
    assert_eq!(theirs.max_send_data_segment, ours.max_recv_data_segment);
    let same = |n: &Negotiated| {
        (
            n.discovery,
            n.initiator_name.clone(),
            n.target_name.clone(),
            n.isid,
            n.tsih,
            n.cid,
            n.cmd_sn,
            n.max_cmd_sn,
            n.stat_sn,
        )
    };
    assert_eq!(same(own), same(target));
    // A discovery session that names no target is told neither.
    let named = !plan.target_name.is_empty();
    assert_eq!(own.target_alias, offer.target_alias.clone().filter(|_| named));
    assert_eq!(own.tpgt, named.then_some(offer.tpgt));
}
