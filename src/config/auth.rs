//! Who may log in, and with which secrets: the keys `allow`, `chap`, `upstream_chap`, and the rules for secrets.
//!
//! A secret never stands in the configuration itself, and so in no flag: it is read from a file (`secret_file`) or from a
//! systemd credential (`secret_credential`, in `$CREDENTIALS_DIRECTORY`), without the line end behind it.
//!
//! Rules (RFC 7143 section 9.2.1): at least 96 bits (R86); a secret that proves an initiator proves no target, whichever
//! side Braid is on, and Braid's two roles have different names (R88). One secret in several places of the same kind is
//! legal: a host keeps its own when Braid is put before its target.

use super::draft::{Placed, Section, Value};
use super::keys::Keys;
use super::problem::{Place, Problem};
use super::value::{self, Read};
use super::{Allow, Chap, Config};
use crate::login::chap::{Account, Accounts, Credentials, Secret};
use ipnet::IpNet;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Longest secret, in bytes: what is longer is the wrong file.
const LONGEST: usize = 1024;

/// How to make a good secret: as long as the shortest-sighted initiators take.
const RECIPE: &str = "openssl rand -base64 12";

/// Names and addresses that are let in.
pub(super) fn allow(keys: &mut Keys<'_>) -> Allow {
    keys.table("allow", |keys| Allow {
        names: keys
            .list("names", |item, problems| read(item, "names", problems, pattern))
            .unwrap_or_default(),
        addresses: keys
            .list("addresses", |item, problems| read(item, "addresses", problems, network))
            .unwrap_or_default(),
    })
}

/// How initiators prove themselves: `"none"`, `"relay"`, or a table of accounts.
pub(super) fn chap(keys: &mut Keys<'_>, may_relay: bool) -> Chap {
    let Some(placed) = keys.placed("chap").cloned() else { return Chap::None };
    match &placed.value {
        Value::Text(word) if word == "none" => Chap::None,
        Value::Text(word) if word == "relay" && may_relay => Chap::Relay,
        Value::Table(section) => {
            let accounts = keys.inner("chap", section, accounts);
            accounts.map_or(Chap::None, |accounts| Chap::Terminate(Arc::new(accounts)))
        }
        Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::List(_) | Value::Other(_) => {
            let relay = if may_relay { "\"relay\", " } else { "" };
            let message = format!(
                "must be \"none\", {relay}or a table such as chap = {{ initiators = [{{ name = \"host7\", secret_file = \"/etc/braid/host7\" }}] }}"
            );
            keys.problem(placed.place.clone(), "chap", &message);
            Chap::None
        }
    }
}

fn accounts(keys: &mut Keys<'_>) -> Option<Accounts> {
    let place = keys.place();
    let initiators = keys.list("initiators", |item, problems| account_of(item, "chap.initiators", problems));
    if initiators.is_none() {
        keys.missing(
            "initiators",
            "is missing; write the accounts of initiators, such as initiators = [{ name = \"host7\", secret_file = \"/etc/braid/host7\" }]",
        );
    }
    let initiators = initiators?;
    for (index, account) in initiators.iter().enumerate() {
        if initiators.iter().take(index).any(|earlier| earlier.name == account.name) {
            keys.problem(
                place.clone(),
                "initiators",
                &format!("\"{}\" is given twice; remove one", account.name),
            );
        }
    }
    Some(Accounts { initiators, own: own_account(keys) })
}

/// Braid's credentials at the target.
pub(super) fn credentials(keys: &mut Keys<'_>, key: &'static str) -> Option<Arc<Credentials>> {
    let placed = keys.placed(key).cloned()?;
    let Value::Table(section) = &placed.value else {
        let message = format!(
            "must be a table such as {key} = {{ name = \"braid\", secret_file = \"/etc/braid/upstream\" }}"
        );
        keys.problem(placed.place, key, &message);
        return None;
    };
    keys.inner(key, section, |keys| {
        let own = account(keys);
        let peer = own_account(keys);
        own.map(|own| Arc::new(Credentials { own, peer }))
    })
}

/// The account with which the target's side proves itself, if it does.
fn own_account(keys: &mut Keys<'_>) -> Option<Account> {
    let placed = keys.placed("target").cloned()?;
    let Value::Table(section) = &placed.value else {
        keys.problem(
            placed.place,
            "target",
            "must be a table such as { name = \"disk\", secret_file = \"/etc/braid/disk\" }",
        );
        return None;
    };
    keys.inner("target", section, account)
}

fn account_of(item: &Placed, table: &str, problems: &mut Vec<Problem>) -> Option<Account> {
    let Value::Table(section) = &item.value else {
        let message = format!(
            "is {}, must be a table such as {{ name = \"host7\", secret_file = \"/etc/braid/host7\" }}",
            item.value.kind()
        );
        problems.push(Problem { place: item.place.clone(), key: table.to_owned(), message });
        return None;
    };
    let mut keys = Keys::new(section, table, problems);
    let account = account(&mut keys);
    keys.reject_unknown();
    account
}

/// `name` and one of `secret_file` and `secret_credential`.
pub(super) fn account(keys: &mut Keys<'_>) -> Option<Account> {
    let name = keys.required("name", "write the name, such as name = \"host7\"", chap_name);
    let place = keys.place();
    if let Some(inline) = keys.placed("secret").map(|secret| secret.place.clone()) {
        keys.problem(inline, "secret", "does not stand in the configuration; put it into a file of its own and write secret_file = \"...\"");
    }
    let both = keys.has("secret_file") && keys.has("secret_credential");
    let file = keys.optional("secret_file", |value| secret_in(&PathBuf::from(value::text(value)?)));
    let credential = keys.optional("secret_credential", credential);
    if both {
        keys.problem(place, "secret_file", "and secret_credential cannot both be given; keep one of them");
    } else if !keys.has("secret_file") && !keys.has("secret_credential") && !keys.has("secret") {
        keys.missing(
            "secret_file",
            &format!("is missing; write the file that holds the secret (one made by: {RECIPE}), or secret_credential for a systemd credential"),
        );
    }
    Some(Account { name: name?, secret: file.or(credential)? })
}

fn chap_name(value: &Value) -> Read<String> {
    let name = value::text(value)?;
    let fits = name.len() <= 255 && !name.contains(char::is_control);
    if fits { Ok(name) } else { Err("must be at most 255 bytes long, without control characters".to_owned()) }
}

fn credential(value: &Value) -> Read<Secret> {
    let name = value::text(value)?;
    if name.contains('/') || name.starts_with('.') {
        return Err(format!("\"{name}\" is no name of a credential; for a path use secret_file"));
    }
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
        format!(
            "systemd has given this process no credentials; write LoadCredential={name}:/path/of/the/secret into the \
             [Service] section of its unit, or use secret_file"
        )
    })?;
    secret_in(&Path::new(&folder).join(name))
}

fn secret_in(path: &Path) -> Read<Secret> {
    let bytes = contents(path).map_err(|error| {
        format!(
            "cannot read the secret in {} ({error}); check the path, and that Braid's user may read it",
            path.display()
        )
    })?;
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let wrong = match text.len() {
        length if length < Secret::SHORTEST => format!(
            "is {length} bytes long, which can be guessed; at least {} are needed (RFC 7143 section 9.2.1): make one with {RECIPE}",
            Secret::SHORTEST
        ),
        length if length > LONGEST => format!("is longer than {LONGEST} bytes; is it the right file?"),
        _ if text.iter().any(|byte| matches!(byte, b'\n' | 0)) => {
            "has several lines; is it the right file?".to_owned()
        }
        _ => return Ok(Secret::new(text)),
    };
    Err(format!("the secret in {} {wrong}", path.display()))
}

/// At most a little more than a secret may have; wiped when it is dropped.
fn contents(path: &Path) -> io::Result<zeroize::Zeroizing<Vec<u8>>> {
    let most = u64::try_from(LONGEST + 8).unwrap_or(u64::MAX);
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(LONGEST + 8));
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read<T>(item: &Placed, key: &str, problems: &mut Vec<Problem>, read: fn(&Value) -> Read<T>) -> Option<T> {
    let problem = |message| {
        problems.push(Problem { place: item.place.clone(), key: format!("target.allow.{key}"), message });
    };
    read(&item.value).map_err(problem).ok()
}

/// An initiator's name, in which `*` stands for anything and `?` for one character.
fn pattern(value: &Value) -> Read<String> {
    let pattern = value::text(value)?;
    match pattern.chars().find(|c| c.is_whitespace() || c.is_control()) {
        Some(wrong) => Err(format!("\"{pattern}\" contains {wrong:?}, which no iSCSI name does")),
        None => Ok(pattern.to_lowercase()),
    }
}

/// An address or a network.
pub(super) fn network(value: &Value) -> Read<IpNet> {
    let text = value::text(value)?;
    let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    parsed.ok_or_else(|| {
        format!("\"{text}\" is neither an address nor a network; write \"10.0.0.7\" or \"10.0.0.0/24\"")
    })
}

/// What must hold between the secrets of the whole.
pub(super) fn check(section: &Section, config: &Config, problems: &mut Vec<Problem>) {
    let tables: &[Placed] = match section.get("target").map(|placed| &placed.value) {
        Some(Value::List(tables)) => tables,
        _ => &[],
    };
    let mut proofs = Proofs::default();
    proofs.of_braid(&config.discovery_chap, &section.place);
    for (index, target) in config.targets.iter().enumerate() {
        let place = tables.get(index).map_or(&section.place, |table| &table.place);
        proofs.of_braid(&target.chap, place);
        let told = target.discover.iter().filter_map(|discover| discover.credentials.as_deref());
        for credentials in target.paths.iter().filter_map(|path| path.credentials.as_deref()).chain(told) {
            proofs.at_targets(credentials, place);
        }
    }
    let mut told: Vec<(&Place, String)> = Vec::new();
    for (of_target, place) in &proofs.targets {
        let twin = proofs.initiators.iter().find(|twin| twin.secret == of_target.secret);
        let namesake = proofs.own_targets.iter().any(|own| own == of_target)
            && proofs.own_initiators.iter().any(|own| own.name == of_target.name);
        let message = match twin {
            Some(twin) => format!(
                "\"{}\" proves a target and \"{}\" an initiator, with the same secret; either could then pass for the \
                 other (RFC 7143 section 9.2.1): give each its own",
                of_target.name, twin.name
            ),
            None if namesake => format!(
                "Braid is \"{}\" both towards initiators (chap) and towards a target (upstream_chap); its two roles have \
                 different names (RFC 7143 section 9.2.1)",
                of_target.name
            ),
            None => continue,
        };
        if !told.contains(&(*place, message.clone())) {
            told.push((*place, message));
        }
    }
    for (place, message) in told {
        problems.push(Problem { place: place.clone(), key: "target.chap".to_owned(), message });
    }
}

/// All accounts by what they prove.
#[derive(Default)]
struct Proofs<'a> {
    initiators: Vec<&'a Account>,
    targets: Vec<(&'a Account, &'a Place)>,
    /// Braid's own ones among them.
    own_initiators: Vec<&'a Account>,
    own_targets: Vec<&'a Account>,
}

impl<'a> Proofs<'a> {
    fn of_braid(&mut self, chap: &'a Chap, place: &'a Place) {
        let Chap::Terminate(accounts) = chap else { return };
        self.initiators.extend(&accounts.initiators);
        self.targets.extend(accounts.own.iter().map(|account| (account, place)));
        self.own_targets.extend(&accounts.own);
    }

    fn at_targets(&mut self, credentials: &'a Credentials, place: &'a Place) {
        self.initiators.push(&credentials.own);
        self.own_initiators.push(&credentials.own);
        self.targets.extend(credentials.peer.iter().map(|account| (account, place)));
    }
}

/// Files with secrets that others than the owner and the group may read.
pub(super) fn open_files(value: &Section, warnings: &mut Vec<String>) {
    for (key, _, placed) in &value.entries {
        match &placed.value {
            Value::Text(path) if key == "secret_file" => {
                if let Ok(about) = std::fs::metadata(path)
                    && about.mode() & 0o007 != 0
                {
                    let mode = about.mode() & 0o777;
                    warnings.push(format!(
                        "secret_file {path}: others may read or write it (mode {mode:04o}); chmod 600 {path}"
                    ));
                }
            }
            Value::Table(section) => open_files(section, warnings),
            Value::List(items) => {
                for item in items {
                    if let Value::Table(section) = &item.value {
                        open_files(section, warnings);
                    }
                }
            }
            Value::Text(_) | Value::Integer(_) | Value::Boolean(_) | Value::Other(_) => {}
        }
    }
}

/// Each connection of an initiator is to prove itself, and Braid can ask for that only with accounts of its own.
pub(super) fn check_connections(section: &Section, target: &super::Target, problems: &mut Vec<Problem>) {
    if target.initiator_connections > 1 && target.chap == Chap::Relay {
        let place =
            section.get("initiator_connections").map_or(&section.place, |placed| &placed.place).clone();
        let message = format!(
            "is {}, which chap = \"relay\" does not allow: Braid cannot have a further connection proved by the target; \
             give Braid the accounts (chap = {{ initiators = [...] }}), or leave it out",
            target.initiator_connections
        );
        problems.push(Problem { place, key: "target.initiator_connections".to_owned(), message });
    }
}

/// What is legal about the authentication of a target, but probably not meant.
pub(super) fn warnings(target: &super::Target) -> Vec<String> {
    let mut warnings = Vec::new();
    let without = target.paths.iter().filter(|path| path.credentials.is_none()).count();
    let lends = target.paths.iter().any(|path| path.credentials.is_some());
    match &target.chap {
        Chap::Relay if target.paths.len() > 1 && without > 0 => warnings.push(format!(
            "chap = \"relay\", and {without} of {} paths have no upstream_chap: where the target asks for CHAP, a session runs \
             over the path of its login and those with upstream_chap only",
            target.paths.len()
        )),
        Chap::None if lends && target.allow.is_empty() => warnings.push(
            "upstream_chap is given, but neither chap nor allow: whoever reaches Braid is let in with Braid's secret".to_owned(),
        ),
        Chap::Terminate(accounts) => {
            let shared = accounts.initiators.iter().enumerate().any(|(index, account)| {
                accounts.initiators.iter().take(index).any(|earlier| earlier.secret == account.secret)
            });
            if shared {
                warnings.push("two initiators have the same secret: either can pass for the other".to_owned());
            }
        }
        Chap::None | Chap::Relay => {}
    }
    warnings
}

#[cfg(test)]
mod tests;
