//! The conformance index: what each requirement of the standards asks, whether Braid does it, and how one knows.
//!
//! `index.toml` says it, one entry per requirement; the comment at its top says how to keep it. The tests here hold it
//! against the source tree: what the index names must exist, and what the sources cite must stand in the index. Each
//! rule is itself tested on an index and a tree that break it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod index;
mod rules;
mod tree;

use index::Index;
use std::io::Write as _;
use tree::Tree;

#[test]
fn the_index_is_whole_and_true() {
    let (index, tree) = (Index::read(include_str!("index.toml")).unwrap(), Tree::read());
    assert!(tree.files.len() > 100, "the source tree was not found");
    let breaches = rules::breaches(&index, &tree);
    // Past the test harness, which would keep it back from whoever asks for no more than success.
    writeln!(std::io::stdout(), "\n{}", index.table()).unwrap();
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}
