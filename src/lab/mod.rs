//! What the demo, drills, the tests and the benchmark need: peers, a judge and a way to break links.
//!
//! Nothing here uses [`crate::session`]: a judge does not share the accused's code.
//!
//! - [`target`]: a RAM-disk target with several portals and several connections per session.
//! - [`initiator`]: a small verifying initiator, and raw connections that may send anything.
//! - [`workload`]: reads and writes that are checked block by block.
//! - [`cutter`]: a link that can be cut and healed, in user space.
//! - [`links`]: the same of the kernel's own, between [`netns`].
//! - [`wire`]: PDUs over a TCP stream, shared by both.

#![expect(
    clippy::disallowed_methods,
    reason = "the lab drives sockets and reads the clock; its target core is told the time"
)]

pub mod cutter;
pub mod initiator;
pub mod links;
pub mod netns;
pub mod target;
pub mod wire;
pub mod workload;

#[cfg(test)]
mod tests;
