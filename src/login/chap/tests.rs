//! Test vectors, and what either side makes of the other's words.

use super::*;

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

fn account(name: &str, text: &str) -> Account {
    Account { name: name.to_owned(), secret: secret(text) }
}

fn words(pairs: &[(&str, &str)]) -> KeyList {
    let mut words = KeyList::new();
    pairs.iter().for_each(|(key, value)| words.push(*key, *value));
    words
}

const OWN: &str = "of-the-initiator";
const PEER: &str = "of-the-target-xx";

fn client(mutual: bool) -> Client {
    let peer = mutual.then(|| account("disk", PEER));
    Client::new(Arc::new(Credentials { own: account("host", OWN), peer }), Nonce::new([7; 33]))
}

fn guard(mutual: bool) -> Guard {
    let initiators = vec![account("other", "of-another-initiator"), account("host", OWN)];
    let own = mutual.then(|| account("disk", PEER));
    Guard::new(Arc::new(Accounts { initiators, own }), Nonce::new([9; 33]))
}

/// A client that has got as far as the challenge.
fn asking(mutual: bool) -> Client {
    let mut client = client(mutual);
    let offer = client.take(&words(&[("AuthMethod", "CHAP")])).unwrap();
    // R85: MD5 is among them.
    assert_eq!(offer, words(&[("CHAP_A", "8,7,6,5")]));
    client
}

/// A guard that has sent its challenge, and what it sent.
fn challenged(mutual: bool, offer: &str) -> (Guard, KeyList) {
    let mut guard = guard(mutual);
    assert_eq!(guard.take(&words(&[("AuthMethod", "KRB5,CHAP,None")])), Ok(words(&[("AuthMethod", "CHAP")])));
    let challenge = guard.take(&words(&[("CHAP_A", offer)])).unwrap();
    (guard, challenge)
}

fn unproved<T>(result: Result<T, Failure>) -> bool {
    matches!(result, Err(Failure::Unproved(_)))
}

fn malformed<T>(result: Result<T, Failure>) -> bool {
    matches!(result, Err(Failure::Malformed(_)))
}

/// The first is hashcat's published example for iSCSI CHAP (mode 4800); the others were computed with Python's hashlib.
#[test]
fn r84_responses_are_what_others_compute() {
    let challenge = HEXLOWER.decode(b"01020304050607080910111213141516").unwrap();
    assert_eq!(
        hex(&Algorithm::Md5.response(1, &secret("hashcat"), &challenge)),
        "0xafd09efdd6f8ca9f18ec77c5869788c3"
    );
    let challenge: Vec<u8> = (0..32).collect();
    let response =
        |algorithm: Algorithm| hex(&algorithm.response(0xa5, &secret("correct horse battery"), &challenge));
    assert_eq!(response(Algorithm::Md5), "0x8016aa5d2bab9b162dd6dbf8accc648c");
    assert_eq!(response(Algorithm::Sha1), "0xc0d2f64f9e326681c2f64f37c3664baa5a41e655");
    assert_eq!(
        response(Algorithm::Sha256),
        "0xa46e15841a8a8cde96f9bfd5037e4ccc3f14e98ef9a6858105ca5e16eeafeb9c"
    );
    assert_eq!(
        response(Algorithm::Sha3With256),
        "0x5e56aa12dbd4116fbf1303c935ce5c58641db818c3e96f94a51f0ee2aba18e78"
    );
}

#[test]
fn r85_binary_items_in_either_form() {
    let bytes = HEXLOWER.decode(b"8016aa5d2bab9b162dd6dbf8accc648c").unwrap();
    for text in [
        "0x8016aa5d2bab9b162dd6dbf8accc648c",
        "0X8016AA5D2BAB9B162DD6DBF8ACCC648C",
        "0bgBaqXSurmxYt1tv4rMxkjA==",
        "0BgBaqXSurmxYt1tv4rMxkjA==",
    ] {
        assert_eq!(binary(text).as_ref(), Some(&bytes), "{text}");
    }
    for text in ["", "8016", "0x801", "0x80zz", "0b!!!!", "0bgBa", "x", "0", "0x80 16"] {
        assert_eq!(binary(text), None, "{text}");
    }
}

#[test]
fn r85_the_strongest_algorithm_in_common_is_taken() {
    for (offer, chosen, length) in
        [("5", "5", 16), ("5,6", "6", 20), ("5,7,6", "7", 32), ("0x8,5", "8", 32), ("99,x,5", "5", 16)]
    {
        let (_, challenge) = challenged(false, offer);
        assert_eq!(challenge.value("CHAP_A"), Some(chosen), "{offer}");
        assert_eq!(binary(challenge.value("CHAP_C").unwrap()).unwrap().len(), length, "{offer}");
    }
    let mut guard = guard(false);
    guard.take(&words(&[("AuthMethod", "CHAP")])).unwrap();
    assert!(unproved(guard.take(&words(&[("CHAP_A", "128,4")]))));
    for chosen in ["4", "", "5,6"] {
        let challenge = words(&[("CHAP_A", chosen), ("CHAP_I", "1"), ("CHAP_C", "0x01")]);
        assert!(unproved(asking(false).take(&challenge)), "{chosen}");
    }
    let narrow = Client::narrowed(
        Arc::new(Credentials { own: account("host", OWN), peer: None }),
        Nonce::new([7; 33]),
    );
    let offer = narrow.clone().take(&words(&[("AuthMethod", "CHAP")])).unwrap();
    assert_eq!(offer.value("CHAP_A"), Some("5"));
}

#[test]
fn r84_both_sides_prove_themselves() {
    for (mutual, offer) in [(false, "5"), (true, "5"), (false, "6"), (true, "7"), (true, "8")] {
        let (mut guard, challenge) = challenged(true, offer);
        let mut client = asking(mutual);
        assert!(!client.wants_on());
        let proof = client.take(&challenge).unwrap();
        assert!(client.wants_on() && client.is_over() != mutual);
        let reply = guard.take(&proof).unwrap();
        assert!(guard.is_passed());
        assert_eq!(client.take(&reply), Ok(KeyList::new()));
        assert!(client.is_over());
        assert_eq!(reply.is_empty(), !mutual);
    }
}

#[test]
fn r84_a_wrong_name_or_secret_does_not_pass() {
    for wrong in [account("host", "of-the-initiatoR"), account("hose", OWN), account("other", OWN)] {
        let (mut guard, challenge) = challenged(false, "8");
        let credentials = Credentials { own: wrong, peer: None };
        let mut client = Client::new(Arc::new(credentials), Nonce::new([7; 33]));
        client.take(&words(&[("AuthMethod", "CHAP")])).unwrap();
        let proof = client.take(&challenge).unwrap();
        assert!(unproved(guard.take(&proof)) && !guard.is_passed());
    }
}

#[test]
fn r84_a_target_that_does_not_prove_itself_is_left() {
    let (mut guard, challenge) = challenged(true, "5");
    let mut client = asking(true);
    let proof = client.take(&challenge).unwrap();
    let reply = guard.take(&proof).unwrap();
    let with = |key, value| {
        let mut changed = words(&[]);
        reply.iter().for_each(|(k, v)| changed.push(k, if k == key { value } else { v }));
        changed
    };
    assert!(unproved(client.clone().take(&with("CHAP_N", "disc"))));
    assert!(unproved(client.clone().take(&with("CHAP_R", "0x00000000000000000000000000000000"))));
    assert!(malformed(client.clone().take(&with("CHAP_R", "0x00"))));
    assert!(unproved(asking_none(true)), "no authentication is not what was wanted");
    assert!(asking_none(false).is_ok());
    assert!(unproved(self::client(false).take(&words(&[("AuthMethod", "Reject")]))));
}

fn asking_none(mutual: bool) -> Result<KeyList, Failure> {
    client(mutual).take(&words(&[("AuthMethod", "None")]))
}

/// A target that is asked to prove itself, and has nothing to do it with, says so.
#[test]
fn a_proof_that_nobody_set_up_is_refused() {
    let (mut guard, challenge) = challenged(false, "5");
    let proof = asking(true).take(&challenge).unwrap();
    assert!(unproved(guard.take(&proof)));
}

/// R87: who sends back our own challenge wants us to answer it for him.
#[test]
fn r87_an_echoed_challenge_is_refused() {
    let (mut guard, challenge) = challenged(true, "5");
    let mut proof = asking(true).take(&challenge).unwrap();
    proof = words(&[
        ("CHAP_N", "host"),
        ("CHAP_R", proof.value("CHAP_R").unwrap()),
        ("CHAP_I", "3"),
        ("CHAP_C", challenge.value("CHAP_C").unwrap()),
    ]);
    assert!(unproved(guard.take(&proof)));
    let own = hex(Nonce::new([7; 33]).challenge(Algorithm::Sha256));
    let echo = words(&[("CHAP_A", "7"), ("CHAP_I", "3"), ("CHAP_C", &own)]);
    assert!(unproved(asking(true).take(&echo)));
}

/// R87: one secret for both directions is as good as none: whoever has our response has the other's.
#[test]
fn r87_this_sides_own_response_is_refused() {
    let accounts = Accounts { initiators: vec![account("host", PEER)], own: Some(account("disk", PEER)) };
    let mut guard = Guard::new(Arc::new(accounts), Nonce::new([9; 33]));
    guard.take(&words(&[("AuthMethod", "CHAP")])).unwrap();
    let challenge = guard.take(&words(&[("CHAP_A", "5")])).unwrap();
    let credentials = Credentials { own: account("host", PEER), peer: None };
    let mut client = Client::new(Arc::new(credentials), Nonce::new([7; 33]));
    client.take(&words(&[("AuthMethod", "CHAP")])).unwrap();
    assert!(unproved(guard.take(&client.take(&challenge).unwrap())));

    let same = Credentials { own: account("host", OWN), peer: Some(account("disk", OWN)) };
    let mut client = Client::new(Arc::new(same), Nonce::new([7; 33]));
    client.take(&words(&[("AuthMethod", "CHAP")])).unwrap();
    client.take(&words(&[("CHAP_A", "5"), ("CHAP_I", "1"), ("CHAP_C", "0x0102")])).unwrap();
    let nonce = Nonce::new([7; 33]);
    let ours = Algorithm::Md5.response(nonce.id(), &secret(OWN), nonce.challenge(Algorithm::Md5));
    assert!(unproved(client.take(&words(&[("CHAP_N", "disk"), ("CHAP_R", &hex(&ours))]))));
}

#[test]
fn r85_items_out_of_bounds_or_place_are_refused() {
    let long = format!("0x{}", "00".repeat(1025));
    for (id, challenge) in [
        ("256", "0x00"),
        ("-1", "0x00"),
        ("", "0x00"),
        ("1", "0x"),
        ("1", "0b"),
        ("1", "00"),
        ("1", long.as_str()),
    ] {
        let words = words(&[("CHAP_A", "5"), ("CHAP_I", id), ("CHAP_C", challenge)]);
        assert!(malformed(asking(false).take(&words)), "{id} {challenge}");
    }
    let most = format!("0x{}", "00".repeat(1024));
    assert!(asking(false).take(&words(&[("CHAP_A", "5"), ("CHAP_I", "255"), ("CHAP_C", &most)])).is_ok());
    assert!(malformed(asking(false).take(&words(&[("CHAP_A", "5"), ("CHAP_I", "1")]))));
    assert!(malformed(asking(false).take(&words(&[("CHAP_R", "0x00")]))));
    assert!(malformed(client(false).take(&words(&[("CHAP_A", "5")]))));
    let (mut one, challenge) = challenged(true, "5");
    let proof = asking(false).take(&challenge).unwrap();
    let half = |key: &str, value: &str| {
        let mut half = proof.clone();
        half.push(key, value);
        half
    };
    for half in [half("CHAP_I", "1"), half("CHAP_C", "0x01"), half("CHAP_A", "5"), half("AuthMethod", "CHAP")]
    {
        let (mut guard, _) = challenged(true, "5");
        assert!(malformed(guard.take(&half)), "{half}");
    }
    for wrong in ["0x00", "", "0bAA==", "0x8016aa5d2bab9b162dd6dbf8accc648c00"] {
        let (mut guard, _) = challenged(true, "5");
        assert!(malformed(guard.take(&words(&[("CHAP_N", "host"), ("CHAP_R", wrong)]))), "{wrong}");
    }
    assert!(one.take(&proof).is_ok());
    assert!(malformed(one.take(&proof)), "once is enough");
    assert!(malformed(guard(false).take(&words(&[("CHAP_A", "5")]))));
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?} {:?} {:?}", secret(OWN), client(true), guard(true));
    assert!(!shown.contains(OWN) && !shown.contains(PEER), "{shown}");
    assert!(shown.contains("<hidden>"));
    // As bytes, neither.
    let [first, second, ..] = OWN.as_bytes() else { panic!() };
    assert!(!shown.contains(&format!("{first}, {second}")));
}
