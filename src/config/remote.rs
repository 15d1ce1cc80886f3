//! Control over TCP: the table `remote_control`.

use super::auth;
use super::draft::{Placed, Value};
use super::keys::Keys;
use super::problem::Problem;
use super::schema::address;
use super::value;
use crate::login::chap::Account;
use std::net::SocketAddr;

/// Where Braid is controlled over TCP, and by whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteControl {
    /// The address.
    pub address: SocketAddr,
    /// Who has a token, at least one; names and tokens are unique.
    pub tokens: Vec<Token>,
}

/// A bearer token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// For logs, and the token itself.
    pub account: Account,
    /// What it is good for.
    pub level: Level,
}

/// What somebody may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// Ask.
    Read,
    /// Ask, and give orders.
    Control,
}

const EXAMPLE: &str =
    "such as tokens = [{ name = \"noc\", secret_file = \"/etc/braid/noc.token\", level = \"read\" }]";

impl Level {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        value::name_of(value::LEVELS, &self)
    }
}

/// The table; none if it is not there.
pub(super) fn read(keys: &mut Keys<'_>) -> Option<RemoteControl> {
    if !keys.has("remote_control") {
        return None;
    }
    keys.table("remote_control", |keys| {
        let place = keys.place();
        let address = keys.required("listen", "write listen = \"ADDRESS:PORT\"", address);
        let tokens = keys.list("tokens", token);
        if tokens.is_none() {
            keys.missing("tokens", &format!("is missing; write who may come, {EXAMPLE}"));
        }
        let tokens = tokens?;
        for (index, Token { account, .. }) in tokens.iter().enumerate() {
            let twin = tokens.iter().take(index).map(|earlier| &earlier.account);
            let twin =
                twin.into_iter().find(|twin| twin.name == account.name || twin.secret == account.secret);
            if let Some(twin) = twin {
                let message = format!(
                    "\"{}\" and \"{}\" have the same name or token; give each its own",
                    twin.name, account.name
                );
                keys.problem(place.clone(), "tokens", &message);
            }
        }
        Some(RemoteControl { address: address?, tokens })
    })
}

fn token(item: &Placed, problems: &mut Vec<Problem>) -> Option<Token> {
    let Value::Table(section) = &item.value else {
        let message = format!("is {}, must be a table, {EXAMPLE}", item.value.kind());
        problems.push(Problem {
            place: item.place.clone(),
            key: "remote_control.tokens".to_owned(),
            message,
        });
        return None;
    };
    let mut keys = Keys::new(section, "remote_control.tokens", problems);
    let account = auth::account(&mut keys);
    let level = keys.required("level", "write level = \"read\" or \"control\"", value::level);
    keys.reject_unknown();
    Some(Token { account: account?, level: level? })
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    /// What the table comes to, or what is wrong with it; `@noc` and `@ops` are files with tokens, `@twin` is a copy of the first.
    fn read(table: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, token) in
            [("noc", "sixteen-letters."), ("twin", "sixteen-letters."), ("ops", "sixteen letters!")]
        {
            std::fs::write(dir.path().join(name), token).unwrap();
        }
        let table = table.replace('@', &format!("{}/", dir.path().display()));
        let target = "[[target]]\nname = \"iqn.a\"\npaths = [\"10.0.1.1\", \"10.0.2.1\"]\n";
        Config::from_toml(&format!("remote_control = {table}\n{target}"), "t")
            .map_err(|error| error.to_string())
    }

    #[test]
    fn tokens_have_levels() {
        let config = read(
            "{ listen = \"127.0.0.1:9261\", tokens = [{ name = \"noc\", secret_file = \"@noc\", level = \"read\" }, \
             { name = \"ops\", secret_file = \"@ops\", level = \"control\" }] }",
        );
        let remote = config.unwrap().remote_control.unwrap();
        let levels: Vec<_> = remote.tokens.iter().map(|token| token.level).collect();
        assert_eq!((remote.address.port(), levels), (9261, vec![Level::Read, Level::Control]));
        assert!(remote.tokens[0].account.secret.is(b"sixteen-letters."));
        assert!(!remote.tokens[0].account.secret.is(b"sixteen-letters"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let noc = "{ name = \"noc\", secret_file = \"@noc\", level = \"read\" }";
        let of = |tokens: &str| {
            read(&format!("{{ listen = \"127.0.0.1:9261\", tokens = [{tokens}] }}")).unwrap_err()
        };
        assert!(of(&noc.replace("\"read\"", "\"reed\"")).contains("did you mean \"read\"?"));
        assert!(of(&noc.replace(", level = \"read\"", "")).contains("write level = \"read\" or \"control\""));
        assert!(
            of(&format!("{noc}, {}", noc.replace("name = \"noc\"", "name = \"ops\"")))
                .contains("the same name or token")
        );
        assert!(of(&format!("{noc}, {}", noc.replace("@noc", "@twin"))).contains("the same name or token"));
        assert!(of("\"noc\"").contains("must be a table, such as"));
        assert!(read("{ listen = \"127.0.0.1:9261\" }").unwrap_err().contains("tokens: is missing"));
        assert!(read(&format!("{{ tokens = [{noc}] }}")).unwrap_err().contains("listen: is missing"));
        let open = read(&format!("{{ listen = \"10.0.0.1:9261\", tokens = [{noc}] }}")).unwrap();
        assert!(open.warnings.iter().any(|warning| warning.contains("in clear")), "{:?}", open.warnings);
    }
}
