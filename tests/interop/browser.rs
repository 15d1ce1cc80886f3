//! A browser without a window: Debian's Chromium, told what to do by its DevTools protocol.
//!
//! The protocol comes over a pipe, so that the browser can be in a network namespace where this process is not, and no port
//! has to be agreed on. It is a JSON object and a zero byte per message, of which few are needed here.

#![expect(clippy::indexing_slicing, reason = "what is not there in JSON is null")]

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{command, kill, read, tail, temporary, words};
use crate::setup::tools;
use crate::wait::{PATIENCE, poll};

/// It runs as root here, and asks nobody but the page's server.
const FLAGS: [&str; 14] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    "--remote-debugging-pipe",
];

/// Answers a question of the page in place of its server.
pub(crate) type Stub = Box<dyn FnMut(&str) -> Value>;

/// A running browser with one page.
pub(crate) struct Browser {
    child: Child,
    pipe: ChildStdin,
    messages: Receiver<Value>,
    /// Number of the latest message sent.
    last: u64,
    /// The page's session.
    session: Option<String>,
    stub: Option<Stub>,
    /// What the console complained of.
    complaints: Vec<String>,
    /// What was asked for over the network.
    asked: Vec<String>,
    dir: TempDir,
}

impl Browser {
    /// Starts one inside a network namespace.
    pub(crate) fn start(netns: Option<&str>) -> Self {
        tools();
        let dir = temporary();
        let log = dir.path().join("log").display().to_string();
        let script = format!("exec chromium \"$@\" 3<&0 4>&1 >'{log}' 2>&1");
        let mut line = words(&["env", "-u", "DISPLAY", "sh", "-c", &script, "chromium"]);
        line.extend(words(&FLAGS));
        line.push(format!("--user-data-dir={}", dir.path().join("profile").display()));
        let mut command = command(netns, &line);
        command.env("HOME", dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("chromium");
        let pipe = child.stdin.take().expect("a pipe");
        let said = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, messages) = sync_channel(10_000);
        thread::spawn(move || {
            for message in said.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("a message is JSON");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            child,
            pipe,
            messages,
            last: 0,
            session: None,
            stub: None,
            complaints: Vec::new(),
            asked: Vec::new(),
            dir,
        };
        browser.attach();
        browser
    }

    /// Takes the one page over.
    fn attach(&mut self) {
        let page = self.call("Target.createTarget", json!({ "url": "about:blank" }));
        let of_page = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", of_page);
        self.session = Some(attached["sessionId"].as_str().expect("a session").to_owned());
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        self.call("Emulation.setScrollbarsHidden", json!({ "hidden": true }));
        self.call("Emulation.setFocusEmulationEnabled", json!({ "enabled": true }));
    }

    /// Lets questions whose address fits this be answered by `stub`, which is given the address.
    pub(crate) fn answer(&mut self, pattern: &str, stub: Stub) {
        self.stub = Some(stub);
        self.call("Fetch.enable", json!({ "patterns": [{ "urlPattern": pattern }] }));
    }

    /// Goes to a page.
    pub(crate) fn open(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({ "url": url }));
        assert_eq!(went["errorText"], Value::Null, "{url}");
    }

    /// The value of an expression in the page.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", asked);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    pub(crate) fn until(&mut self, what: &str, expression: &str) {
        let met = poll(PATIENCE, || (self.eval(expression) == true).then_some(()));
        if met.is_none() {
            let text = self.eval("document.body.innerText");
            panic!(
                "in vain, waiting for: {what}\n{expression}\n{}\n{}",
                text.as_str().unwrap_or_default(),
                self.log()
            );
        }
    }

    /// Makes the page so wide, in this scheme of colours.
    pub(crate) fn look(&mut self, width: u32, scheme: &str) {
        let metrics = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let media = [("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce")];
        let features = media.map(|(name, value)| json!({ "name": name, "value": value }));
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Presses a key.
    pub(crate) fn press(&mut self, key: &str, code: u32) {
        for kind in ["rawKeyDown", "keyUp"] {
            let event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Types where the focus is.
    pub(crate) fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// All that a reader of the page is told of: role, name, and whether it can be focused.
    pub(crate) fn read_aloud(&mut self) -> Vec<(String, String, bool)> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().expect("nodes").iter().filter(|node| node["ignored"] != true);
        let word = |value: &Value| value["value"].as_str().unwrap_or_default().trim().to_owned();
        let can_focus = |node: &Value| {
            let properties = node["properties"].as_array().into_iter().flatten();
            properties.into_iter().any(|own| own["name"] == "focusable" && own["value"]["value"] == true)
        };
        nodes.map(|node| (word(&node["role"]), word(&node["name"]), can_focus(node))).collect()
    }

    /// Keeps a picture of the page beside the build, for eyes.
    pub(crate) fn picture(&mut self, name: &str) {
        let shot = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true }));
        let bytes = data_encoding::BASE64.decode(shot["data"].as_str().expect("data").as_bytes());
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}.png"));
        fs::write(file, bytes.expect("base64")).expect("picture");
    }

    /// What the console complained of.
    pub(crate) fn complaints(&self) -> &[String] {
        &self.complaints
    }

    /// What was asked for over the network.
    pub(crate) fn asked(&self) -> &[String] {
        &self.asked
    }

    /// Asks for something and waits for the answer.
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        let number = self.send(method, parameters);
        loop {
            let message = self.messages.recv_timeout(PATIENCE);
            let message = message.unwrap_or_else(|why| panic!("{method}: {why}\n{}", self.log()));
            if message["id"] == number {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].clone();
            }
            self.note(&message);
        }
    }

    fn send(&mut self, method: &str, parameters: Value) -> u64 {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let sent = self.pipe.write_all(format!("{message}\0").as_bytes());
        sent.unwrap_or_else(|why| panic!("{method}: {why}\n{}", self.log()));
        self.last
    }

    /// Takes note of what happens in the page.
    fn note(&mut self, message: &Value) {
        let about = &message["params"];
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(about["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") => self.complaints.push(about["args"].to_string()),
            Some("Log.entryAdded") => self.complaints.push(about["entry"].to_string()),
            Some("Network.requestWillBeSent") => {
                self.asked.push(about["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            Some("Fetch.requestPaused") => {
                let url = about["request"]["url"].as_str().unwrap_or_default();
                let answer = self.stub.as_mut().expect("a stub")(url).to_string();
                let answer = json!({
                    "requestId": about["requestId"],
                    "responseCode": 200,
                    "responseHeaders": [{ "name": "Content-Type", "value": "application/json" }],
                    "body": data_encoding::BASE64.encode(answer.as_bytes()),
                });
                self.send("Fetch.fulfillRequest", answer);
            }
            _ => {}
        }
    }

    fn log(&self) -> String {
        format!("--- chromium said last:\n{}", tail(&read(&self.dir.path().join("log"))))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}
