//! Persistent registrations of one unit on many nexuses (SPC-4 section 5.13).
//!
//! When the initiator registers home with a key, every further nexus is registered with the same key: a **replica**. The
//! initiator's answer waits for that, for a few seconds at most. What is changed on home later is changed on the replicas.
//!
//! # What must never be
//! A replica that is registered while home is not may write where home could not: the one thing that fencing by another
//! initiator is to prevent. (A replica that is *not* registered can do no more than home: what it may not do ends with a
//! conflict, and runs again on home.) So a further nexus carries I/O of the unit only
//! - as a **member**: registered with home's key, and home was registered with that key at some time *after* that; or
//! - while home is not registered, if it is known not to be either.
//!
//! A flush of Braid's own ([`crate::session::caches`]) is no I/O of the initiator's, but it waits while anything is under way
//! here, so that it does not go where home's would be refused either.
//!
//! That is enough. Whatever another initiator does to take home's registration away takes away all registrations with
//! home's key (PREEMPT), or all but its own (CLEAR, PREEMPT of all registrants), in one step: from the moment at which both were
//! registered on, no member is left behind. A nexus that joins too late is found out, because home, asked after the nexus had
//! registered, is no longer registered itself. How a nexus that joins is **verified** is by asking home to register
//! once more, its own key over its own key ([`Request::register_over`]): the target does that only for a nexus that is
//! registered with just this key, and it changes nothing. (READ KEYS would show how many registrations have the key, not
//! whose they are, and other initiators may use the same.) So may what is doubtful of home's own registration be asked,
//! after it was lost and reinstated too, on every target.
//!
//! The initiator's own PERSISTENT RESERVE OUT is a barrier, and neither it nor its questions for registrations are sent while
//! a command of Braid's own is under way here, nor the other way round: nothing of this meets half of the other.
//!
//! # What is unknown
//! After a PERSISTENT RESERVE OUT without an answer, or one whose effect is not foreseen, after a sign that another
//! initiator interfered, and if there are registrations that this session did not make, the unit stays on home until home
//! has been asked: by its key if that can only be one of few, else by READ FULL STATUS. Where a target does not have
//! that, the unit stays on home. A REGISTER of Braid's own that was lost with its nexus may execute later: the nexus waits for
//! its fence.
//!
//! # Limits
//! - Most targets' own behaviour would show that there are replicas: there a registered unit stays on home
//!   ([`super::Unit`]).
//! - PRGENERATION counts the replicas' registrations too, and so other initiators and this one see it grow by more than one.
//! - The value of APTPL is the initiator's last. Another initiator that changes it later is overruled by the next replica.
//! - A target that keeps registrations of sessions that are gone, and does not give them back, keeps those of replicas too.
//!   They are hidden from the initiator, as living ones are; others see them.

use crate::iscsi::ScsiResponse;
use crate::scsi::Class;
use crate::scsi::reservation::{Leaves, Request, action};
use crate::scsi::sense::status;
use crate::session::nexus::NexusId;
use crate::session::rules::Rules;
use crate::session::tasks::TaskKey;
use std::collections::BTreeMap;
use std::time::Instant;

/// Keys that may be home's, and registrations that were left behind: no more are remembered.
pub(super) const MOST_KEYS: usize = 64;
/// What is known of home's registration.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing yet; as long as no further nexus is asked, it does not matter.
    #[default]
    Unasked,
    /// Home is not registered.
    Free,
    Registered(u64),
    /// It may be registered with one of these keys, or with none; unless `complete`, with another one too.
    Unknown {
        keys: Vec<u64>,
        complete: bool,
    },
    /// As unknown, and the target cannot tell.
    Untold,
}

/// What is known of a further nexus' registration.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Unknown,
    Clear,
    /// Registered with this key; whether home was, after that, is still to be asked.
    Registered(u64),
    Member(u64),
    /// The target did not do what home's standing asks for.
    Refused,
}

#[derive(Debug, Default)]
pub(super) struct Replica {
    pub(super) state: State,
    /// The key that the target may have for it.
    pub(super) key: Option<u64>,
    /// The one that is being registered.
    pub(super) pending: Option<u64>,
    /// It has not answered for too long: nothing is asked of it until it does.
    pub(super) overdue: bool,
    /// The key was registered before its nexus was lost, or its LUNs changed.
    pub(super) inherited: bool,
    /// One that the target no longer takes for its own.
    pub(super) disowned: Option<u64>,
    /// Ghost of a command of Braid's own that may still change it.
    pub(super) ghost: Option<u64>,
}

/// What is under way on behalf of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// READ KEYS, REPORT CAPABILITIES, READ FULL STATUS on home.
    Keys,
    Capabilities,
    FullStatus,
    /// Home is asked whether it is registered with this key.
    Touch(u64),
    /// These nexuses are being registered, or the other way round.
    Replicas(Vec<NexusId>),
}

/// Registrations of one unit.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    pub(super) standing: Standing,
    pub(super) aptpl: bool,
    /// Type of the reservation that home holds, as far as is known. Only a hint: what it lets go to a nexus where it conflicts
    /// runs again on home.
    pub(super) holds: Option<u8>,
    pub(super) replicas: BTreeMap<NexusId, Replica>,
    /// Registrations that nexuses left behind at a target that does not give them back.
    pub(super) orphans: Vec<u64>,
    pub(super) work: Option<Work>,
    /// When that was sent.
    pub(super) asked_at: Option<Instant>,
    pub(super) repeats: u32,
    /// Commands of the initiator wait for it.
    pub(super) holds_back: bool,
    /// Something happened while home was asked: it is asked again.
    pub(super) suspect: bool,
    /// Ghost of a command of the initiator's that may still change what home is.
    pub(super) ghost: Option<u64>,
    /// The initiator's command whose answer waits (with its place in the order of arrival), and since when.
    pub(super) answer: Option<(TaskKey, u64, Instant)>,
    /// Home is back, and does not settle before it is known whether its registration is too.
    pub(super) recalling: bool,
    /// What it held then.
    pub(super) held_at_loss: Option<u8>,
    /// The initiator has been told of this loss.
    pub(super) loss_told: bool,
}

impl Registrations {
    /// Whether a further nexus may carry commands of a class.
    pub(super) fn allow(&self, nexus: NexusId, class: &Class, rules: Rules) -> bool {
        let state = self.replicas.get(&nexus).map_or(State::Unknown, |r| r.state);
        match self.standing {
            Standing::Free => state == State::Clear || broken!(rules, ReplicasLeft),
            Standing::Registered(key) => match self.holds.map_or(Leaves::All, Leaves::of) {
                Leaves::All => state == State::Member(key),
                Leaves::Reads => class.only_reads() && matches!(state, State::Member(_) | State::Clear),
                Leaves::Nothing => false,
            },
            Standing::Unasked | Standing::Unknown { .. } | Standing::Untold => false,
        }
    }

    /// Whether commands of a class stay on home, whatever becomes of the replicas.
    pub(super) fn bind(&self, class: &Class, replicates: bool) -> bool {
        match self.standing {
            Standing::Unasked | Standing::Free => false,
            Standing::Registered(_) => match self.holds.map_or(Leaves::All, Leaves::of) {
                Leaves::All => !replicates,
                Leaves::Reads => !class.only_reads(),
                Leaves::Nothing => true,
            },
            Standing::Unknown { .. } | Standing::Untold => true,
        }
    }

    /// Whether home may be registered, by what it was told.
    pub(super) fn may_be_lost(&self) -> bool {
        match &self.standing {
            Standing::Registered(_) => true,
            Standing::Unknown { keys, .. } => !keys.is_empty(),
            Standing::Unasked | Standing::Free | Standing::Untold => false,
        }
    }

    /// Nothing is to be done, whatever comes up.
    pub(super) fn is_quiet(&self) -> bool {
        let served = |state| match self.standing {
            Standing::Free => state == State::Clear,
            Standing::Registered(key) => state == State::Member(key),
            Standing::Unasked | Standing::Untold => true,
            Standing::Unknown { .. } => false,
        };
        let waits = self.answer.is_some() || self.recalling || self.work.is_some() || self.holds_back;
        !waits
            && !matches!(self.standing, Standing::Unknown { .. })
            && self.replicas.values().all(|r| served(r.state))
    }

    /// Keys that the target may have for replicas.
    pub(super) fn hidden(&self) -> Vec<u64> {
        let at_target = |r: &Replica| r.pending.or(r.key);
        self.replicas.values().filter_map(at_target).chain(self.orphans.iter().copied()).collect()
    }

    /// Home's key, if it has one.
    pub(super) fn key(&self) -> Option<u64> {
        match self.standing {
            Standing::Registered(key) => Some(key),
            Standing::Unasked | Standing::Free | Standing::Unknown { .. } | Standing::Untold => None,
        }
    }

    /// Keys that home may have.
    pub(super) fn keys(&self) -> Vec<u64> {
        match &self.standing {
            Standing::Registered(key) => vec![*key],
            Standing::Unknown { keys, .. } => keys.clone(),
            Standing::Unasked | Standing::Free | Standing::Untold => Vec::new(),
        }
    }

    pub(super) fn stand(&mut self, standing: Standing) {
        if self.standing != standing {
            let refused = self.replicas.values_mut().filter(|r| r.state == State::Refused);
            refused.for_each(|r| r.state = State::Unknown);
        }
        if standing == Standing::Free {
            self.holds = None;
        }
        self.standing = standing;
    }

    /// Home may have another of these keys now, too.
    pub(super) fn doubt(&mut self, more: Option<u64>) {
        let complete = match self.standing {
            Standing::Free | Standing::Registered(_) => true,
            Standing::Unknown { complete, .. } => complete,
            Standing::Unasked | Standing::Untold => false,
        };
        let mut keys = self.keys();
        keys.extend(more.filter(|key| *key != 0 && !keys.contains(key)));
        let complete = complete && keys.len() <= MOST_KEYS;
        keys.truncate(MOST_KEYS);
        self.stand(Standing::Unknown { keys, complete });
        self.replicas_doubted();
    }

    /// Replicas may be registered no longer.
    fn replicas_doubted(&mut self) {
        let registered = |r: &&mut Replica| matches!(r.state, State::Registered(_) | State::Member(_));
        self.replicas.values_mut().filter(registered).for_each(|r| r.state = State::Unknown);
    }

    /// All registrations with this key are gone.
    fn vanished(&mut self, key: u64) {
        self.orphans.retain(|k| *k != key);
        for replica in self.replicas.values_mut().filter(|r| r.key == Some(key)) {
            (replica.state, replica.key) = (State::Unknown, None);
        }
    }

    /// Nobody is registered.
    pub(super) fn all_vanished(&mut self) {
        self.orphans.clear();
        for replica in self.replicas.values_mut().filter(|r| r.ghost.is_none()) {
            (replica.state, replica.key) = (State::Clear, None);
        }
        self.stand(Standing::Free);
    }

    /// Home did what the initiator asked for.
    pub(super) fn changed_by(&mut self, request: &Request) {
        match request.action {
            action::REGISTER | action::REGISTER_AND_IGNORE => {
                self.aptpl = request.aptpl;
                if request.action != action::REGISTER || self.key() != Some(request.key) {
                    // It may not have been registered before, and then the replicas are not either.
                    self.replicas_doubted();
                }
                let key = Some(request.service_key).filter(|key| *key != 0);
                self.stand(key.map_or(Standing::Free, Standing::Registered));
            }
            action::RESERVE => self.holds = Some(request.kind),
            action::RELEASE => self.holds = None,
            action::CLEAR => self.all_vanished(),
            action::PREEMPT | action::PREEMPT_AND_ABORT => {
                self.holds = Some(request.kind);
                let all = request.service_key == 0;
                let keys: Vec<u64> = if all { self.hidden() } else { vec![request.service_key] };
                keys.into_iter().for_each(|key| self.vanished(key));
            }
            // MOVE may take home's registration away; what becomes of it otherwise is not foreseen.
            action::REGISTER_AND_MOVE => self.doubt(None),
            _ => {
                self.standing = Standing::Untold;
                self.doubt(None);
            }
        }
    }
}

impl Registrations {
    /// Home was asked whether it is registered with this key.
    pub(super) fn touched(&mut self, key: u64, response: &ScsiResponse, rules: Rules) {
        let unanswered = response.response != 0;
        let overlooked = broken!(rules, PreemptionOverlooked);
        match response.status {
            status::RESERVATION_CONFLICT if !unanswered && !overlooked => {
                self.vanished(key);
                let mut keys = self.keys();
                keys.retain(|k| *k != key);
                self.stand(Standing::Unknown { keys, complete: true });
            }
            status::GOOD | status::RESERVATION_CONFLICT if !unanswered => {
                for replica in self.replicas.values_mut().filter(|r| r.state == State::Registered(key)) {
                    replica.state = State::Member(key);
                }
                self.stand(Standing::Registered(key));
            }
            _ => {
                let unsure = self.replicas.values_mut().filter(|r| r.state == State::Registered(key));
                unsure.for_each(|r| r.state = State::Refused);
                if matches!(self.standing, Standing::Unknown { .. }) {
                    self.stand(Standing::Untold);
                }
            }
        }
    }
}
