//! What probes found out about targets, and the file that remembers it between starts, with the tags under which initiators
//! know targets.
//!
//! The file is JSON, written whole to a temporary file and renamed, so that it is always one or the other. It is a cache:
//! one that cannot be read is worth a warning and a new probe, nothing more.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// What a target calls itself: a verdict holds as long as this stays the same.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Product {
    /// Portal group tag of the portals, if the target tells it.
    pub tpgt: Option<u16>,
    /// INQUIRY vendor of LUN 0.
    pub vendor: String,
    /// INQUIRY product of LUN 0.
    pub product: String,
    /// INQUIRY revision of LUN 0.
    pub revision: String,
}

impl Product {
    /// Why a second connection is not even tried, if so. With LIO of Linux 6.1 sessions of several connections that end as
    /// they should, of which one was just joining or leaving, have made the kernel panic in three different places.
    #[must_use]
    pub fn hazard(&self) -> Option<&'static str> {
        (self.vendor == "LIO-ORG").then_some("LIO may crash when a session of several connections ends")
    }
}

/// How a target treats a second connection of a session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Second {
    /// It allows one connection only, so no second was tried.
    NotAllowed,
    /// It may not survive one ([`Product::hazard`]), so none was tried.
    Hazardous,
    /// It joined.
    Joined,
    /// It was refused for this reason.
    Refused(String),
    /// It could not be made, for this reason: nothing is known then.
    Unreachable(String),
    /// The second portal is in another portal group, whose connections cannot join (R5).
    OtherGroup(u16),
}

/// What a target does with a command whose predecessor, on another connection, has not arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Not found out.
    Unknown,
    /// It waits for the predecessor, as it must (R94).
    Held,
    /// It runs at once.
    RanEarly,
    /// It waits, but is not answered when the predecessor has come.
    Stuck,
    /// The target closes a connection over it.
    Closed,
}

/// What happens to a session when one of its connections is reset while idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Not found out.
    Unknown,
    /// The session lives on, and another connection may join it.
    Rejoins,
    /// The session lives on, but lets no other connection join.
    Shrinks,
    /// The target ends the whole session.
    EndsSession,
    /// The session stays but answers no more.
    Stuck,
}

/// The outcome of a probe.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// TargetName.
    pub target: String,
    /// What the target is.
    pub product: Product,
    /// MaxConnections granted.
    pub max_connections: u16,
    /// Whether a second connection joins.
    pub second: Second,
    /// Order across connections.
    pub order: Order,
    /// Loss of a connection.
    pub loss: Loss,
}

impl Verdict {
    /// Whether several connections per session may be used: order is proved, and it is known how connections are lost.
    #[must_use]
    pub fn mcs_ok(&self) -> bool {
        self.objection().is_none()
    }

    /// Whether another probe would find the same. False where something kept this one from finding out, or where it may
    /// look otherwise from other portals: such a verdict is not worth keeping.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match (&self.second, self.order, self.loss) {
            (Second::NotAllowed, ..) => self.max_connections < 2,
            (Second::Refused(_) | Second::Hazardous, ..) => true,
            (Second::Unreachable(_) | Second::OtherGroup(_), ..) | (Second::Joined, Order::Unknown, _) => {
                false
            }
            (Second::Joined, Order::Held, loss) => loss != Loss::Unknown,
            (Second::Joined, Order::RanEarly | Order::Stuck | Order::Closed, _) => true,
        }
    }

    /// Whether it rests on what the target did once, rather than on what it said.
    #[must_use]
    pub fn may_be_chance(&self) -> bool {
        self.second == Second::Joined && self.is_final() && !self.mcs_ok()
    }

    /// What was found out, step by step, in words.
    #[must_use]
    pub fn steps(&self) -> Vec<String> {
        let Product { tpgt, vendor, product, revision } = &self.product;
        let group = tpgt.map_or_else(|| "unknown".to_owned(), |tag| tag.to_string());
        let mut steps = vec![
            format!("it is {vendor} {product} {revision}, portal group {group}"),
            format!("it grants MaxConnections={}", self.max_connections),
        ];
        steps.extend(self.product.hazard().map(str::to_owned));
        steps.push(match &self.second {
            Second::NotAllowed => "no second connection was tried".to_owned(),
            Second::Hazardous => "no second connection was tried, as it may not survive one".to_owned(),
            Second::Joined => "a second connection joined the session".to_owned(),
            Second::Refused(why) => format!("it refused a second connection: {why}"),
            Second::Unreachable(why) => format!("a second connection could not be made: {why}"),
            Second::OtherGroup(tag) => format!("the second portal is in portal group {tag}"),
        });
        if self.second == Second::Joined {
            let order = match self.order {
                Order::Unknown => "order across connections could not be tested",
                Order::Held => "a command waits for its predecessor on another connection",
                Order::RanEarly => "a command runs before its predecessor on another connection",
                Order::Stuck => "a command stays unanswered after its predecessor has come",
                Order::Closed => "it closes a connection when a predecessor is late",
            };
            let loss = match self.loss {
                Loss::Unknown => "what the loss of a connection does could not be tested",
                Loss::Rejoins => "when a connection is lost the session lives on, and another may join",
                Loss::Shrinks => "when a connection is lost the session lives on, but no other may join",
                Loss::EndsSession => "when a connection is lost the whole session ends",
                Loss::Stuck => "when a connection is lost the session answers no more",
            };
            steps.extend([order.to_owned(), loss.to_owned()]);
        }
        steps
    }

    /// Why not, if not.
    #[must_use]
    pub fn objection(&self) -> Option<&'static str> {
        let found = match (&self.second, self.order, self.loss) {
            (Second::NotAllowed, ..) => Some("the target allows one connection per session"),
            (Second::Hazardous, ..) => Some("the target may crash"),
            (Second::Refused(_), ..) => Some("the target refuses a second connection"),
            (Second::Unreachable(_), ..) => Some("a second connection could not be made"),
            (Second::OtherGroup(_), ..) => Some("the portals are in different portal groups"),
            (_, Order::Unknown, _) => Some("order across connections could not be tested"),
            (_, Order::RanEarly, _) => Some("commands run before their predecessors on other connections"),
            (_, Order::Stuck, _) => Some("commands stay unanswered after a gap in the order was filled"),
            (_, Order::Closed, _) => Some("the target closes a connection when commands arrive out of order"),
            (.., Loss::Unknown) => Some("the loss of a connection could not be tested"),
            (.., Loss::Stuck) => Some("the session answers no more after the loss of a connection"),
            (.., Loss::Shrinks) => Some("no connection may join again after one was lost"),
            (Second::Joined, Order::Held, Loss::Rejoins | Loss::EndsSession) => None,
        };
        // Also of a verdict that an earlier Braid kept.
        self.product.hazard().filter(|_| self.second != Second::NotAllowed).or(found)
    }
}

/// Verdicts and portal group tags, kept in a file if there is one.
#[derive(Debug, Default)]
pub struct StateFile {
    path: Option<PathBuf>,
    content: Content,
}

/// What stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    verdicts: Vec<Verdict>,
    /// Under which portal group tags initiators know targets.
    #[serde(default)]
    tags: BTreeMap<String, u16>,
}

impl Default for Content {
    fn default() -> Self {
        Self { version: VERSION, verdicts: Vec::new(), tags: BTreeMap::new() }
    }
}

/// Verdicts at most, and tags: discovered targets come and go. Others make room then.
const MAX_ENTRIES: usize = 4096;

/// Version of the file's form; files of another version are not read.
const VERSION: u32 = 1;

impl StateFile {
    /// Verdicts that last as long as the process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Reads the file. One that is not there yet is empty; one that cannot be read is logged and counts as empty.
    #[must_use]
    pub fn load(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let content = match read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Content::default(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "state file not usable; targets are probed again");
                Content::default()
            }
        };
        Self { path: Some(path), content }
    }

    /// The verdict on a target, if it is still the same product.
    #[must_use]
    pub fn recall(&self, target: &str, product: &Product) -> Option<&Verdict> {
        self.content.verdicts.iter().find(|verdict| verdict.target == target && verdict.product == *product)
    }

    /// Everything that is remembered of a target: verdicts, and tags with the places where they are told.
    #[must_use]
    pub fn of(&self, target: &str) -> (Vec<Verdict>, BTreeMap<String, u16>) {
        let verdicts = self.content.verdicts.iter().filter(|verdict| verdict.target == target);
        let at_portal = format!("/{target}");
        let tags = self.content.tags.iter().filter(|(key, _)| *key == target || key.ends_with(&at_portal));
        (verdicts.cloned().collect(), tags.map(|(key, tag)| (key.clone(), *tag)).collect())
    }

    /// Where it is kept.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Keeps a verdict in place of an older one on the same target and portal group, and writes the file.
    ///
    /// # Errors
    /// If the file cannot be written; the verdict is kept in memory all the same.
    pub fn remember(&mut self, verdict: Verdict) -> io::Result<()> {
        let key = |v: &Verdict| (v.target.clone(), v.product.tpgt);
        let verdicts = &mut self.content.verdicts;
        verdicts.retain(|old| key(old) != key(&verdict));
        if verdicts.len() >= MAX_ENTRIES {
            verdicts.remove(0);
        }
        verdicts.push(verdict);
        self.write()
    }

    /// Portal group tags.
    #[must_use]
    pub const fn tags(&self) -> &BTreeMap<String, u16> {
        &self.content.tags
    }

    /// Keeps a tag in place of an older one, and writes the file.
    ///
    /// # Errors
    /// If the file cannot be written; the tag is kept in memory all the same.
    pub fn remember_tag(&mut self, key: String, tag: u16) -> io::Result<()> {
        let tags = &mut self.content.tags;
        if tags.len() >= MAX_ENTRIES && !tags.contains_key(&key) {
            tags.pop_first();
        }
        tags.insert(key, tag);
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        self.path.as_deref().map_or(Ok(()), |path| write(path, &self.content))
    }
}

fn read(path: &Path) -> io::Result<Content> {
    let content: Content = serde_json::from_slice(&std::fs::read(path)?)?;
    if content.version == VERSION {
        Ok(content)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("version {}", content.version)))
    }
}

fn write(path: &Path, content: &Content) -> io::Result<()> {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer_pretty(&mut file, content)?;
    file.write_all(b"\n")?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(target: &str, revision: &str) -> Verdict {
        Verdict {
            target: target.to_owned(),
            product: Product {
                tpgt: Some(1),
                vendor: "V".to_owned(),
                product: "P".to_owned(),
                revision: revision.to_owned(),
            },
            max_connections: 8,
            second: Second::Joined,
            order: Order::Held,
            loss: Loss::Rejoins,
        }
    }

    #[test]
    fn verdicts_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let mut file = StateFile::load(&path);
        file.remember(verdict("iqn.a", "1")).unwrap();
        file.remember(Verdict { second: Second::Refused("full".to_owned()), ..verdict("iqn.b", "1") })
            .unwrap();
        file.remember_tag("iqn.a".to_owned(), 7).unwrap();
        let again = StateFile::load(&path);
        assert_eq!(again.tags().get("iqn.a"), Some(&7));
        assert_eq!(again.recall("iqn.a", &verdict("iqn.a", "1").product), Some(&verdict("iqn.a", "1")));
        assert!(again.recall("iqn.b", &verdict("iqn.b", "1").product).is_some());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays behind");
    }

    #[test]
    fn another_revision_is_another_product_and_takes_the_place_of_the_old() {
        let mut file = StateFile::in_memory();
        file.remember(verdict("iqn.a", "1")).unwrap();
        assert_eq!(file.recall("iqn.a", &verdict("iqn.a", "2").product), None);
        assert_eq!(file.recall("iqn.other", &verdict("iqn.a", "1").product), None);
        file.remember(verdict("iqn.a", "2")).unwrap();
        assert_eq!(file.content.verdicts, [verdict("iqn.a", "2")]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_empty_and_gets_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let garbage: [&[u8]; 4] =
            [b"", b"{\"version\":1,\"verd", b"\xff\xfe", b"{\"version\":9,\"verdicts\":[]}"];
        for content in garbage {
            std::fs::write(&path, content).unwrap();
            let mut file = StateFile::load(&path);
            assert_eq!(file.content.verdicts, []);
            file.remember(verdict("iqn.a", "1")).unwrap();
            assert_eq!(StateFile::load(&path).content.verdicts.len(), 1);
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_but_not_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = StateFile::load(folder.path().join("missing").join("state.json"));
        assert!(file.remember(verdict("iqn.a", "1")).is_err());
        assert!(file.recall("iqn.a", &verdict("iqn.a", "1").product).is_some());
    }

    #[test]
    fn several_connections_need_order_and_a_known_loss() {
        let good = verdict("iqn.a", "1");
        assert!(good.mcs_ok());
        assert!(Verdict { loss: Loss::EndsSession, ..good.clone() }.mcs_ok());
        let bad = [
            Verdict { second: Second::NotAllowed, ..good.clone() },
            Verdict { second: Second::Refused(String::new()), ..good.clone() },
            Verdict { second: Second::Unreachable(String::new()), ..good.clone() },
            Verdict { second: Second::OtherGroup(2), ..good.clone() },
            Verdict { order: Order::Unknown, ..good.clone() },
            Verdict { order: Order::RanEarly, ..good.clone() },
            Verdict { order: Order::Stuck, ..good.clone() },
            Verdict { order: Order::Closed, ..good.clone() },
            Verdict { loss: Loss::Unknown, ..good.clone() },
            Verdict { loss: Loss::Stuck, ..good.clone() },
            Verdict { loss: Loss::Shrinks, ..good },
        ];
        assert!(bad.iter().all(|verdict| !verdict.mcs_ok()));
    }

    #[test]
    fn what_may_crash_is_left_alone_whatever_was_found_out() {
        let mut lio = verdict("iqn.a", "1");
        lio.product.vendor = "LIO-ORG".to_owned();
        for second in [Second::Joined, Second::Hazardous] {
            let found = Verdict { second, ..lio.clone() };
            assert!(found.is_final() && !found.mcs_ok(), "{found:?}");
        }
    }

    #[test]
    fn what_could_not_be_found_out_is_not_final() {
        let good = verdict("iqn.a", "1");
        let refused =
            Verdict { second: Second::Refused(String::new()), order: Order::Unknown, ..good.clone() };
        let single = Verdict { second: Second::NotAllowed, max_connections: 1, ..good.clone() };
        let early = Verdict { order: Order::RanEarly, loss: Loss::Unknown, ..good.clone() };
        assert!([&good, &refused, &single, &early].iter().all(|verdict| verdict.is_final()));
        let open = [
            Verdict { second: Second::Unreachable(String::new()), order: Order::Unknown, ..good.clone() },
            Verdict { second: Second::OtherGroup(2), order: Order::Unknown, ..good.clone() },
            Verdict { second: Second::NotAllowed, ..good.clone() },
            Verdict { order: Order::Unknown, ..good.clone() },
            Verdict { loss: Loss::Unknown, ..good },
        ];
        assert!(open.iter().all(|verdict| !verdict.is_final()));
    }
}
