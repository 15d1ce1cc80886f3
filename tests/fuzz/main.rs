//! What the fuzz targets run, over their committed corpus: small inputs that reach most of what fuzzing has reached, and
//! inputs that once went wrong. No fuzzer is needed for it, and the outcome is always the same.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(clippy::wildcard_enum_match_arm, reason = "what does not concern a target is all alike to it")]

#[expect(unreachable_pub, reason = "the fuzz package reaches it")]
#[path = "src/lib.rs"]
mod bodies;

use bodies::TARGETS;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(name)
}

/// Names in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn replay(target: &str) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let corpus = folder("corpus").join(target);
    let inputs = names(&corpus);
    assert!(!inputs.is_empty(), "no corpus of {target}");
    for input in inputs {
        let bytes = fs::read(corpus.join(&input)).unwrap();
        let outcome = std::panic::catch_unwind(|| body(&bytes));
        assert!(outcome.is_ok(), "{target} fails on {input}");
    }
}

#[test]
fn the_corpus_of_sessions_reaches_error_recovery() {
    let corpus = folder("corpus/session");
    let met = names(&corpus)
        .iter()
        .flat_map(|input| bodies::session::meets(&fs::read(corpus.join(input)).unwrap()))
        .collect::<BTreeSet<_>>();
    assert_eq!(met, BTreeSet::from(["DataACK", "data or R2T again", "recovery R2T", "response again"]));
}

macro_rules! replays {
    ($($target:ident)*) => {
        $(
            #[test]
            fn $target() {
                replay(stringify!($target));
            }
        )*

        #[test]
        fn every_target_is_built_replayed_and_has_a_corpus() {
            let all: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!(BTreeSet::from([$(stringify!($target).to_owned()),*]), all);
            assert_eq!(names(&folder("corpus")), all);
            assert_eq!(names(&folder("targets")), all.iter().map(|name| format!("{name}.rs")).collect());
            let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
            let built = manifest.lines().filter_map(|line| line.strip_prefix("path = \"targets/"));
            assert_eq!(built.map(|line| line.trim_end_matches(".rs\"").to_owned()).collect::<BTreeSet<_>>(), all);
        }
    };
}

replays!(cdb chap discovery framer login_initiator login_pair login_target pdu session text);
