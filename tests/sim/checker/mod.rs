use braid::iscsi::Pdu;
use braid::login::{LoginPlan, Negotiated};
use braid::session::*;
#[derive(Debug)]
pub(crate) struct Broken { pub(crate) requirement: u16, pub(crate) what: String }
pub(crate) struct Upstream([u64; 246]);
impl Upstream {
    pub(crate) fn new(_: &SessionPlan) -> Self { Self([0; 246]) }
    pub(crate) fn opened(&mut self, _: ConnId, _: PathId, _: &LoginPlan) -> Result<(), Broken> { Ok(()) }
    pub(crate) fn connected(&mut self, _: ConnId, _: &Negotiated) {}
    pub(crate) fn received(&mut self, _: ConnId, _: &Pdu) {}
    pub(crate) fn sent(&mut self, _: ConnId, _: &Pdu) -> Result<(), Broken> { Ok(()) }
    pub(crate) fn closed(&mut self, _: ConnId) {}
    pub(crate) fn end(&self) -> Result<(), Broken> { Ok(()) }
    pub(crate) fn judged(&self) -> &[u64; 246] { &self.0 }
}
pub(crate) struct Downstream([u64; 246]);
impl Downstream {
    pub(crate) fn new(_: &Negotiated) -> Self { Self([0; 246]) }
    pub(crate) fn received(&mut self, _: &Pdu) {}
    pub(crate) fn sent(&mut self, _: &Pdu) -> Result<(), Broken> { Ok(()) }
    pub(crate) fn judged(&self) -> &[u64; 246] { &self.0 }
}
