//! What may be written about who comes in, and what is said when it is wrong.

use super::*;
use crate::config::Target;
use std::os::unix::fs::PermissionsExt as _;
use tempfile::TempDir;

const MINIMAL: &str = "[[target]]\nname = \"iqn.a\"\npaths = [\"10.0.1.1\", \"10.0.2.1\"]\n";

/// Secret files: `host`, `disk` and `braid` are fit for use.
fn secrets() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, secret) in [
        ("host", "of-the-host-1\n"),
        ("disk", "of-the-disk-1\r\n"),
        ("braid", "of-braid-itself"),
        ("short", "elevenchars"),
        ("empty", ""),
        ("lines", "of-the-host-1\nof-the-host-1\n"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, secret).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    std::fs::write(dir.path().join("long"), "x".repeat(5000)).unwrap();
    dir
}

fn text(dir: &TempDir, lines: &str) -> String {
    let dir = dir.path().display().to_string();
    format!("{MINIMAL}{}\n", lines.replace("@", &format!("{dir}/")))
}

fn parse(dir: &TempDir, lines: &str) -> Config {
    Config::from_toml(&text(dir, lines), "t.toml").unwrap_or_else(|error| panic!("{error}"))
}

fn target(dir: &TempDir, lines: &str) -> Target {
    parse(dir, lines).targets.remove(0)
}

fn problems(dir: &TempDir, lines: &str) -> Vec<String> {
    let error = Config::from_toml(&text(dir, lines), "t.toml").expect_err(lines);
    error.problems.iter().map(ToString::to_string).collect()
}

/// The only problem.
fn problem(dir: &TempDir, lines: &str) -> String {
    let found = problems(dir, lines);
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

const HOST: &str = "{ name = \"host7\", secret_file = \"@host\" }";
const DISK: &str = "{ name = \"disk\", secret_file = \"@disk\" }";

#[test]
fn accounts_and_credentials() {
    let dir = secrets();
    assert_eq!(target(&dir, "").chap, Chap::None);
    assert_eq!(target(&dir, "chap = \"none\"").chap, Chap::None);
    assert_eq!(target(&dir, "chap = \"relay\"").chap, Chap::Relay);
    let account = |name: &str, secret: &str| Account { name: name.to_owned(), secret: Secret::new(secret) };
    let ended = target(&dir, &format!("chap = {{ initiators = [{HOST}], target = {DISK} }}")).chap;
    let accounts = Accounts {
        initiators: vec![account("host7", "of-the-host-1")],
        own: Some(account("disk", "of-the-disk-1")),
    };
    assert_eq!(ended, Chap::Terminate(Arc::new(accounts)));
    let paths = "[[target]]\nname = \"iqn.b\"\n\
        paths = [\"10.0.1.2\", { portal = \"10.0.2.2\", upstream_chap = { name = \"b\", secret_file = \"@host\" } }]\n\
        upstream_chap = { name = \"a\", secret_file = \"@braid\", target = { name = \"disk\", secret_file = \"@disk\" } }";
    let config = parse(&dir, paths);
    let [first, second] = config.targets[1].paths.as_slice() else { panic!() };
    let peer = Some(account("disk", "of-the-disk-1"));
    let of_all = Credentials { own: account("a", "of-braid-itself"), peer };
    assert_eq!(first.credentials.as_deref(), Some(&of_all));
    let own = Credentials { own: account("b", "of-the-host-1"), peer: None };
    assert_eq!(second.credentials.as_deref(), Some(&own), "a path's own go first");
    let discovery = format!("[discovery]\nchap = {{ initiators = [{HOST}] }}");
    assert!(matches!(parse(&dir, &discovery).discovery_chap, Chap::Terminate(_)));
    assert!(
        problem(&dir, "[discovery]\nchap = \"relay\"")
            .contains("discovery.chap: must be \"none\", or a table")
    );
}

#[test]
fn r86_short_and_odd_secrets_are_refused() {
    let dir = secrets();
    let with =
        |file: &str| problem(&dir, &format!("upstream_chap = {{ name = \"a\", secret_file = \"@{file}\" }}"));
    let short = with("short");
    assert!(short.contains("upstream_chap.secret_file") && short.contains("is 11 bytes long"), "{short}");
    assert!(short.contains("at least 12") && short.contains("openssl rand"), "{short}");
    assert!(with("empty").contains("is 0 bytes long"));
    assert!(with("long").contains("longer than 1024"));
    assert!(with("lines").contains("several lines"));
    assert!(with("missing").contains("cannot read the secret in"));
}

#[test]
fn what_is_wrong_with_an_account_is_said() {
    let dir = secrets();
    let account = |fields: &str| problem(&dir, &format!("upstream_chap = {{ {fields} }}"));
    assert!(account("name = \"a\"").contains("secret_file: is missing; write the file"));
    assert!(account("secret_file = \"@host\"").contains("upstream_chap.name: is missing"));
    let inline = account("name = \"a\", secret = \"open-to-all-eyes\"");
    assert!(
        inline.contains("does not stand in the configuration") && !inline.contains("open-to"),
        "{inline}"
    );
    let both = "name = \"a\", secret_file = \"@host\", secret_credential = \"x/y\"";
    let both = problems(&dir, &format!("upstream_chap = {{ {both} }}")).join("\n");
    assert!(both.contains("cannot both be given") && both.contains("no name of a credential"), "{both}");
    assert!(problem(&dir, "upstream_chap = \"host\"").contains("must be a table"));
    assert!(problem(&dir, "chap = \"rely\"").contains("must be \"none\", \"relay\", or a table"));
    assert!(problem(&dir, "chap = { initiators = [\"host\"] }").contains("is a string, must be a table"));
    assert!(problem(&dir, "chap = {}").contains("chap.initiators: is missing"));
    assert!(problem(&dir, &format!("chap = {{ initiators = [{HOST}, {HOST}] }}")).contains("given twice"));
    assert!(
        problem(&dir, &format!("chap = {{ initiators = [{HOST}], targt = 1 }}"))
            .contains("did you mean target")
    );
}

/// The environment of the test has no such folder; one is set by systemd only.
#[test]
fn a_credential_comes_from_systemd() {
    let dir = secrets();
    let asked = "upstream_chap = { name = \"a\", secret_credential = \"braid\" }";
    if std::env::var_os("CREDENTIALS_DIRECTORY").is_none() {
        assert!(problem(&dir, asked).contains("LoadCredential=braid:"));
    }
}

#[test]
fn r87_r88_a_secret_proves_initiators_or_targets_not_both() {
    let dir = secrets();
    let same = "{ name = \"disk\", secret_file = \"@host\" }";
    let both = problem(&dir, &format!("chap = {{ initiators = [{HOST}], target = {same} }}"));
    assert!(both.contains("target.chap: \"disk\" proves a target and \"host7\" an initiator"), "{both}");
    let upstream = format!("upstream_chap = {{ name = \"a\", secret_file = \"@host\", target = {same} }}");
    assert!(problem(&dir, &upstream).contains("with the same secret"));
    // Across the two roles as well.
    let roles = format!(
        "chap = {{ initiators = [{HOST}], target = {DISK} }}\nupstream_chap = {{ name = \"a\", secret_file = \"@disk\" }}"
    );
    assert!(problem(&dir, &roles).contains("with the same secret"));
    let names = format!(
        "chap = {{ initiators = [{HOST}], target = {DISK} }}\nupstream_chap = {{ name = \"disk\", secret_file = \"@braid\" }}"
    );
    assert!(problem(&dir, &names).contains("different names"));
    // A host keeps its secret when Braid is put before its target.
    let kept = format!("chap = {{ initiators = [{HOST}] }}\nupstream_chap = {HOST}");
    assert_eq!(parse(&dir, &kept).warnings, Vec::<String>::new());
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let dir = secrets();
    let warned = |lines: &str| parse(&dir, lines).warnings.join("\n");
    assert!(warned("chap = \"relay\"").contains("over the path of its login"));
    assert_eq!(warned(&format!("chap = \"relay\"\nupstream_chap = {HOST}")), "");
    assert!(warned(&format!("upstream_chap = {HOST}")).contains("whoever reaches Braid"));
    assert_eq!(warned(&format!("upstream_chap = {HOST}\nallow = {{ names = [\"iqn.x\"] }}")), "");
    let shared = "{ name = \"b\", secret_file = \"@host\" }";
    assert!(warned(&format!("chap = {{ initiators = [{HOST}, {shared}] }}")).contains("same secret"));
    let open = dir.path().join("host");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let warning = warned(&format!("chap = {{ initiators = [{HOST}] }}"));
    assert!(warning.contains("others may read or write it (mode 0644); chmod 600"), "{warning}");
}

#[test]
fn names_and_addresses_are_let_in() {
    let dir = secrets();
    let allow = target(&dir, "allow = { names = [\"iqn.2026-11.Example:*\", \"iqn.b?\"], addresses = [\"10.0.0.0/24\", \"fd00::7\"] }").allow;
    let admits = |name: &str, address: &str| allow.admits(name, address.parse().ok());
    assert!(admits("iqn.2026-11.example:host", "10.0.0.9"));
    assert!(admits("IQN.2026-11.example:host", "::ffff:10.0.0.9"));
    assert!(admits("iqn.b1", "fd00::7"));
    assert!(!admits("iqn.b12", "fd00::7"));
    assert!(!admits("iqn.b1", "fd00::8"));
    assert!(!admits("iqn.b1", "10.0.1.9"));
    assert!(!allow.admits("iqn.b1", None));
    assert!(target(&dir, "").allow.admits("iqn.anybody", None));
    assert!(
        problem(&dir, "allow = { addresses = [\"10.0.0.0/33\"] }")
            .contains("neither an address nor a network")
    );
    assert!(problem(&dir, "allow = { names = [\"iqn a\"] }").contains("no iSCSI name does"));
}

#[test]
fn secrets_are_not_shown() {
    let dir = secrets();
    let config = parse(&dir, &format!("chap = {{ initiators = [{HOST}], target = {DISK} }}"));
    let shown = format!("{config:?}");
    assert!(!shown.contains("of-the-") && shown.contains("<hidden>"), "{shown}");
}
