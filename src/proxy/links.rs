//! Changes of this machine's network, as the kernel tells them (rtnetlink(7)): a link gets its carrier, or an address
//! appears. A path that could not be reached may be reachable again, and is tried at once instead of when its turn comes. A
//! link loses its carrier: what goes out by it, as far as its addresses tell, is suspect at once.
//!
//! One watcher for the process. Who wants to know of a change watches what it has come to ([`Links::watch`]). Where the
//! kernel does not let Braid listen (some containers), paths are tried again by time alone, and a log line says so.

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use std::collections::BTreeMap;
use std::net::IpAddr;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the kernel has told so far.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Network {
    /// How often something came up.
    pub(super) came_up: u64,
    /// Links that have lost their carrier, by interface index, with the addresses that they had.
    dark: BTreeMap<u32, Vec<IpAddr>>,
}

impl Network {
    /// Whether what goes out from a local address finds no carrier.
    pub(super) fn is_dark(&self, local: IpAddr) -> bool {
        self.dark.values().flatten().any(|address| *address == local)
    }

    /// Takes note of a link.
    fn tell(&mut self, told: Told, addresses: Vec<IpAddr>) {
        match told {
            Told::CameUp(link) => {
                self.came_up += 1;
                link.map(|link| self.dark.remove(&link));
            }
            Told::Lost(link) => drop(self.dark.insert(link, addresses)),
            Told::Gone(link) => drop(self.dark.remove(&link)),
        }
    }
}

/// The watcher; dropping it ends it.
#[derive(Debug)]
pub(super) struct Links {
    network: watch::Receiver<Network>,
    _tasks: JoinSet<()>,
}

impl Links {
    /// Begins to listen.
    pub(super) fn listen() -> Self {
        let (changed, network) = watch::channel(Network::default());
        let mut tasks = JoinSet::new();
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        match rtnetlink::new_multicast_connection(&groups) {
            Ok((connection, handle, mut messages)) => {
                tasks.spawn(connection);
                tasks.spawn(async move {
                    let mut carriers = Carriers::default();
                    while let Some((message, _)) = messages.next().await {
                        if let NetlinkPayload::InnerMessage(message) = message.payload
                            && let Some(told) = carriers.take(&message)
                        {
                            let addresses = match told {
                                Told::Lost(link) => addresses_of(&handle, link).await,
                                Told::CameUp(_) | Told::Gone(_) => Vec::new(),
                            };
                            changed.send_modify(|network| network.tell(told, addresses));
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
        Self { network, _tasks: tasks }
    }

    /// Changes whenever something is told.
    pub(super) fn watch(&self) -> watch::Receiver<Network> {
        let mut watch = self.network.clone();
        watch.mark_unchanged();
        watch
    }
}

/// The addresses of a link; none if the kernel does not say.
async fn addresses_of(handle: &Handle, link: u32) -> Vec<IpAddr> {
    let told = handle.address().get().set_link_index_filter(link).execute();
    let all: Vec<_> = told.try_collect().await.unwrap_or_default();
    let own = all.iter().filter(|message| message.header.index == link);
    let address = |attribute: &AddressAttribute| {
        if let AddressAttribute::Local(address) | AddressAttribute::Address(address) = attribute {
            return Some(*address);
        }
        None
    };
    own.flat_map(|message| message.attributes.iter().filter_map(address)).collect()
}

/// What a message says that is new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// A link has its carrier, or an address is there.
    CameUp(Option<u32>),
    /// A link has lost its carrier.
    Lost(u32),
    /// There is no such link any more.
    Gone(u32),
}

/// Which links have a carrier, by interface index, as far as they were told of.
#[derive(Debug, Default)]
struct Carriers(BTreeMap<u32, bool>);

impl Carriers {
    /// What a message says that was otherwise before. The kernel also tells of links in which nothing of interest has changed.
    fn take(&mut self, message: &RouteNetlinkMessage) -> Option<Told> {
        if let RouteNetlinkMessage::NewLink(link) = message {
            let (index, up) = (link.header.index, has_carrier(link));
            let changed = self.0.insert(index, up) != Some(up);
            return changed.then_some(if up { Told::CameUp(Some(index)) } else { Told::Lost(index) });
        }
        if let RouteNetlinkMessage::DelLink(link) = message {
            self.0.remove(&link.header.index);
            return Some(Told::Gone(link.header.index));
        }
        matches!(message, RouteNetlinkMessage::NewAddress(_)).then_some(Told::CameUp(None))
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
    fn only_what_was_otherwise_before_is_told() {
        let mut carriers = Carriers::default();
        let (up, no_carrier) = (LinkFlags::Up | LinkFlags::LowerUp, LinkFlags::Up);
        assert_eq!(carriers.take(&link(2, up)), Some(Told::CameUp(Some(2))));
        assert_eq!(carriers.take(&link(2, up)), None, "nothing has changed");
        assert_eq!(carriers.take(&link(2, no_carrier)), Some(Told::Lost(2)));
        assert_eq!(carriers.take(&link(2, no_carrier)), None);
        assert_eq!(carriers.take(&link(3, no_carrier)), Some(Told::Lost(3)), "for all that is known");
        assert_eq!(carriers.take(&link(2, up)), Some(Told::CameUp(Some(2))));
        let address = RouteNetlinkMessage::NewAddress(AddressMessage::default());
        assert_eq!(carriers.take(&address), Some(Told::CameUp(None)));
        let RouteNetlinkMessage::NewLink(gone) = link(2, up) else { unreachable!() };
        assert_eq!(carriers.take(&RouteNetlinkMessage::DelLink(gone)), Some(Told::Gone(2)));
        assert_eq!(carriers.take(&link(2, up)), Some(Told::CameUp(Some(2))));
    }

    #[test]
    fn addresses_are_dark_while_their_link_is() {
        let (ours, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 1, 1].into());
        let mut network = Network::default();
        network.tell(Told::Lost(2), vec![ours]);
        assert!(network.is_dark(ours) && !network.is_dark(other));
        network.tell(Told::CameUp(Some(3)), Vec::new());
        assert!(network.is_dark(ours));
        network.tell(Told::CameUp(Some(2)), Vec::new());
        assert!(!network.is_dark(ours));
        assert_eq!(network.came_up, 2);
        network.tell(Told::Lost(2), vec![ours]);
        network.tell(Told::Gone(2), Vec::new());
        assert!(!network.is_dark(ours), "nothing is kept of links that are gone");
    }
}
