//! What the fuzz targets do with their input, apart from the fuzzer: `targets/` hands them what libFuzzer makes up, and
//! `main.rs` runs them over the committed corpus as plain tests of the root package.
//!
//! A body takes any bytes and panics if Braid does something that it must never do. It is deterministic.

pub mod cdb;
pub mod chap;
pub mod discovery;
pub mod framer;
pub mod login;
pub mod login_initiator;
pub mod login_pair;
pub mod login_target;
pub mod pdu;
pub mod session;
pub mod text;

use arbitrary::{Arbitrary, Unstructured};
use std::fmt;

/// What a target does with an input.
pub type Body = fn(&[u8]);

/// Every target: its name and what it runs.
pub const TARGETS: &[(&str, Body)] = &[
    ("cdb", cdb::run),
    ("chap", chap::run),
    ("discovery", discovery::run),
    ("framer", framer::run),
    ("login_initiator", login_initiator::run),
    ("login_pair", login_pair::run),
    ("login_target", login_target::run),
    ("pdu", pdu::run),
    ("session", session::run),
    ("text", text::run),
];

/// Runs `body` on what the bytes mean; nothing if they do not suffice. What it was is printed if the body panics.
fn with_input<'a, T: Arbitrary<'a> + fmt::Debug>(bytes: &'a [u8], body: impl FnOnce(&T)) {
    if let Ok(input) = T::arbitrary_take_rest(Unstructured::new(bytes)) {
        let shown = Shown(&input);
        body(shown.0);
    }
}

struct Shown<'a, T: fmt::Debug>(&'a T);

impl<T: fmt::Debug> Drop for Shown<'_, T> {
    #[expect(clippy::print_stderr, reason = "for whoever has to understand the failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}", self.0);
        }
    }
}
