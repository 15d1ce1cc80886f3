//! Where connections are taken: plain addresses, and those that intercept.

use super::auth::network;
use super::draft::{Placed, Section, Value};
use super::keys::{Keys, checked};
use super::problem::Problem;
use super::schema::address;
use super::{Config, Intercept, Listen, Target, value};
use std::net::SocketAddr;

/// What is listened on if nothing is said.
pub(super) fn default() -> Vec<Listen> {
    value::address(Config::DEFAULT_LISTEN).into_iter().map(Listen::from).collect()
}

/// A listener: the address alone, or a table.
pub(super) fn read(item: &Placed, problems: &mut Vec<Problem>) -> Option<Listen> {
    let Value::Table(section) = &item.value else {
        return checked(item, "listen", problems, address).map(Listen::from);
    };
    let mut keys = Keys::new(section, "listen", problems);
    let address = keys.required("address", "write address = \"ADDRESS:PORT\"", address);
    let intercept = keys.optional("intercept", value::intercept);
    if let (Some(address), Some(how)) = (address, intercept)
        && !within_reach(address, how)
    {
        keys.problem(
            item.place.clone(),
            "address",
            "is out of reach of redirect; write \"0.0.0.0:PORT\" or \"[::]:PORT\" for this machine and those it forwards for, \
             \"127.0.0.1:PORT\" or \"[::1]:PORT\" for this machine alone",
        );
    }
    let balancers = keys
        .list("proxy_protocol", |item, problems| checked(item, "listen.proxy_protocol", problems, network));
    if intercept.is_some() && balancers.is_some() {
        keys.problem(
            item.place.clone(),
            "proxy_protocol",
            "and intercept cannot both be given: no balancer sends what is intercepted; give each a listener of its own",
        );
    }
    keys.reject_unknown();
    Some(Listen { address: address?, intercept, balancers: balancers.unwrap_or_default().into() })
}

/// REDIRECT chooses the local address itself.
fn within_reach(address: SocketAddr, how: Intercept) -> bool {
    let ip = address.ip();
    how == Intercept::Tproxy
        || ip.is_unspecified()
        || ip == std::net::Ipv4Addr::LOCALHOST
        || ip == std::net::Ipv6Addr::LOCALHOST
}

/// Checks the listeners against each other and against the targets, and hands the paths the mark if there is need of one.
pub(super) fn check(section: &Section, config: &mut Config, problems: &mut Vec<Problem>) {
    let mark = config.own_mark();
    for path in config.targets.iter_mut().flat_map(|target| &mut target.paths) {
        path.mark = mark;
    }
    let Some(typed) = section.get("listen") else { return };
    let mut problem = |message: String| {
        problems.push(Problem { place: typed.place.clone(), key: "listen".to_owned(), message });
    };
    for (index, listen) in config.listen.iter().enumerate() {
        let address = listen.address;
        let mut earlier = config.listen.iter().take(index);
        if earlier.clone().any(|earlier| earlier.address == address) {
            problem(format!("{address} is listed twice; remove one"));
        }
        let same = |other: &Listen| other.intercept.is_some() && other.address.is_ipv4() == address.is_ipv4();
        if listen.intercept.is_some() && earlier.any(same) {
            problem(format!("{address} is the second to intercept that address family; keep one of them"));
        }
        let mut portals = config.targets.iter().flat_map(|target| &target.paths).map(|path| path.portal);
        if listen.intercept == Some(Intercept::Tproxy)
            && portals.any(|portal| portal.port() == address.port())
        {
            problem(format!(
                "{address} has the port of a target's portal, by which tproxy knows what was meant for whom; take another port"
            ));
        }
    }
}

/// What of the configuration is not intercepted although something is.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.own_mark().is_none() {
        return warnings;
    }
    for portal in config.targets.iter().flat_map(Target::portals) {
        let mut interceptors = config.listen.iter().filter(|listen| listen.intercept.is_some());
        if !interceptors.any(|listen| listen.address.is_ipv4() == portal.is_ipv4()) {
            warnings.push(format!("listen: no listener intercepts connections to {portal}"));
        }
    }
    warnings
}
