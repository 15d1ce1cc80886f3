//! The Debian package, made as README.md says and put into a clean root: what it brings is there, works, and goes again.
//!
//! `cargo-deb` and `debootstrap` are installed when they are missing; the root is made anew, and needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CARGO_DEB: &str = "3.8.0";
/// What the system keeps of a package that was there: its own lists and logs, and the user, whose number must not be given to another.
const KEPT: [&str; 6] = ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "var/lib/dpkg", "var/log"];

/// Runs it and gives its output.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

fn shell(script: &str) -> String {
    run(Command::new("sh").args(["-ec", script]).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Makes the package from this build of the program.
fn package(stage: &Path) -> PathBuf {
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cargo-deb");
    let cargo_deb = tools.join("bin/cargo-deb");
    if !cargo_deb.exists() {
        let install = ["install", "cargo-deb", "--version", CARGO_DEB, "--locked", "--debug", "--root"];
        run(Command::new(env!("CARGO"))
            .args(install)
            .arg(&tools)
            .env("CARGO_TARGET_DIR", tools.join("build")));
    }
    let release = stage.join("release");
    fs::create_dir(&release).unwrap();
    let braid = release.join("braid");
    fs::copy(env!("CARGO_BIN_EXE_braid"), &braid).unwrap();
    run(Command::new(&braid).arg("generate").arg(release.join("package")));
    let deb = stage.join("braid.deb");
    let mut make = Command::new(cargo_deb);
    make.args(["deb", "--no-build", "--fast", "--output"]).arg(&deb);
    run(make.current_dir(env!("CARGO_MANIFEST_DIR")).env("CARGO_TARGET_DIR", stage));
    deb
}

/// A Debian with nothing but what every Debian has, and systemd.
fn clean_root(root: &Path) {
    let root = root.display();
    shell(&format!(
        "command -v debootstrap >/dev/null || {{ apt-get update; apt-get install -y --no-install-recommends debootstrap; }}
         . /etc/os-release
         debootstrap --variant=minbase --include=systemd \"$VERSION_CODENAME\" '{root}'"
    ));
}

/// Every file below the root but those that are [`KEPT`].
fn files(root: &Path) -> BTreeSet<String> {
    let all = run(Command::new("find").current_dir(root).args([".", "-mindepth", "1", "-printf", "%P\\n"]));
    all.lines().filter(|file| !KEPT.iter().any(|kept| file.starts_with(kept))).map(str::to_owned).collect()
}

#[test]
fn the_package_comes_and_goes() {
    let stage = tempfile::tempdir().unwrap();
    let deb = package(stage.path());
    let root = stage.path().join("root");
    clean_root(&root);
    let inside = |script: &str| run(Command::new("chroot").arg(&root).args(["sh", "-ec", script]));
    let before = files(&root);

    fs::copy(deb, root.join("tmp/braid.deb")).unwrap();
    inside("dpkg --install /tmp/braid.deb; rm /tmp/braid.deb");
    inside(
        "braid --version; braid check --config /etc/braid/braid.toml; getent passwd braid; getent group braid",
    );
    let unit = inside("cat /lib/systemd/system/braid.service");
    assert!(unit.contains("ExecStart=/usr/bin/braid run --config /etc/braid/braid.toml"), "{unit}");
    // It does not start before somebody has told it which target there is.
    assert!(!root.join("etc/systemd/system/multi-user.target.wants/braid.service").exists());
    let page = inside("zcat -f /usr/share/man/man1/braid-run.1*");
    assert!(page.contains(".TH braid-run 1"), "{page}");
    let completions = inside("cat /usr/share/bash-completion/completions/braid");
    assert!(completions.contains("complete -F _braid"), "{completions}");
    for there in
        ["zsh/vendor-completions/_braid", "fish/vendor_completions.d/braid.fish", "doc/braid/copyright"]
    {
        assert!(root.join("usr/share").join(there).exists(), "{there}");
    }
    let shipped = |below: &str| files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(below));
    assert_eq!(files(&root.join("usr/share/braid/dashboards")), shipped("dashboards"));

    // What the operator has written stays until it is purged.
    inside("echo '# mine' >>/etc/braid/braid.toml; dpkg --remove braid; grep mine /etc/braid/braid.toml");
    assert!(!root.join("usr/bin/braid").exists());
    inside("dpkg --purge braid");
    let after = files(&root);
    assert_eq!(after.symmetric_difference(&before).collect::<Vec<_>>(), Vec::<&String>::new());
}
