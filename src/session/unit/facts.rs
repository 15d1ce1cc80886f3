//! Who a logical unit is: what it says of itself, and whether two that say so are the same.

use crate::scsi::inquiry::{Capacity, Identity, Inquiry};

/// What a logical unit says of itself.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) inquiry: Option<Inquiry>,
    pub(super) names: Option<Identity>,
    pub(super) serial: Option<String>,
    pub(super) capacity: Option<Capacity>,
}

impl Facts {
    pub(super) fn vendor(&self) -> Option<&str> {
        self.inquiry.as_ref().map(|inquiry| inquiry.vendor.as_str())
    }

    /// What differs, in words; none if the two are provably the same unit.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        let named = self.names.as_ref().is_some_and(Identity::is_unique);
        if !named && self.serial.is_none() {
            return Some(
                "the unit has neither a unique designator (VPD 83h) nor a serial number (VPD 80h)".into(),
            );
        }
        if self.names != other.names {
            let text = |n: &Option<Identity>| n.as_ref().map_or_else(|| "none".into(), ToString::to_string);
            return Some(format!(
                "designators differ: home {}, here {}",
                text(&self.names),
                text(&other.names)
            ));
        }
        if self.serial != other.serial {
            return Some(format!("serial numbers differ: home {:?}, here {:?}", self.serial, other.serial));
        }
        if self.capacity.is_none() || self.capacity != other.capacity {
            return Some(format!("capacities differ: home {:?}, here {:?}", self.capacity, other.capacity));
        }
        self.differs_in_kind(other).then(|| "device type, vendor or product differ".into())
    }

    fn differs_in_kind(&self, other: &Self) -> bool {
        let kind =
            |f: &Self| f.inquiry.as_ref().map(|i| (i.device_type, i.vendor.clone(), i.product.clone()));
        kind(self) != kind(other)
    }

    /// Whether home, asked again, has become another unit. Its capacity may change; and of a unit without a name, or
    /// none at all, nothing can be told.
    pub(super) fn replaced_by(&self, later: &Self) -> bool {
        let named = self.names.as_ref().is_some_and(Identity::is_unique) || self.serial.is_some();
        named && (self.names != later.names || self.serial != later.serial || self.differs_in_kind(later))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(serial: &str, last_lba: u64) -> Facts {
        Facts {
            inquiry: None,
            names: None,
            serial: Some(serial.into()),
            capacity: Some(Capacity { last_lba, block_size: 512 }),
        }
    }

    #[test]
    fn equal_only_if_everything_is() {
        assert_eq!(facts("a", 9).difference(&facts("a", 9)), None);
        assert!(facts("a", 9).difference(&facts("b", 9)).is_some_and(|d| d.contains("serial")));
        assert!(facts("a", 9).difference(&facts("a", 8)).is_some_and(|d| d.contains("capacities")));
        let nameless = Facts { serial: None, ..facts("a", 9) };
        assert!(nameless.difference(&nameless.clone()).is_some(), "nothing proves that the two are one");
    }
}
