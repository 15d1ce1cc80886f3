//! The status page, in a real browser: before a Braid under load whose path is cut, and before answers made up to be hard to show.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::braid::Braid;
use crate::browser::Browser;
use crate::cuts::StopOnDrop;
use crate::load::{Load, REGION};
use crate::net::{Cut, Net};
use crate::target::{Kind, Site, Target};
use crate::wait::HEAVY;

/// A stalled command is lost, not slow, after so long.
const STALL: Duration = Duration::from_secs(120);
/// Widths of a desk and of a telephone.
const WIDTHS: [u32; 2] = [1280, 360];
const SCHEMES: [&str; 2] = ["light", "dark"];
const TAB: (&str, u32) = ("Tab", 9);

/// What the page says of the portals' states.
const STATES: &str = "[...document.querySelectorAll('.portals .state')].map((state) => state.textContent)";

/// Nothing is hard to read, at any width and in any scheme; a picture of each is kept.
fn looks_well(browser: &mut Browser, name: &str) {
    for (width, scheme) in WIDTHS.into_iter().flat_map(|width| SCHEMES.map(|scheme| (width, scheme))) {
        browser.look(width, scheme);
        browser.until("the width", &format!("innerWidth === {width}"));
        // It draws its lines anew when it has another width, before it is painted.
        browser.eval(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))",
        );
        let complaints = browser.eval(include_str!("page.js"));
        browser.picture(&format!("{name}-{width}-{scheme}"));
        assert_eq!(complaints, json!([]), "{name}, {width} wide, {scheme}");
    }
    browser.look(1280, "light");
}

/// Nothing was asked of anybody but Braid, and the browser found no fault.
fn asks_nobody_else(browser: &Browser, origin: &str) {
    let others: Vec<_> = browser.asked().iter().filter(|url| !url.starts_with(origin)).collect();
    assert_eq!(others, Vec::<&String>::new());
    assert!(browser.asked().len() > 10, "{:?}", browser.asked());
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// Shows a path that is lost and comes back, and says when nobody answers any more.
fn cut_and_heal(browser: &mut Browser, net: &Net, braid: &Braid) {
    let path = braid.paths().first().expect("a path");
    browser.until("two paths that are up", &format!("{STATES}.join() === 'up,up'"));
    browser.until("a line to each end", "document.querySelectorAll('.line.up').length === 3");
    browser.until(
        "what each path carries",
        "[...document.querySelectorAll('.portals .facts')].every((facts) => /[1-9]\\S* [KM]iB\\/s/.test(facts.textContent))",
    );
    browser.until(
        "curves of throughput and latency",
        "[...document.querySelectorAll('.chart')].every((chart) => /L/.test(chart.querySelector('path.curve').getAttribute('d')))",
    );
    net.cut(0, Cut::Reset);
    browser.until("the path is down", &format!("/^down/.test({STATES}[0]) && {STATES}[1] === 'up'"));
    browser.until(
        "so is its line",
        "document.querySelectorAll('.portals ~ .line.down, svg .line.down').length === 1",
    );
    browser.until(
        "the target says so",
        "/1 of 2 paths down/.test(document.querySelector('.head .state').textContent)",
    );
    let lost = format!(
        "[...document.querySelectorAll('#events li')].some((event) => \
         event.querySelector('.kind').textContent === 'path lost' && \
         event.querySelector('.about').textContent.startsWith('{path} ') && \
         event.querySelector('.cause').textContent !== '')"
    );
    browser.until("the event, with its cause", &lost);
    browser.until("it is said to readers", "/^path lost/.test(document.getElementById('said').textContent)");
    browser.until("the charts mark it", "document.querySelectorAll('.mark').length >= 2");
    looks_well(browser, "cut");
    net.heal(0);
    browser.until("the path is back", &format!("{STATES}.join() === 'up,up'"));
    looks_well(browser, "healed");
}

#[test]
fn a_path_that_is_cut_is_seen_to_be() {
    let _place = HEAVY.enter();
    let net = Net::new(2);
    let target = Target::start(Kind::Tgt, Site::Behind(&net), REGION);
    let braid = Braid::over(target.endpoints(), "sessions", "");
    let origin = format!("http://{}/", braid.admin());
    let mut browser = Browser::start(Some(net.near()));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        let load = scope.spawn(|| {
            let mut load = Load::start(braid.endpoint());
            while !stop.load(Ordering::Relaxed) {
                load.round(STALL)?;
            }
            load.finish(target.disk())
        });
        browser.open(&origin);
        cut_and_heal(&mut browser, &net, &braid);
        drop(stopping);
        load.join().expect("the load's thread").unwrap_or_else(|why| panic!("{why}\n{}", braid.log()));
    });
    asks_nobody_else(&browser, &origin);
    assert_eq!(browser.eval("document.getElementById('lost').hidden"), true);
    drop(braid);
    browser.until(
        "that nobody answers",
        "/cannot be reached any more/.test(document.getElementById('lost').innerText)",
    );
    looks_well(&mut browser, "lost");
}

/// A name that would be more than a name if it were taken for HTML.
const HOSTILE: &str = "iqn.2026-11.x:<img src=http://192.0.2.1/x onerror=alert(1)><script>alert(2)</script>";

/// Every state, a thousand sessions, long and hostile names; `tick` is how often it was asked for.
fn hard_status(tick: u64) -> Value {
    let states = ["up", "marginal", "suspect", "draining", "probing", "down", "drained", "up"];
    let path = |(at, state): (usize, &&str)| {
        json!({ "name": format!("path{at}"), "state": state, "home": at == 0, "connections": 1, "commands": at,
            "oldest_seconds": 0.5, "weight": 1, "group": 1, "retry_seconds": if *state == "down" { json!(1.5) } else { Value::Null } })
    };
    let session = |n: u64| {
        let initiator =
            if n == 700 { HOSTILE.to_owned() } else { format!("iqn.1993-08.org.debian:01:{n:012x}") };
        let paths: Vec<_> = states.iter().enumerate().map(path).collect();
        json!({ "initiator": initiator, "peer": format!("10.1.{}.{}", n / 250, n % 250), "isid": format!("{n:012x}"), "tsih": n,
            "standing": { "fanout": "sessions", "initiator_connections": 1, "commands": n % 30, "waiting": n % 3, "ghosts": u64::from(n == 3),
                "outage_seconds": if n == 5 { json!(2.5) } else { Value::Null }, "memory_bytes": 0, "paths": paths } })
    };
    let target = |n: u64| {
        let totals = json!({ "read_bytes": tick << 24, "written_bytes": tick << 22, "commands": tick * 900, "command_seconds": tick });
        let paths: Vec<_> = (0..states.len())
            .map(|at| json!({ "name": format!("path{at}"), "portal": format!("[fd00:1234:5678:9abc::{at}]:3260"), "out": false, "totals": totals }))
            .collect();
        let sessions: Vec<_> = if n == 0 { (0..1000).map(session).collect() } else { Vec::new() };
        json!({ "name": format!("iqn.2003-01.org.linux-iscsi.storage{n:02}.x8664:sn.3f0c2a77d1e4"), "paths": paths, "sessions": sessions })
    };
    let targets: Vec<_> = (0..12).map(target).collect();
    json!({ "version": "0.0.0", "uptime_seconds": tick as f64 * 3.0, "targets": targets })
}

/// An event of each weight, once; after that none.
fn hard_news(url: &str) -> Value {
    let kinds = ["session-begun", "path-up", "path-suspect", "path-lost"];
    let event = |(number, kind): (usize, &&str)| json!({ "number": number, "time": "2026-11-23T03:12:07.411Z", "kind": kind, "target": HOSTILE, "initiator": HOSTILE, "path": "path5", "text": HOSTILE });
    let events: Vec<_> =
        if url.contains("after=0") { (1..).zip(&kinds).map(event).collect() } else { Vec::new() };
    json!({ "events": events, "missed": 0, "last": kinds.len() })
}

/// Everything that can be focused is reached by Tab, in the order of the page, seen to be focused, and has a name.
fn works_by_keys_and_by_ear(browser: &mut Browser) {
    let told = browser.read_aloud();
    for (role, name, can_focus) in &told {
        assert!(!can_focus || !name.is_empty(), "a {role} without a name");
    }
    for role in [
        "main",
        "banner",
        "complementary",
        "contentinfo",
        "search",
        "searchbox",
        "checkbox",
        "image",
        "table",
    ] {
        assert!(told.iter().any(|(found, ..)| found == role), "no {role}");
    }
    let order = "[...document.querySelectorAll('a[href], input, summary, [tabindex=\"0\"]')].filter((one) => one.checkVisibility())";
    let many = browser.eval(&format!("{order}.length")).as_u64().expect("a number");
    assert!(many > 8);
    browser.eval("document.activeElement.blur()");
    for at in 0..many {
        browser.press(TAB.0, TAB.1);
        let here = format!("{order}.indexOf(document.activeElement)");
        assert_eq!(browser.eval(&here), at, "in the order of the page");
        let seen = browser.eval("getComputedStyle(document.activeElement).outlineStyle");
        assert_eq!(seen, "solid", "number {at} is not seen to be focused");
    }
}

#[test]
fn a_thousand_sessions_and_hostile_names_are_no_trouble() {
    let _place = HEAVY.enter();
    let target = Target::start(Kind::Tgt, Site::Alone(2), 1 << 20);
    let braid = Braid::over(target.endpoints(), "sessions", "");
    let origin = format!("http://{}/", braid.admin());
    let mut browser = Browser::start(None);
    let mut tick = 0;
    let stub = move |url: &str| {
        if url.contains("/v1/events") {
            return hard_news(url);
        }
        tick += 1;
        hard_status(tick)
    };
    browser.answer("*/v1/*", Box::new(stub));
    browser.open(&origin);
    let rows = "document.querySelectorAll('tbody tr').length";
    browser.until("the sessions", &format!("{rows} === 50"));
    browser.eval("document.querySelector('details').open = true");
    browser.until("rates", "/MiB\\/s/.test(document.querySelector('.portals .facts').textContent)");
    browser.until("the events", "document.querySelectorAll('#events li').length === 4");
    browser.until(
        "the worst first",
        "/1 session without a path/.test(document.querySelector('.head .state').textContent)",
    );
    browser.until("what is left out", "/Shown are 50 of 1,000/.test(document.body.innerText)");
    let elements = browser.eval("document.querySelectorAll('*').length").as_u64().expect("a number");
    assert!(elements < 6000, "{elements} elements");
    looks_well(&mut browser, "many");
    works_by_keys_and_by_ear(&mut browser);
    browser.eval("document.getElementById('words').focus()");
    browser.write("ONERROR alert");
    browser.until("the one that was looked for", &format!("{rows} === 1"));
    let name = browser.eval("document.querySelector('tbody .name').textContent");
    assert_eq!(name, HOSTILE, "a name is text");
    assert_eq!(browser.eval("document.querySelectorAll('img, body script').length"), 0);
    asks_nobody_else(&browser, &origin);
}
