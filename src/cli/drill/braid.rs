//! The Braid that a drill is about: one in this process, or a running one over its control socket. Both are asked and told the same.

use crate::admin::view;
use crate::cli::client::{NOTHING, answer, escaped};
use crate::cli::exit::Failure;
use crate::cli::flags::Running;
use crate::proxy::operator::{Operator, PathOrder};
use anyhow::anyhow;
use hyper::Method;
use std::time::Duration;

/// A Braid.
pub(super) enum Braid<'r> {
    /// In this process.
    Here(Operator),
    /// Another one.
    There(&'r Running),
}

impl Braid<'_> {
    /// How everything stands.
    pub(super) async fn status(&self) -> Result<view::Status, Failure> {
        match self {
            Self::Here(operator) => Ok(view::Status::of(operator).await),
            Self::There(running) => answer(running, Method::GET, "/v1/status", NOTHING).await,
        }
    }

    /// What happened after the event of this number.
    pub(super) async fn news(&self, after: u64) -> Result<view::News, Failure> {
        match self {
            Self::Here(operator) => Ok(operator.events().after(after).into()),
            Self::There(running) => {
                answer(running, Method::GET, &format!("/v1/events?after={after}"), NOTHING).await
            }
        }
    }

    /// Takes a path out, which Braid gives back by itself after `limit`.
    pub(super) async fn take_out(
        &self,
        (target, path): (&str, &str),
        order: PathOrder,
        force: bool,
        limit: Duration,
    ) -> Result<(), Failure> {
        match self {
            Self::Here(operator) => {
                let done = operator.order_for(target, path, order, force, Some(limit)).await;
                done.map(|_| ()).map_err(|refused| anyhow!(refused).into())
            }
            Self::There(running) => {
                let word = if order == PathOrder::Drain { "drain" } else { "fail" };
                let order = view::Order { force, for_seconds: Some(limit.as_secs_f64()), weight: None };
                tell(running, (target, path), word, &order).await
            }
        }
    }

    /// Gives a path back.
    pub(super) async fn give_back(&self, (target, path): (&str, &str)) -> Result<(), Failure> {
        match self {
            Self::Here(operator) => {
                let done = operator.order(target, path, PathOrder::Restore, false).await;
                done.map(|_| ()).map_err(|refused| anyhow!(refused).into())
            }
            Self::There(running) => tell(running, (target, path), "restore", &view::Order::default()).await,
        }
    }
}

async fn tell(
    running: &Running,
    (target, path): (&str, &str),
    word: &str,
    order: &view::Order,
) -> Result<(), Failure> {
    let uri = format!("/v1/targets/{}/paths/{}/{word}", escaped(target), escaped(path));
    let done: view::Done = answer(running, Method::POST, &uri, Some(order)).await?;
    tracing::debug!(target, path, word, sessions = done.sessions, "told");
    Ok(())
}
