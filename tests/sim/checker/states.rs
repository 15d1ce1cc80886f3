//! How the engine says that paths stand, judged by the declared transitions, by the connections that there are, and by what
//! the operator has ordered.

use braid::session::{ConnId, Control, Notice, PathId, PathState, SessionPlan};

/// A path, as it was told last.
struct Path {
    state: PathState,
    /// The operator has taken it out.
    out: bool,
}

/// A connection, in full feature phase or not yet.
struct Conn {
    id: ConnId,
    path: PathId,
    logged_in: bool,
}

/// The states of the paths of one session.
pub(crate) struct States {
    paths: Vec<Path>,
    conns: Vec<Conn>,
    /// The session ends: nothing is told any more.
    over: bool,
}

impl States {
    pub(super) fn new(plan: &SessionPlan) -> Self {
        let paths = plan.paths.iter().map(|path| Path { state: PathState::Down, out: path.out });
        Self { paths: paths.collect(), conns: Vec::new(), over: false }
    }

    pub(super) fn opened(&mut self, id: ConnId, path: PathId) {
        self.conns.push(Conn { id, path, logged_in: false });
    }

    pub(super) fn connected(&mut self, id: ConnId) {
        self.conns.iter_mut().filter(|c| c.id == id).for_each(|c| c.logged_in = true);
    }

    pub(super) fn closed(&mut self, id: ConnId) {
        self.conns.retain(|c| c.id != id);
    }

    /// The operator wants something.
    pub(crate) fn ordered(&mut self, control: Control) {
        match control {
            Control::Drain(path) | Control::Fail(path) => self.paths[path.0].out = true,
            Control::Restore(path) => self.paths[path.0].out = false,
            Control::GiveUp | Control::Weigh(..) => {}
        }
    }

    /// The session ends.
    pub(crate) fn ends(&mut self) {
        self.over = true;
    }

    /// What the engine tells.
    pub(crate) fn noted(&mut self, notice: &Notice) {
        let Notice::PathState { path, from, to, trigger } = *notice else { return };
        let what = format!("path {} went from {from:?} to {to:?} by {trigger:?}", path.0);
        let known = &mut self.paths[path.0].state;
        assert!(!self.over, "state: {what}, after the end was told");
        assert!(*known == from && from != to, "state: {what}, and was {known:?}");
        assert!(from.after(trigger).contains(&to), "state: {what}, which is not declared");
        *known = to;
    }

    /// Whether all that was told fits, now that all was told.
    pub(crate) fn judge(&self) {
        for (index, Path { state, out }) in self.paths.iter().enumerate().filter(|_| !self.over) {
            let own = || self.conns.iter().filter(|c| c.path.0 == index);
            let fits = match state {
                PathState::Up | PathState::Marginal | PathState::Suspect => {
                    !out && own().any(|c| c.logged_in)
                }
                PathState::Draining => own().any(|c| c.logged_in),
                PathState::Probing => !out && own().any(|c| !c.logged_in),
                // What only fences makes no difference.
                PathState::Down => !out,
                PathState::Drained => *out,
            };
            let idle = matches!(state, PathState::Down | PathState::Drained);
            let fits = fits && (idle || own().next().is_some());
            assert!(fits, "state: path {index} was told to be {state:?}, and is not");
        }
    }
}

/// Something that must be found.
type Deed = fn(&mut States);

pub(super) fn trials() -> Vec<(&'static str, fn())> {
    vec![("states_that_fit_pass", fit), ("states_that_do_not_fit_are_found", do_not_fit)]
}

fn new() -> States {
    let path = || Path { state: PathState::Down, out: false };
    States { paths: vec![path(), path()], conns: Vec::new(), over: false }
}

mod told {
    use super::{Notice, PathId, PathState};
    use braid::session::Trigger;
    use braid::session::Trigger::{Connected, Lost, Ordered, Restored, Tried};

    fn path(from: PathState, trigger: Trigger, to: PathState) -> Notice {
        Notice::PathState { path: PathId(1), from, to, trigger }
    }

    pub(super) fn tried() -> Notice {
        path(PathState::Down, Tried, PathState::Probing)
    }

    pub(super) fn up() -> Notice {
        path(PathState::Probing, Connected, PathState::Up)
    }

    pub(super) fn up_from_nothing() -> Notice {
        path(PathState::Down, Connected, PathState::Up)
    }

    pub(super) fn lost() -> Notice {
        path(PathState::Up, Lost, PathState::Down)
    }

    pub(super) fn drained() -> Notice {
        path(PathState::Down, Ordered, PathState::Drained)
    }

    pub(super) fn tried_though_drained() -> Notice {
        path(PathState::Drained, Tried, PathState::Probing)
    }

    pub(super) fn restored() -> Notice {
        path(PathState::Drained, Restored, PathState::Down)
    }
}

/// A path, from its first probe on.
fn fit() {
    let mut states = new();
    let conn = ConnId(3);
    states.opened(conn, PathId(1));
    states.noted(&told::tried());
    states.judge();
    states.connected(conn);
    states.noted(&told::up());
    states.judge();
    states.closed(conn);
    states.noted(&told::lost());
    states.judge();
    states.ordered(Control::Drain(PathId(1)));
    states.noted(&told::drained());
    states.judge();
    states.ordered(Control::Restore(PathId(1)));
    states.noted(&told::restored());
    states.judge();
}

fn do_not_fit() {
    let wrong: [(&str, Deed); 6] = [
        ("not declared", |s| s.noted(&told::up_from_nothing())),
        ("not declared", |s| {
            s.ordered(Control::Drain(PathId(1)));
            s.noted(&told::drained());
            s.noted(&told::tried_though_drained());
        }),
        ("and was Down", |s| s.noted(&told::up())),
        ("is not", |s| s.noted(&told::tried())),
        ("is not", |s| s.ordered(Control::Fail(PathId(0)))),
        ("after the end", |s| {
            s.ends();
            s.noted(&told::tried());
        }),
    ];
    for (at, (complaint, deed)) in wrong.into_iter().enumerate() {
        let found = std::panic::catch_unwind(|| {
            let mut states = new();
            deed(&mut states);
            states.judge();
        });
        let what = found.expect_err("it fits, and should not");
        let what = what.downcast_ref::<String>().expect("a panic with words");
        assert!(what.contains(complaint), "{at}: {what}");
    }
}
