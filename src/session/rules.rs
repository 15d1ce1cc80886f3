//! The rules that a test may break, one at a time (feature `mutants`, `mutant.rs`). Without the feature there is nothing to
//! break: [`Rules`] is empty, and `broken!` is false.

#[cfg(feature = "mutants")]
use super::mutant::Mutant;

/// The engine's rules, all kept but for the one that is broken on purpose.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    #[cfg(feature = "mutants")]
    pub(super) broken: Option<Mutant>,
}

/// `broken!(rules, Name)`: whether [`Rules`] are broken by `Mutant::Name`.
#[cfg(feature = "mutants")]
macro_rules! broken {
    ($rules:expr, $mutant:ident) => {
        $rules.broken == Some($crate::session::mutant::Mutant::$mutant)
    };
}

#[cfg(not(feature = "mutants"))]
macro_rules! broken {
    ($rules:expr, $mutant:ident) => {
        $rules.never()
    };
}

#[cfg(not(feature = "mutants"))]
impl Rules {
    pub(super) const fn never(self) -> bool {
        false
    }

    pub(super) const fn overlooks(self, _earlier: &crate::scsi::Class, _later: &crate::scsi::Class) -> bool {
        false
    }

    pub(super) const fn fence(self, method: super::FenceMethod) -> super::FenceMethod {
        method
    }
}
