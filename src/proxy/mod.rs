//! The tokio driver.

pub mod clock;
pub mod conn;
pub mod dial;
