//! SCSI Command and SCSI Response (RFC 7143 sections 11.3 and 11.4), and the additional header segments of commands.

use super::header::{Build, FINAL, View};
use super::opcode;
use crate::iscsi::{CmdSn, Itt, Lun, Payload, StatSn, WireError};
use bytes::Bytes;
use smallvec::SmallVec;

/// Additional header segments as they stand on the wire; empty but for SCSI commands with long CDBs or two directions.
pub type Ahs = SmallVec<[u8; 16]>;

/// AHS type: the rest of a CDB longer than 16 bytes.
const AHS_EXTENDED_CDB: u8 = 1;
/// AHS type: expected length of the read part of a bidirectional command.
const AHS_BIDI_LENGTH: u8 = 2;
/// CDB bytes that stand in the basic header.
const CDB_IN_HEADER: usize = 16;
/// Longest CDB: a variable-length one with its 8-byte head and 252 bytes more (SPC-5 section 4.2.3).
const CDB_MAX: usize = 260;
/// Most bytes of additional header segments that a PDU can need: the longest CDB and a bidirectional length.
pub const AHS_MAX: usize = 4 + (CDB_MAX - CDB_IN_HEADER) + 8;

/// A command descriptor block: 16 bytes in the header, longer ones with an extended-CDB AHS.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cdb(pub SmallVec<[u8; 16]>);

/// Task attribute of a SCSI command (SAM-5 section 8.6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TaskAttribute {
    /// No tag: one at a time.
    Untagged,
    /// May be reordered.
    #[default]
    Simple,
    /// Runs after all older and before all younger tasks.
    Ordered,
    /// Runs next.
    HeadOfQueue,
    /// Auto contingent allegiance.
    Aca,
}

/// SCSI Command (opcode 0x01, section 11.3).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScsiCommand {
    /// Immediate delivery: takes no CmdSN.
    pub immediate: bool,
    /// No unsolicited Data-Out PDUs follow.
    pub final_: bool,
    /// Data is expected to flow to the initiator.
    pub read: bool,
    /// Data is expected to flow to the target.
    pub write: bool,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Logical unit.
    pub lun: Lun,
    /// Task tag.
    pub itt: Itt,
    /// Expected Data Transfer Length in bytes (of the write part if bidirectional).
    pub expected_length: u32,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Acknowledges responses.
    pub exp_stat_sn: StatSn,
    /// What to do.
    pub cdb: Cdb,
    /// Expected bidirectional read data length AHS, if present.
    pub bidi_read_length: Option<u32>,
    /// Immediate data.
    pub data: Payload,
}

/// SCSI Response (opcode 0x21, section 11.4).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScsiResponse {
    /// Residual of the bidirectional read part: overflow.
    pub bidi_overflow: bool,
    /// Residual of the bidirectional read part: underflow.
    pub bidi_underflow: bool,
    /// More data than expected.
    pub overflow: bool,
    /// Less data than expected.
    pub underflow: bool,
    /// iSCSI service response; 0 = command completed at target.
    pub response: u8,
    /// SCSI status, valid with response 0.
    pub status: u8,
    /// Task tag.
    pub itt: Itt,
    /// SNACK tag, or zero.
    pub snack_tag: u32,
    /// Response sequence number.
    pub stat_sn: StatSn,
    /// Next command expected.
    pub exp_cmd_sn: CmdSn,
    /// Last command accepted.
    pub max_cmd_sn: CmdSn,
    /// Number of Data-In PDUs sent for the command.
    pub exp_data_sn: u32,
    /// Residual count of the bidirectional read part.
    pub bidi_residual: u32,
    /// Residual count.
    pub residual: u32,
    /// Two bytes of SenseLength, sense data, then response data; empty without sense.
    pub data: Payload,
}

impl TaskAttribute {
    const fn parse(code: u8) -> Result<Self, WireError> {
        Ok(match code {
            0 => Self::Untagged,
            1 => Self::Simple,
            2 => Self::Ordered,
            3 => Self::HeadOfQueue,
            4 => Self::Aca,
            _ => return Err(WireError::Field("task attribute")),
        })
    }

    const fn code(self) -> u8 {
        match self {
            Self::Untagged => 0,
            Self::Simple => 1,
            Self::Ordered => 2,
            Self::HeadOfQueue => 3,
            Self::Aca => 4,
        }
    }
}

impl ScsiCommand {
    pub(super) fn parse(h: View<'_>, ahs: &[u8], data: Payload) -> Result<Self, WireError> {
        let mut command = Self {
            immediate: h.immediate(),
            final_: h.final_(),
            read: h.flag(1, 0x40),
            write: h.flag(1, 0x20),
            attribute: TaskAttribute::parse(h.byte(1) & 7)?,
            lun: h.lun(),
            itt: h.itt(),
            expected_length: h.u32(20),
            cmd_sn: h.cmd_sn(),
            exp_stat_sn: h.exp_stat_sn(),
            cdb: Cdb(SmallVec::from_buf(h.array::<CDB_IN_HEADER>(32))),
            bidi_read_length: None,
            data,
        };
        if !command.final_ && !command.write {
            return Err(WireError::Field("F and W")); // R131
        }
        if !ahs.is_empty() {
            command.parse_ahs(ahs)?;
        }
        Ok(command)
    }

    /// Takes in the AHSs: each has a 2-byte length, a type, one reserved byte and its content, padded to words. The
    /// length counts the reserved byte and the content.
    fn parse_ahs(&mut self, mut rest: &[u8]) -> Result<(), WireError> {
        while let Some((&[hi, lo, kind, _], tail)) = rest.split_first_chunk::<4>() {
            let content = usize::from(u16::from_be_bytes([hi, lo])).checked_sub(1).ok_or(WireError::Ahs)?;
            let (body, next) = tail.split_at_checked(content.next_multiple_of(4)).ok_or(WireError::Ahs)?;
            self.take_ahs(kind & 0x3f, body.get(..content).ok_or(WireError::Ahs)?)?;
            rest = next;
        }
        if rest.is_empty() { Ok(()) } else { Err(WireError::Ahs) }
    }

    fn take_ahs(&mut self, kind: u8, content: &[u8]) -> Result<(), WireError> {
        match kind {
            AHS_EXTENDED_CDB if self.cdb.0.len() == CDB_IN_HEADER => {
                // R133: an extension holds at least one byte.
                if content.is_empty() || content.len() > CDB_MAX - CDB_IN_HEADER {
                    return Err(WireError::Ahs);
                }
                self.cdb.0.extend_from_slice(content);
            }
            AHS_BIDI_LENGTH if self.bidi_read_length.is_none() => {
                let length = content.try_into().map_err(|_| WireError::Ahs)?;
                self.bidi_read_length = Some(u32::from_be_bytes(length));
            }
            _ => return Err(WireError::Ahs),
        }
        Ok(())
    }

    pub(super) fn emit(&self) -> (Build, Ahs) {
        let (head, extension) = self.cdb.0.split_at_checked(CDB_IN_HEADER).unwrap_or((&self.cdb.0, &[]));
        let mut ahs = Ahs::new();
        if !extension.is_empty() {
            push_ahs(&mut ahs, AHS_EXTENDED_CDB, extension);
        }
        if let Some(length) = self.bidi_read_length {
            push_ahs(&mut ahs, AHS_BIDI_LENGTH, &length.to_be_bytes());
        }
        let header = Build::request(opcode::SCSI_COMMAND, self.immediate)
            .byte(1, self.attribute.code())
            .flag(1, FINAL, self.final_)
            .flag(1, 0x40, self.read)
            .flag(1, 0x20, self.write)
            .lun(self.lun)
            .itt(self.itt)
            .u32(20, self.expected_length)
            .request_numbers(self.cmd_sn, self.exp_stat_sn)
            .bytes(32, head);
        (header, ahs)
    }
}

/// Appends one AHS; the length is cut to what its field can say.
fn push_ahs(ahs: &mut Ahs, kind: u8, content: &[u8]) {
    debug_assert!(content.len() <= CDB_MAX - CDB_IN_HEADER);
    let content = content.get(..CDB_MAX - CDB_IN_HEADER).unwrap_or(content);
    let [hi, lo] = u16::try_from(content.len() + 1).unwrap_or(u16::MAX).to_be_bytes();
    ahs.extend_from_slice(&[hi, lo, kind, 0]);
    ahs.extend_from_slice(content);
    ahs.resize(ahs.len().next_multiple_of(4), 0);
}

impl ScsiResponse {
    /// The data segment that carries `sense`: its length, then the bytes (section 11.4.7); more than 65,535 are cut.
    #[must_use]
    pub fn sense_data(sense: &[u8]) -> Payload {
        let length = u16::try_from(sense.len()).unwrap_or(u16::MAX);
        let mut data = Vec::with_capacity(2 + usize::from(length));
        data.extend_from_slice(&length.to_be_bytes());
        data.extend_from_slice(sense.get(..usize::from(length)).unwrap_or(sense));
        Payload::from(data)
    }

    /// The sense bytes in the data segment, or none if there are none. A segment shorter than its SenseLength gives what
    /// is there.
    #[must_use]
    pub fn sense(&self) -> Option<Bytes> {
        let head = self.data.slice(0, 2).contiguous();
        let &[hi, lo] = head.first_chunk::<2>()?;
        let sense = self.data.slice(2, usize::from(u16::from_be_bytes([hi, lo]))).contiguous();
        (!sense.is_empty()).then_some(sense)
    }

    pub(super) fn parse(h: View<'_>, data: Payload) -> Self {
        Self {
            bidi_overflow: h.flag(1, 0x10),
            bidi_underflow: h.flag(1, 0x08),
            overflow: h.flag(1, 0x04),
            underflow: h.flag(1, 0x02),
            response: h.byte(2),
            status: h.byte(3),
            itt: h.itt(),
            snack_tag: h.u32(20),
            stat_sn: h.stat_sn(),
            exp_cmd_sn: h.exp_cmd_sn(),
            max_cmd_sn: h.max_cmd_sn(),
            exp_data_sn: h.u32(36),
            bidi_residual: h.u32(40),
            residual: h.u32(44),
            data,
        }
    }

    pub(super) fn emit(&self) -> Build {
        Build::new(opcode::SCSI_RESPONSE)
            .byte(1, FINAL)
            .flag(1, 0x10, self.bidi_overflow)
            .flag(1, 0x08, self.bidi_underflow)
            .flag(1, 0x04, self.overflow)
            .flag(1, 0x02, self.underflow)
            .byte(2, self.response)
            .byte(3, self.status)
            .itt(self.itt)
            .u32(20, self.snack_tag)
            .response_numbers(self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn)
            .u32(36, self.exp_data_sn)
            .u32(40, self.bidi_residual)
            .u32(44, self.residual)
    }
}
