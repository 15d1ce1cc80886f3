//! Who a logical unit is: what it says of itself, and whether two that say so are the same.

use crate::scsi::inquiry::{Capacity, Identity, Inquiry};
use std::fmt;

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

    /// Whether there is a unit at all (SPC-5 section 6.7.2: qualifier 0, and a device type).
    pub(super) fn is_present(&self) -> bool {
        const NO_DEVICE: u8 = 0x1f;
        self.inquiry.as_ref().is_some_and(|i| i.qualifier == 0 && i.device_type != NO_DEVICE)
    }

    /// Whether it has a name that no other unit has.
    pub(super) fn is_named(&self) -> bool {
        self.names.as_ref().is_some_and(Identity::is_unique) || self.serial.is_some()
    }

    /// Why `other` is not provably the same unit, in words; its size is not looked at.
    pub(super) fn another(&self, other: &Self) -> Option<String> {
        if !self.is_named() {
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
            let text = |f: &Self| f.serial.clone().unwrap_or_else(|| "none".into());
            return Some(format!("serial numbers differ: home {}, here {}", text(self), text(other)));
        }
        self.differs_in_kind(other).then(|| "device type, vendor or product differ".into())
    }

    /// How the sizes differ, in words.
    pub(super) fn other_size(&self, other: &Self) -> Option<String> {
        let text = |c: Option<Capacity>| {
            c.map_or_else(|| "none".into(), |c| format!("{} blocks of {} bytes", c.blocks(), c.block_size))
        };
        let differs = self.capacity.is_none() || self.capacity != other.capacity;
        differs.then(|| {
            format!("capacities differ: home {}, here {}", text(self.capacity), text(other.capacity))
        })
    }

    fn differs_in_kind(&self, other: &Self) -> bool {
        let kind =
            |f: &Self| f.inquiry.as_ref().map(|i| (i.device_type, i.vendor.clone(), i.product.clone()));
        kind(self) != kind(other)
    }

    /// Whether home, asked again, has become another unit. Its capacity may change; and of a unit without a name, or
    /// none at all, nothing can be told.
    pub(super) fn replaced_by(&self, later: &Self) -> bool {
        self.is_named()
            && (self.names != later.names || self.serial != later.serial || self.differs_in_kind(later))
    }
}

impl fmt::Display for Facts {
    /// For people: names, serial number, vendor and product.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_present() {
            return f.write_str("no unit");
        }
        match &self.names {
            Some(names) => write!(f, "{names}")?,
            None => f.write_str("no name")?,
        }
        if let Some(serial) = &self.serial {
            write!(f, ", serial number {serial}")?;
        }
        self.inquiry.as_ref().map_or(Ok(()), |i| write!(f, " ({} {})", i.vendor, i.product))
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
        let differs =
            |other: &Facts| facts("a", 9).another(other).or_else(|| facts("a", 9).other_size(other));
        assert_eq!(differs(&facts("a", 9)), None);
        assert!(differs(&facts("b", 9)).is_some_and(|d| d.contains("serial")));
        assert!(differs(&facts("a", 8)).is_some_and(|d| d.contains("capacities")));
        let nameless = Facts { serial: None, ..facts("a", 9) };
        assert!(nameless.another(&nameless.clone()).is_some(), "nothing proves that the two are one");
    }

    #[test]
    fn what_is_there_says_so() {
        let said = |first: u8| Facts { inquiry: Inquiry::parse(&[first; 36]), ..facts("a", 9) };
        assert!(said(0x00).is_present() && said(0x0c).is_present());
        assert!(!said(0x7f).is_present() && !said(0x1f).is_present() && !said(0x20).is_present());
        assert_eq!(facts("a", 9).to_string(), "no unit");
        assert!(said(0).to_string().starts_with("no name, serial number a"));
    }
}
