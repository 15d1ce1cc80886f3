//! Serial numbers with wrap-around order (RFC 1982, RFC 7143 section 4.2.2.1).

macro_rules! serial {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
        pub struct $name(pub u32);

        impl $name {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.wrapping_add(1))
            }

            /// This number advanced by `n`.
            #[must_use]
            pub const fn plus(self, n: u32) -> Self {
                Self(self.0.wrapping_add(n))
            }

            /// This number moved back by `n`.
            #[must_use]
            pub const fn minus(self, n: u32) -> Self {
                Self(self.0.wrapping_sub(n))
            }

            /// How far `self` is ahead of `earlier`, modulo 2^32.
            #[must_use]
            pub const fn since(self, earlier: Self) -> u32 {
                self.0.wrapping_sub(earlier.0)
            }

            /// Whether `self` comes after `other` in serial order.
            #[must_use]
            pub const fn is_after(self, other: Self) -> bool {
                let ahead = self.0.wrapping_sub(other.0);
                ahead != 0 && ahead < 0x8000_0000
            }

            /// Whether `self` comes before `other` in serial order.
            #[must_use]
            pub const fn is_before(self, other: Self) -> bool {
                other.is_after(self)
            }

            /// The later of the two in serial order.
            #[must_use]
            pub const fn max(self, other: Self) -> Self {
                if other.is_after(self) { other } else { self }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

serial! {
    /// CmdSN, ExpCmdSN or MaxCmdSN: the session-wide order of commands.
    CmdSn
}
serial! {
    /// StatSN or ExpStatSN: the order of responses on one connection.
    StatSn
}

#[cfg(test)]
mod tests {
    use super::CmdSn;

    #[test]
    fn r91_order_survives_wrap_around() {
        let last = CmdSn(u32::MAX);
        assert_eq!(last.next(), CmdSn(0));
        assert!(last.next().is_after(last));
        assert!(last.is_before(last.next()));
        assert_eq!(last.next().since(last), 1);
        assert!(!last.is_after(last));
        assert_eq!(last.max(CmdSn(3)), CmdSn(3));
        assert_eq!(CmdSn(3).max(last), CmdSn(3));
    }

    #[test]
    fn opposite_numbers_have_no_order() {
        let a = CmdSn(0);
        let b = CmdSn(0x8000_0000);
        assert!(!a.is_after(b) && !b.is_after(a));
    }
}
