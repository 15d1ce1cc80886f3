//! Changes of this machine's network, as the kernel tells them (rtnetlink(7)): a link gets its carrier, or an address
//! appears. A path that could not be reached may be reachable again, and is tried at once instead of when its turn comes.
//!
//! One watcher for the process. It counts; who wants to know of a change watches the count ([`Links::watch`]). Where the
//! kernel does not let Braid listen (some containers), paths are tried again by time alone, and a log line says so.

use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use std::collections::BTreeMap;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The watcher; dropping it ends it.
#[derive(Debug)]
pub(super) struct Links {
    /// How often something came up.
    came_up: watch::Receiver<u64>,
    _tasks: JoinSet<()>,
}

impl Links {
    /// Begins to listen.
    pub(super) fn listen() -> Self {
        let (changed, came_up) = watch::channel(0);
        let mut tasks = JoinSet::new();
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        match rtnetlink::new_multicast_connection(&groups) {
            Ok((connection, handle, mut messages)) => {
                tasks.spawn(connection);
                tasks.spawn(async move {
                    // Without it the connection would end.
                    let _handle = handle;
                    let mut carriers = Carriers::default();
                    while let Some((message, _)) = messages.next().await {
                        if let NetlinkPayload::InnerMessage(message) = message.payload
                            && carriers.come_up(&message)
                        {
                            changed.send_modify(|count| *count += 1);
                        }
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "changes of the network are not seen: lost paths are tried again by time alone");
                // Nothing will ever be told, and nobody is to take that for the end.
                tasks.spawn(async move {
                    changed.closed().await;
                });
            }
        }
        Self { came_up, _tasks: tasks }
    }

    /// Changes whenever something has come up.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        let mut watch = self.came_up.clone();
        watch.mark_unchanged();
        watch
    }
}

/// Which links have a carrier, by interface index, as far as they were told of.
#[derive(Debug, Default)]
struct Carriers(BTreeMap<u32, bool>);

impl Carriers {
    /// Whether a message says that something is there that was not. The kernel also tells of links in which nothing of
    /// interest has changed.
    fn come_up(&mut self, message: &RouteNetlinkMessage) -> bool {
        if let RouteNetlinkMessage::NewLink(link) = message {
            let up = has_carrier(link);
            return self.0.insert(link.header.index, up) != Some(up) && up;
        }
        if let RouteNetlinkMessage::DelLink(link) = message {
            self.0.remove(&link.header.index);
        }
        matches!(message, RouteNetlinkMessage::NewAddress(_))
    }
}

fn has_carrier(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::address::AddressMessage;

    fn link(index: u32, flags: LinkFlags) -> RouteNetlinkMessage {
        let mut link = LinkMessage::default();
        (link.header.index, link.header.flags) = (index, flags);
        RouteNetlinkMessage::NewLink(link)
    }

    #[test]
    fn only_what_was_not_there_before_comes_up() {
        let mut carriers = Carriers::default();
        let (up, no_carrier) = (LinkFlags::Up | LinkFlags::LowerUp, LinkFlags::Up);
        assert!(carriers.come_up(&link(2, up)));
        assert!(!carriers.come_up(&link(2, up)), "nothing has changed");
        assert!(!carriers.come_up(&link(2, no_carrier)));
        assert!(!carriers.come_up(&link(3, no_carrier)));
        assert!(carriers.come_up(&link(2, up)));
        assert!(carriers.come_up(&RouteNetlinkMessage::NewAddress(AddressMessage::default())));
        let RouteNetlinkMessage::NewLink(gone) = link(2, up) else { unreachable!() };
        assert!(!carriers.come_up(&RouteNetlinkMessage::DelLink(gone)));
        assert!(carriers.come_up(&link(2, up)));
    }
}
