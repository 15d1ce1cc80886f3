//! Links of the stage: relays in this process, or the kernel's own.

use crate::lab::cutter::{Cutter, Direction, LinkOptions};
use crate::lab::links::{Cut, Link, Shape};
use anyhow::{Context, Result, bail};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// A link, with what it is usually like.
#[derive(Debug)]
pub(super) enum Wire {
    /// A relay.
    Relay(Cutter, LinkOptions),
    /// The kernel's.
    Kernel(Link, Shape),
}

/// How a link is slower than usual, as far as it is said.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Slow {
    /// Bytes per second each way.
    pub(super) rate: Option<u64>,
    /// Each way.
    pub(super) delay: Option<Duration>,
    /// How much longer or shorter than that it takes.
    pub(super) jitter: Option<Duration>,
}

impl Wire {
    /// Where Braid finds the target over it.
    pub(super) fn portal(&self) -> SocketAddr {
        match self {
            Self::Relay(relay, _) => relay.address(),
            Self::Kernel(link, _) => link.portal(),
        }
    }

    /// Breaks it, until it is healed.
    ///
    /// # Errors
    /// It cannot be done to this link.
    pub(super) async fn cut(&self, how: Cut) -> Result<()> {
        let (relay, usual) = match self {
            Self::Kernel(link, _) => return by_kernel(link, move |link| link.cut(how)).await,
            Self::Relay(relay, usual) => (relay, *usual),
        };
        match how {
            Cut::Reset => relay.cut_reset().await,
            Cut::Drop => relay.cut_silent().await,
            Cut::DropIn => relay.cut_half(Direction::ToInitiator).await,
            Cut::DropOut => relay.cut_half(Direction::ToTarget).await,
            Cut::Loss(one_in) => {
                relay.set_options(LinkOptions { loses_one_in: Some(one_in), ..usual }).await;
            }
            Cut::Mute => bail!("a relay does not see packets"),
        }
        Ok(())
    }

    /// Mends what was broken, if anything was.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) async fn heal(&self) -> Result<()> {
        match self {
            Self::Kernel(link, _) => by_kernel(link, Link::heal).await,
            Self::Relay(relay, usual) => {
                relay.set_options(*usual).await;
                relay.heal().await;
                Ok(())
            }
        }
    }

    /// Makes it slow, until it is made as usual.
    ///
    /// # Errors
    /// The kernel cannot do it.
    pub(super) async fn slow(&self, slow: Slow) -> Result<()> {
        match self {
            Self::Kernel(link, usual) => {
                let shape = Shape {
                    rate: slow.rate.or(usual.rate),
                    delay: slow.delay.unwrap_or(usual.delay),
                    jitter: slow.jitter.unwrap_or_default(),
                };
                shaped(link, shape).await
            }
            Self::Relay(relay, usual) => {
                let (rate, delay) = (slow.rate.or(usual.rate), slow.delay.unwrap_or(usual.delay));
                relay.set_options(LinkOptions { rate, delay, ..*usual }).await;
                Ok(())
            }
        }
    }

    /// Makes it as usual again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) async fn as_usual(&self) -> Result<()> {
        match self {
            Self::Kernel(link, usual) => shaped(link, *usual).await,
            Self::Relay(relay, usual) => {
                relay.set_options(*usual).await;
                Ok(())
            }
        }
    }

    /// Takes its carrier away.
    ///
    /// # Errors
    /// It has none.
    pub(super) async fn unplug(&self) -> Result<()> {
        match self {
            Self::Kernel(link, _) => by_kernel(link, Link::unplug).await,
            Self::Relay(..) => bail!("a relay has no carrier"),
        }
    }

    /// Gives it back.
    ///
    /// # Errors
    /// It has none.
    pub(super) async fn plug(&self) -> Result<()> {
        match self {
            Self::Kernel(link, _) => by_kernel(link, Link::plug).await,
            Self::Relay(..) => bail!("a relay has no carrier"),
        }
    }
}

async fn shaped(link: &Link, shape: Shape) -> Result<()> {
    let done = by_kernel(link, move |link| link.shape(shape)).await;
    let module = if shape.delay.is_zero() { "sch_tbf" } else { "sch_netem" };
    done.with_context(|| format!("the kernel may lack the module {module} (modprobe {module}, as root)"))
}

/// Runs what takes some milliseconds in other programs, while everything else goes on.
async fn by_kernel(link: &Link, work: impl FnOnce(&Link) -> io::Result<()> + Send + 'static) -> Result<()> {
    let link = link.clone();
    Ok(tokio::task::spawn_blocking(move || work(&link)).await??)
}
