//! What lies in `examples/` is what Braid takes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

/// What `braid check` says of a file; also of what it warns.
fn check(file: &Path) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_braid")).arg("check").arg("--config").arg(file).output().unwrap();
    let [said, complaints] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{}: {complaints}", file.display());
    said
}

#[test]
fn every_configuration_is_right() {
    let mut files: Vec<PathBuf> =
        fs::read_dir(examples()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    assert!(files.len() >= 6);
    for file in files {
        let said = check(&file);
        assert!(!said.contains("warning: "), "{}: {said}", file.display());
    }
}

/// The parts of the Kubernetes example fit each other: configuration, ports, annotations, mounts.
#[test]
fn the_daemonset_runs_its_configuration() {
    let text = fs::read_to_string(examples().join("kubernetes/braid.yaml")).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
    let (config, set) = (of_kind("ConfigMap"), of_kind("DaemonSet"));
    let (pod, container) = (&set["spec"]["template"], &set["spec"]["template"]["spec"]["containers"][0]);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("braid.toml");
    fs::write(&file, config["data"]["braid.toml"].as_str().unwrap()).unwrap();
    let said = check(&file);
    let port = container["ports"][0]["containerPort"].as_u64().unwrap();
    assert!(said.contains(&format!("0.0.0.0:{port}")), "{said}");
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], port.to_string());
    assert_eq!(container["livenessProbe"]["httpGet"]["port"], container["ports"][0]["name"]);

    assert_eq!(set["spec"]["selector"]["matchLabels"], pod["metadata"]["labels"]);
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    for mount in container["volumeMounts"].as_array().unwrap() {
        assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
    }
    let from = volumes.iter().find(|volume| volume["name"] == "config").unwrap();
    assert_eq!(from["configMap"]["name"], config["metadata"]["name"]);

    // The command line is one that Braid understands, but for the file, which is not here.
    let mut command = Command::new(env!("CARGO_BIN_EXE_braid"));
    command.args(container["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()));
    let complaint = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(complaint.contains("/etc/braid/braid.toml"), "{complaint}");
}
