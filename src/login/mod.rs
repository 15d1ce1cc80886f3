//! Login and negotiation for both roles, as state machines without I/O (RFC 7143 sections 6 and 11.12 to 11.13).
//!
//! - [`keys`]: the one table of keys: scope, phase, default, range, result rule.
//! - [`params`]: what a login results in.
//! - [`initiator`]: Braid towards a target.
//! - [`target`]: Braid (or the lab target) towards an initiator.
//! - [`chap`]: authentication, in both roles. [`relay`]: passing on somebody else's.
//! - [`discovery`]: SendTargets, asked and answered.
//! - [`name`]: what an iSCSI name may be.
//! - `negotiate`: one side's proposals, limits and results; `text`: key lists longer than one PDU.

pub mod chap;
pub mod discovery;
pub mod initiator;
pub mod keys;
pub mod name;
mod negotiate;
pub mod params;
pub mod relay;
pub mod target;
#[cfg(test)]
mod tests;
mod text;

pub use initiator::{InitiatorLogin, InitiatorStep, LoginError, LoginKind, LoginPlan, Proof};
pub use params::{ConnectionParams, Negotiated, SessionParams};
pub use target::{Intent, Offer, Refusal, TargetLogin, TargetStep};
