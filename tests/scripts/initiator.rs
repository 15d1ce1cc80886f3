//! The initiator of a script: its PDUs from words, and what it must always be told.

use crate::print::content;
use crate::words::{Words, hex, raw};
use braid::iscsi::{
    Cdb, Cid, CmdSn, DataIn, DataOut, Itt, LogoutRequest, Lun, NopOut, Payload, Pdu, ScsiCommand,
    SnackRequest, StatSn, TaskAttribute, TaskManagementRequest, TextRequest, Ttt, tmf,
};
use std::collections::BTreeMap;

pub(crate) struct Initiator {
    pub(crate) cmd_sn: CmdSn,
    pub(crate) max_cmd_sn: CmdSn,
    stat_sn: StatSn,
    /// It may be sent again what it asks for: error recovery level 1.
    pub(crate) recovers: bool,
    /// Open commands.
    tasks: BTreeMap<Itt, ScsiCommand>,
}

/// First byte on its unit that a command moves.
pub(crate) fn base(cdb: &Cdb) -> u64 {
    match cdb.0.as_slice() {
        [0x28 | 0x2a, _, a, b, c, d, ..] => u64::from(u32::from_be_bytes([*a, *b, *c, *d])) * 512,
        _ => 0,
    }
}

pub(crate) fn lun(words: &mut Words<'_>) -> Result<Lun, String> {
    Ok(Lun::from_number(words.number_or("lun", 0)?))
}

pub(crate) fn padded(bytes: &[u8]) -> Cdb {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().max(16), 0);
    Cdb(bytes.into_iter().collect())
}

/// Commands that scripts call by their names: opcode, whether they read and write blocks.
const NAMED: &[(&str, u8, bool, bool)] = &[
    ("READ(10)", 0x28, true, false),
    ("WRITE(10)", 0x2a, false, true),
    ("SYNCHRONIZE CACHE(10)", 0x35, false, false),
    ("TEST UNIT READY", 0x00, false, false),
    ("RESERVE(6)", 0x16, false, false),
    ("RELEASE(6)", 0x17, false, false),
    ("FORMAT UNIT", 0x04, false, false),
];

impl Initiator {
    pub(crate) fn new(cmd_sn: CmdSn, max_cmd_sn: CmdSn, stat_sn: StatSn) -> Self {
        Self { cmd_sn, max_cmd_sn, stat_sn, recovers: false, tasks: BTreeMap::new() }
    }

    /// Where the data of a task stands.
    pub(crate) fn base(&self, itt: Itt) -> u64 {
        self.tasks.get(&itt).map_or(0, |command| base(&command.cdb))
    }

    /// Whether it waits for the answer to a command like this.
    pub(crate) fn wants(&self, command: &ScsiCommand) -> bool {
        self.tasks.values().any(|own| own.cdb == command.cdb && own.lun == command.lun)
    }

    /// The PDU that the words say.
    pub(crate) fn pdu(&mut self, words: &mut Words<'_>) -> Result<Pdu, String> {
        if let Some(command) = self.named(words)? {
            self.tasks.insert(command.itt, command.clone());
            return Ok(Pdu::ScsiCommand(command));
        }
        if words.begin("Data-Out") {
            return self.data_out(words);
        }
        for (name, kind) in
            [("SNACK DATA/R2T", 0), ("SNACK STATUS", 1), ("SNACK DATA-ACK", 2), ("SNACK R-DATA", 3)]
        {
            if words.begin(name) {
                return self.snack(words, kind);
            }
        }
        let immediate = words.flag("I");
        let (itt, exp_stat_sn) = (Itt(words.tag("itt")?), self.stat_sn);
        if words.begin("NOP-Out") {
            let data = content(0, words.number_or("data", 0)?);
            let (lun, ttt) = (lun(words)?, Ttt(words.tag("ttt")?));
            let cmd_sn = self.number(words, immediate)?;
            return Ok(Pdu::NopOut(NopOut { immediate, lun, itt, ttt, cmd_sn, exp_stat_sn, data }));
        }
        if words.begin("TMF Request") {
            return self.function(words, immediate, itt);
        }
        if words.begin("Text Request") {
            let data = words.value("raw").map_or_else(|| words.keys().to_bytes(), raw);
            let (continue_, final_) = (words.flag("C"), words.flag("F"));
            let (lun, ttt) = (Lun(0), Ttt(words.tag("ttt")?));
            let (cmd_sn, data) = (self.number(words, immediate)?, Payload::from(data));
            let request =
                TextRequest { immediate, final_, continue_, lun, itt, ttt, cmd_sn, exp_stat_sn, data };
            return Ok(Pdu::TextRequest(request));
        }
        if words.begin("Logout Request") {
            let reason = match words.value("reason") {
                Some("session") => 0,
                Some("connection") => 1,
                Some("recovery") => 2,
                other => return Err(format!("a logout for the reason {other:?}")),
            };
            let (cid, cmd_sn) = (Cid(words.number_or("cid", 7)?), self.number(words, immediate)?);
            let request = LogoutRequest { immediate, reason, itt, cid, cmd_sn, exp_stat_sn };
            return Ok(Pdu::LogoutRequest(request));
        }
        if words.begin("Data-In") {
            return Ok(Pdu::DataIn(DataIn { itt, ..DataIn::default() }));
        }
        Err("the initiator does not know such a PDU".into())
    }

    fn snack(&self, words: &mut Words<'_>, kind: u8) -> Result<Pdu, String> {
        Ok(Pdu::SnackRequest(SnackRequest {
            kind,
            lun: lun(words)?,
            itt: Itt(words.tag("itt")?),
            ttt: Ttt(words.tag("ttt")?),
            exp_stat_sn: StatSn(words.number_or("expstatsn", self.stat_sn.0)?),
            begin_run: words.number_or("begin", 0)?,
            run_length: words.number_or("run", 0)?,
        }))
    }

    fn number(&mut self, words: &mut Words<'_>, immediate: bool) -> Result<CmdSn, String> {
        let cmd_sn = CmdSn(words.number_or("cmdsn", self.cmd_sn.0)?);
        // Whoever says a number has sent all before it.
        self.cmd_sn = self.cmd_sn.max(if immediate { cmd_sn } else { cmd_sn.next() });
        Ok(cmd_sn)
    }

    fn named(&mut self, words: &mut Words<'_>) -> Result<Option<ScsiCommand>, String> {
        let mut command = ScsiCommand::default();
        if let Some((_, opcode, read, write)) = NAMED.iter().find(|(name, ..)| words.begin(name)) {
            let [a, b, c, d] = words.number_or::<u32>("lba", 0)?.to_be_bytes();
            let blocks = words.number_or::<u16>("blocks", 0)?;
            let [e, f] = blocks.to_be_bytes();
            command.cdb = padded(&[*opcode, 0, a, b, c, d, 0, e, f]);
            (command.read, command.write) = (*read, *write);
            command.expected_length = if *read || *write { u32::from(blocks) * 512 } else { 0 };
        } else if words.begin("SCSI Command") {
            command.cdb = padded(&hex(words.value("cdb").unwrap_or_default())?);
        } else {
            return Ok(None);
        }
        command.read |= words.flag("READ");
        command.write |= words.flag("WRITE");
        command.expected_length = words.number_or("len", command.expected_length)?;
        command.immediate = words.flag("I");
        // F is what almost every command has: the words say when it is missing.
        command.final_ = !words.flag("more-follows");
        for (name, attribute) in [
            ("UNTAGGED", TaskAttribute::Untagged),
            ("ORDERED", TaskAttribute::Ordered),
            ("HEAD", TaskAttribute::HeadOfQueue),
        ] {
            if words.flag(name) {
                command.attribute = attribute;
            }
        }
        (command.itt, command.lun) = (Itt(words.tag("itt")?), lun(words)?);
        command.data = content(base(&command.cdb), words.number_or("data", 0)?);
        command.exp_stat_sn = self.stat_sn;
        command.cmd_sn = self.number(words, command.immediate)?;
        Ok(Some(command))
    }

    fn data_out(&self, words: &mut Words<'_>) -> Result<Pdu, String> {
        let itt = Itt(words.tag("itt")?);
        let buffer_offset: u32 = words.number_or("offset", 0)?;
        let at = self.base(itt) + u64::from(buffer_offset);
        Ok(Pdu::DataOut(DataOut {
            final_: words.flag("F"),
            lun: lun(words)?,
            itt,
            ttt: Ttt(words.tag("ttt")?),
            exp_stat_sn: self.stat_sn,
            data_sn: words.number_or("datasn", 0)?,
            buffer_offset,
            data: content(at, words.number_or("data", 0)?),
        }))
    }

    fn function(&mut self, words: &mut Words<'_>, immediate: bool, itt: Itt) -> Result<Pdu, String> {
        let names = [
            ("ABORT TASK SET", tmf::ABORT_TASK_SET),
            ("ABORT TASK", tmf::ABORT_TASK),
            ("CLEAR TASK SET", tmf::CLEAR_TASK_SET),
            ("LOGICAL UNIT RESET", tmf::LOGICAL_UNIT_RESET),
            ("TARGET WARM RESET", tmf::TARGET_WARM_RESET),
            ("TASK REASSIGN", tmf::TASK_REASSIGN),
        ];
        let named = names.iter().find(|(name, _)| words.begin(name)).map(|(_, function)| *function);
        let function = named.ok_or("an unknown function")?;
        let referenced_itt = Itt(words.tag("reftask")?);
        let known = self.tasks.get(&referenced_itt).map_or(0, |command| command.cmd_sn.0);
        let ref_cmd_sn = CmdSn(words.number_or("refcmdsn", known)?);
        Ok(Pdu::TaskManagementRequest(TaskManagementRequest {
            immediate,
            function,
            lun: lun(words)?,
            itt,
            referenced_itt,
            cmd_sn: self.number(words, immediate)?,
            exp_stat_sn: self.stat_sn,
            ref_cmd_sn,
            exp_data_sn: 0,
        }))
    }

    /// What holds for every PDU that it gets (R95, R96, R112).
    pub(crate) fn judge(&mut self, pdu: &Pdu) -> Result<(), String> {
        let (stat_sn, exp, max) = pdu.target_numbers().ok_or("an initiator's PDU for the initiator")?;
        let (counts, ended) = match pdu {
            Pdu::DataIn(data) => (data.has_status, data.has_status),
            Pdu::ScsiResponse(_) => (true, true),
            Pdu::R2t(_) => (false, false),
            Pdu::NopIn(nop) => (nop.itt != Itt::NONE, false),
            _ => (true, false),
        };
        if counts {
            if self.recovers && stat_sn.is_before(self.stat_sn) {
                // It has that already; what it makes of it is the script's.
                return Ok(());
            }
            if stat_sn != self.stat_sn {
                return Err(format!("R112: StatSN is not {}: {pdu}", self.stat_sn));
            }
            self.stat_sn = stat_sn.next();
        }
        if exp.is_after(self.cmd_sn) {
            return Err(format!("R95: acknowledges what was never sent: {pdu}"));
        }
        if max.is_before(exp.minus(1)) || max.is_before(self.max_cmd_sn) {
            return Err(format!("R96: the window moves back: {pdu}"));
        }
        self.max_cmd_sn = max;
        if ended && self.tasks.remove(&pdu.itt()).is_none() {
            return Err(format!("answers what was not asked: {pdu}"));
        }
        Ok(())
    }
}
