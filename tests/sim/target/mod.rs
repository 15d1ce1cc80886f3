use crate::random::Random;
use braid::iscsi::Pdu;
use braid::login::*;
use std::time::Instant;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk { pub(crate) blocks: usize, pub(crate) identity: u64 }
pub(crate) enum Effect { Send(u32, Pdu), LoggedIn(u32, Box<Negotiated>), Refused(u32, u8, u8), Close(u32), Reset(u32) }
#[derive(Clone, Debug)]
pub(crate) struct Persona { pub(crate) name: &'static str }
impl Persona { pub(crate) fn draw(_: &mut Random) -> Self { Self { name: "x" } } pub(crate) fn orders_across_connections(&self) -> bool { true } }
pub(crate) struct Target;
impl Target {
    pub(crate) fn new(_: Persona, _: Vec<Disk>, _: Random) -> Self { Self }
    pub(crate) fn login(&mut self, _: u32, _: u16, _: &LoginPlan, _: Instant) {}
    pub(crate) fn receive(&mut self, _: u32, _: Pdu, _: Instant) {}
    pub(crate) fn closed(&mut self, _: u32, _: Instant) {}
    pub(crate) fn timeout(&mut self, _: Instant) {}
    pub(crate) fn next_deadline(&self) -> Option<Instant> { None }
    pub(crate) fn poll(&mut self) -> Option<Effect> { None }
    pub(crate) fn power_cut(&mut self, _: Instant) {}
    pub(crate) fn restart(&mut self, _: Instant) {}
    pub(crate) fn heal(&mut self) {}
    pub(crate) fn foreign_reset(&mut self, _: usize, _: Instant) -> (u8, u8) { (0, 0) }
    pub(crate) fn foreign_mode_select(&mut self, _: usize) {}
    pub(crate) fn foreign_reserve(&mut self, _: usize) -> bool { false }
    pub(crate) fn foreign_preempt(&mut self, _: usize) -> bool { false }
    pub(crate) fn media_error(&mut self, _: Instant) -> bool { false }
    pub(crate) fn async_logout(&mut self, _: u32) {}
    pub(crate) fn block(&self, _: usize, _: usize) -> u64 { 0 }
    pub(crate) fn executions(&self, _: u64) -> u32 { 0 }
    pub(crate) fn busy(&self) -> bool { false }
    pub(crate) fn triggered(&self) -> impl Iterator<Item = (&'static str, u32)> { std::iter::empty() }
}
