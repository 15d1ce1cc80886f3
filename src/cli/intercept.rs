//! `braid intercept`: the rules that bring connections for targets' own addresses to a listener that intercepts.
//!
//! One nftables table, `inet braid`, replaced as a whole in one transaction; for TPROXY also a routing table of Braid's own
//! that takes packets with the next mark for local. Braid's own connections carry [`Config::mark`], which all rules let pass.

use super::exit::Failure;
use super::flags;
use crate::config::{Config, Intercept, Listen, Target};
use anyhow::{Context as _, anyhow};
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

/// Takes the table down, whether it is there or not.
const REMOVE: &str = "table inet braid\ndelete table inet braid\n";

/// Prints the rules, puts them up or takes them down.
///
/// # Errors
/// A configuration that is wrong or intercepts nothing; `nft` or `ip` that is missing or refuses.
pub fn intercept(asked: &flags::Intercept) -> Result<(), Failure> {
    let config = asked.settings.resolve()?;
    if asked.remove {
        nft(REMOVE)?;
        return Ok(clear_routes(config.mark + 1)?);
    }
    let rules = rules(&config).ok_or_else(|| {
        anyhow!(
            "nothing to intercept: no listener says so for the family of a target's portal; \
             write listen = [{{ address = \"127.0.0.1:3261\", intercept = \"redirect\" }}]"
        )
    })?;
    let routes = routes(&config);
    if asked.apply {
        clear_routes(config.mark + 1)?;
        routes.iter().try_for_each(|line| must("ip", line))?;
        return Ok(nft(&rules)?);
    }
    print!("{rules}");
    if !routes.is_empty() {
        println!("\n# And, because tproxy needs routes of its own:");
    }
    routes.iter().for_each(|line| println!("# ip {line}"));
    Ok(())
}

/// An address family with a listener that intercepts and portals to be intercepted.
struct Family<'c> {
    listen: &'c Listen,
    how: Intercept,
    /// What nftables calls it.
    word: &'static str,
    portals: Vec<SocketAddr>,
}

fn families(config: &Config) -> Vec<Family<'_>> {
    let family = |listen: &'_ Listen, how| {
        let v4 = listen.address.is_ipv4();
        let all = config.targets.iter().flat_map(Target::portals);
        let mut portals: Vec<_> = all.filter(|portal| portal.is_ipv4() == v4).collect();
        portals.sort_unstable();
        portals.dedup();
        (if v4 { "ip" } else { "ip6" }, how, portals)
    };
    let families = config.listen.iter().filter_map(|listen| {
        let (word, how, portals) = family(listen, listen.intercept?);
        (!portals.is_empty()).then_some(Family { listen, how, word, portals })
    });
    families.collect()
}

impl Family<'_> {
    /// Matches packets for the portals.
    fn matches(&self) -> String {
        let element = |portal: &SocketAddr| format!("{} . {}", portal.ip(), portal.port());
        let elements: Vec<_> = self.portals.iter().map(element).collect();
        format!("{} daddr . tcp dport {{ {} }}", self.word, elements.join(", "))
    }

    /// What brings them to the listener.
    fn verdict(&self, mark: u32) -> String {
        let address = self.listen.address;
        match self.how {
            Intercept::Redirect => format!("redirect to :{}", address.port()),
            Intercept::Tproxy => {
                let to = if address.ip().is_unspecified() {
                    format!(":{}", address.port())
                } else {
                    address.to_string()
                };
                format!("tproxy {} to {to} meta mark set {:#x} accept", self.word, mark + 1)
            }
        }
    }
}

/// The table for a configuration; none if it intercepts nothing.
#[must_use]
pub fn rules(config: &Config) -> Option<String> {
    let families = families(config);
    let mark = config.mark;
    let some = |how: Intercept, wide: bool, rule: &dyn Fn(&Family<'_>) -> String| -> Vec<String> {
        let chosen = families.iter().filter(|family| family.how == how);
        // To the loopback address only what begins on this machine can be redirected.
        let chosen = chosen
            .filter(|family| !wide || !family.listen.address.ip().is_loopback() || how == Intercept::Tproxy);
        chosen.map(|family| format!("{} {}", family.matches(), rule(family))).collect()
    };
    let chains = [
        chain(
            "redirect_own",
            "nat hook output priority -100",
            mark,
            &some(Intercept::Redirect, false, &|f| f.verdict(mark)),
        ),
        chain(
            "redirect_forwarded",
            "nat hook prerouting priority -100",
            mark,
            &some(Intercept::Redirect, true, &|f| f.verdict(mark)),
        ),
        chain(
            "tproxy_own",
            "route hook output priority -150",
            mark,
            &some(Intercept::Tproxy, false, &|_| format!("meta mark set {:#x}", mark + 1)),
        ),
        chain(
            "tproxy_all",
            "filter hook prerouting priority -150",
            mark,
            &some(Intercept::Tproxy, true, &|f| f.verdict(mark)),
        ),
    ];
    let chains = chains.concat();
    (!chains.is_empty()).then(|| format!("{REMOVE}table inet braid {{\n{chains}}}\n"))
}

/// A chain that lets Braid's own connections pass; nothing if there are no rules for it.
fn chain(name: &str, hook: &str, mark: u32, rules: &[String]) -> String {
    let mut text = String::new();
    if !rules.is_empty() {
        let begin = format!("type {hook}; policy accept;\n\t\tmeta mark {mark:#x} return");
        // Writing to a String cannot fail.
        writeln!(text, "\tchain {name} {{\n\t\t{begin}\n\t\t{}\n\t}}", rules.join("\n\t\t")).ok();
    }
    text
}

/// What has to be said to `ip` for TPROXY: packets that the rules have marked are for this machine.
#[must_use]
pub fn routes(config: &Config) -> Vec<String> {
    let families = families(config);
    let tproxy = families.iter().filter(|family| family.how == Intercept::Tproxy);
    let mark = config.mark + 1;
    tproxy.flat_map(|family| family_routes(family.listen.address.is_ipv4(), mark)).collect()
}

fn family_routes(v4: bool, mark: u32) -> [String; 2] {
    let option = if v4 { "-4" } else { "-6" };
    [
        format!("{option} rule add fwmark {mark:#x} lookup {mark}"),
        format!("{option} route replace local default dev lo table {mark}"),
    ]
}

/// Takes the routes of TPROXY down, as far as they are there.
fn clear_routes(mark: u32) -> anyhow::Result<()> {
    for option in ["-4", "-6"] {
        while call("ip", &format!("{option} rule del fwmark {mark:#x} lookup {mark}"), None)?.status.success()
        {
        }
        call("ip", &format!("{option} route flush table {mark}"), None)?;
    }
    Ok(())
}

fn nft(rules: &str) -> anyhow::Result<()> {
    judge("nft", &call("nft", "-f -", Some(rules))?)
}

fn must(program: &str, line: &str) -> anyhow::Result<()> {
    judge(program, &call(program, line, None)?).with_context(|| format!("{program} {line}"))
}

/// Runs a program to its end.
fn call(program: &str, line: &str, input: Option<&str>) -> anyhow::Result<Output> {
    let mut command = Command::new(program);
    command.args(line.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            return anyhow!(
                "{program} is not there; install nftables and iproute2, and have /usr/sbin in PATH"
            );
        }
        anyhow!("cannot run {program}: {error}")
    })?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes()).with_context(|| format!("{program} does not read"))?;
    }
    child.wait_with_output().with_context(|| format!("{program} cannot be waited for"))
}

fn judge(program: &str, output: &Output) -> anyhow::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("Operation not permitted") {
        return Err(anyhow!("{program} is not permitted to do this; run as root (CAP_NET_ADMIN)"));
    }
    Err(anyhow!("{program} failed: {}", said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: &str) -> Config {
        let text = format!(
            "listen = [{listen}]\n[[target]]\nname = \"iqn.a\"\npaths = [\"10.0.2.1\", \"10.0.1.1:860\", \"fd00::1\"]\n\
             [[target]]\nname = \"iqn.b\"\npaths = [\"10.0.2.1\", \"10.0.3.1\"]\n"
        );
        Config::from_toml(&text, "t").unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn redirect_on_this_machine() {
        let text = rules(&config("\"0.0.0.0\", { address = \"127.0.0.1:3261\", intercept = \"redirect\" }"));
        let expected = "\
table inet braid
delete table inet braid
table inet braid {
\tchain redirect_own {
\t\ttype nat hook output priority -100; policy accept;
\t\tmeta mark 0xb1d return
\t\tip daddr . tcp dport { 10.0.1.1 . 860, 10.0.2.1 . 3260, 10.0.3.1 . 3260 } redirect to :3261
\t}
}
";
        assert_eq!(text.unwrap(), expected);
    }

    #[test]
    fn redirect_of_what_is_forwarded_too() {
        let config = config(
            "{ address = \"0.0.0.0:3261\", intercept = \"redirect\" }, { address = \"[::]:3262\", intercept = \"redirect\" }",
        );
        let text = rules(&config).unwrap();
        for part in
            ["chain redirect_own", "chain redirect_forwarded {\n\t\ttype nat hook prerouting priority -100;"]
        {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let v6 = "ip6 daddr . tcp dport { fd00::1 . 3260 } redirect to :3262";
        assert_eq!(text.matches(v6).count(), 2, "{text}");
        assert!(routes(&config).is_empty());
    }

    #[test]
    fn tproxy_marks_what_begins_here_and_routes_it() {
        let config = config(
            "{ address = \"127.0.0.1:3261\", intercept = \"tproxy\" }, { address = \"[::]:3261\", intercept = \"tproxy\" }",
        );
        let text = rules(&config).unwrap();
        for part in [
            "chain tproxy_own {\n\t\ttype route hook output priority -150; policy accept;\n\t\tmeta mark 0xb1d return",
            "chain tproxy_all {\n\t\ttype filter hook prerouting priority -150;",
            "10.0.3.1 . 3260 } meta mark set 0xb1e\n",
            "10.0.3.1 . 3260 } tproxy ip to 127.0.0.1:3261 meta mark set 0xb1e accept\n",
            "{ fd00::1 . 3260 } tproxy ip6 to :3261 meta mark set 0xb1e accept\n",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        let expected = [
            "-4 rule add fwmark 0xb1e lookup 2846",
            "-4 route replace local default dev lo table 2846",
            "-6 rule add fwmark 0xb1e lookup 2846",
            "-6 route replace local default dev lo table 2846",
        ];
        assert_eq!(routes(&config), expected);
    }

    #[test]
    fn nothing_to_intercept() {
        assert_eq!(rules(&config("\"0.0.0.0\"")), None);
    }
}
