//! Scenarios that are wrong, and what is said of them.

use super::scenario::{Action, Ground, Scenario};
use std::time::Duration;

const STEP: &str = "[[step]]\nat = \"1s\"\ndo = \"reset\"\npaths = \"link1\"\nfor = \"2s\"\n";

fn parse(text: &str) -> Scenario {
    Scenario::parse(text, "t").unwrap_or_else(|error| panic!("{error}\nin\n{text}"))
}

fn complaints(text: &str) -> Vec<String> {
    let error = Scenario::parse(text, "t").map(|_| ()).expect_err(text);
    error.to_string().lines().map(str::to_owned).collect()
}

/// The only complaint.
fn complaint(text: &str) -> String {
    let mut complaints = complaints(text);
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    complaints.remove(0)
}

/// A drill of ten seconds with more in it.
fn ten_seconds(more: &str) -> String {
    format!("duration = \"10s\"\n{more}")
}

#[test]
fn what_is_left_out_has_its_usual_value() {
    let scenario = parse(&ten_seconds(STEP));
    let Ground::Lab(plan) = &scenario.ground else { panic!("{scenario:?}") };
    assert_eq!((scenario.name.as_str(), plan.paths, scenario.spans.len()), ("t", 4, 1));
    assert_eq!((scenario.objectives.errors, scenario.objectives.wrong_blocks), (Some(0), Some(0)));
    assert_eq!(scenario.objectives.longest_stall, None);
}

#[test]
fn a_step_without_an_end_lasts_until_it_is_healed_or_the_drill_ends() {
    let text = "[[step]]\nat = \"1s\"\ndo = \"reset\"\npaths = \"all\"\n[[step]]\nat = \"4s\"\ndo = \"heal\"\npaths = [\"link1\", \"link3\"]\n\
                [objectives]\nerrors = 1\n";
    let ends: Vec<_> = parse(&ten_seconds(text)).spans.iter().map(|span| span.to.as_secs()).collect();
    assert_eq!(ends, [4, 10, 4, 10]);
}

#[test]
fn actions_take_what_belongs_to_them() {
    let action = |lines: &str| {
        let step = format!("[[step]]\nat = \"1s\"\nfor = \"2s\"\npaths = \"link2\"\n{lines}\n");
        parse(&ten_seconds(&step)).steps[0].action.describe()
    };
    assert_eq!(action("do = \"half-open\"\nsilent = \"to-initiator\""), "half-open, nothing comes back");
    assert_eq!(action("do = \"slow\"\nrate = \"1MiB\"\ndelay = \"5ms\""), "slow, 1.0 MiB/s, 5ms each way");
    assert_eq!(action("do = \"lossy\"\none_in = 50"), "lossy, one packet in 50");
    assert_eq!(
        action("do = \"flap\"\nhow = \"reset\"\ndown = \"1s\"\nup = \"2s\""),
        "flap, reset for 1s of 3s"
    );
    let stopped = parse(&ten_seconds("[[step]]\nat = \"1s\"\nfor = \"2s\"\ndo = \"stop-target\"\n"));
    assert_eq!((stopped.steps[0].action, stopped.spans.len()), (Action::StopTarget, 1));
}

#[test]
fn every_mistake_is_told_at_once_with_its_line_and_what_to_write() {
    let text = "name = 7\n\
                duration = \"2h\"\n\
                [lab]\n\
                path = 3\n\
                [[step]]\n\
                at = \"1\"\n\
                do = \"silnt\"\n\
                paths = \"link1\"\n\
                [[step]]\n\
                at = \"2s\"\n\
                do = \"reset\"\n\
                delay = \"2s\"\n";
    assert_eq!(
        complaints(text),
        [
            "t:1:8: name: is a number, must be a string in quotes",
            "t:2:12: duration: \"2h\" is out of range: from 1s to 1h",
            "t:4:1: lab.path: is not known; did you mean paths?",
            "t:6:6: step.at: \"1\" is not a duration; write one such as \"500ms\", \"5s\" or \"2min\"",
            "t:7:6: step.do: \"silnt\" is not known; it must be one of \"reset\", \"silent\", \"half-open\", \"unplug\", \"slow\", \
             \"lossy\", \"flap\", \"stop-target\", \"drain\", \"fail\", \"heal\"; did you mean \"silent\"?",
            "t:9:1: step.paths: is missing; write paths = \"link1\", paths = [\"link1\", \"link2\"] or paths = \"all\"",
            "t:12:1: step.delay: is not known; known here are: at, do, paths, for",
        ]
    );
}

#[test]
fn what_braid_thinks_of_its_own_settings_is_told_at_their_place() {
    let text = format!("duration = \"10s\"\n[lab.target]\nmode = \"mc\"\nname = \"iqn.a\"\n{STEP}");
    assert_eq!(
        complaints(&text),
        [
            "t:3:8: lab.target.mode: \"mc\" is not known; it must be one of \"auto\", \"mcs\", \"sessions\"; did you mean \"mcs\"?",
            "t:4:8: lab.target.name: is for the lab to say; leave it out (lab.paths says how many there are)",
        ]
    );
}

#[test]
fn times_that_overlap_or_lie_beyond_the_end_are_told() {
    let second = |at: &str, lines: &str| ten_seconds(&format!("{STEP}[[step]]\nat = \"{at}\"\n{lines}\n"));
    assert_eq!(
        complaint(&second("2s", "do = \"silent\"\npaths = [\"link2\", \"link1\"]\nfor = \"1s\"")),
        "t:10:19: step.at: link1 is under \"reset\" from 1s to 3s already; begin later, or heal it before"
    );
    assert_eq!(
        complaint(&second("9s", "do = \"silent\"\npaths = \"link2\"\nfor = \"2s\"")),
        "t:9:6: step.for: is at 11s, and the drill ends at 10s; do it earlier, or raise duration"
    );
    assert_eq!(
        complaint(&second("10s", "do = \"silent\"\npaths = \"link2\"")),
        "t:9:6: step.at: is at 10s, and the drill ends at 10s; do it earlier, or raise duration"
    );
    assert_eq!(
        complaint(&second("2s", "do = \"heal\"\npaths = \"link1\"")),
        "t:10:9: step.do: link1 is healed by itself at 3s, because its step says `for`; leave out either"
    );
    assert_eq!(
        complaint(&second("5s", "do = \"heal\"\npaths = \"link2\"")),
        "t:10:9: step.do: there is nothing to heal on link2 at that time; leave it out"
    );
    assert_eq!(
        complaint(&second("5s", "do = \"reset\"\npaths = \"link5\"")),
        "t:10:9: step.paths: \"link5\" is no path of the lab; there are link1, link2, link3, link4"
    );
}

#[test]
fn objectives_that_can_never_hold_are_told() {
    let all = "[[step]]\nat = \"1s\"\ndo = \"reset\"\npaths = \"all\"\nfor = \"4s\"\n";
    let with = |objective: &str| format!("{}[objectives]\n{objective}\n", ten_seconds(all));
    assert_eq!(
        complaint(&with("longest_stall = \"4s\"")),
        "t:8:17: objectives.longest_stall: can never be met: nothing can pass from 1s to 5s; write more than 4s"
    );
    assert_eq!(
        complaint(&with("slowest_command = \"1s\"")),
        "t:8:19: objectives.slowest_command: can never be met: nothing can pass from 1s to 5s; write more than 4s"
    );
    assert_eq!(parse(&with("longest_stall = \"5s\"")).objectives.longest_stall, Some(Duration::from_secs(5)));
    assert_eq!(
        complaint(&with("paths_back_within = \"6s\"")),
        "t:8:21: objectives.paths_back_within: cannot be seen: the last path is healed at 5s, and the drill ends at 10s; \
         write duration = \"11s\""
    );
    assert_eq!(
        complaint(&with("throughput_at_least = \"1GiB\"")),
        "t:8:23: objectives.throughput_at_least: can never be met: the links carry 335544320 bytes/s at most, both ways together"
    );
    let impatient = format!("{}[lab.target]\nall_paths_down = {{ queue = \"3s\" }}\n", with("errors = 0"));
    assert!(complaint(&impatient).contains("Braid gives up after 3s"), "{:?}", complaints(&impatient));
    assert_eq!(parse(&impatient.replace("errors = 0", "errors = 99")).objectives.errors, Some(99));
}

#[test]
fn a_running_braid_is_asked_only_for_what_it_can_do_to_itself() {
    let live = |more: &str| format!("where = \"live\"\nduration = \"10s\"\n{more}");
    assert_eq!(
        complaint(&live(STEP)),
        "t:5:1: step.do: \"reset\" is for the lab: a running Braid cannot do that to its own network; write \"fail\" (at \
         once) or \"drain\" (in order), or where = \"lab\""
    );
    let fail = STEP.replace("reset", "fail");
    assert_eq!(parse(&live(&fail)).load, None);
    let all = fail.replace("link1", "all");
    assert!(
        complaint(&live(&all)).starts_with("t:5:1: step.paths: takes out the last path of every session; ")
    );
    assert_eq!(parse(&live(&format!("{all}[live]\nlast_path = true\n"))).spans.len(), 1);
    assert!(
        complaint(&live(&format!("{fail}[objectives]\nwrong_blocks = 0\n")))
            .starts_with("t:9:1: objectives.wrong_blocks: is known of the drill's own load only; ")
    );
    assert!(
        complaint(&live(&format!("{fail}[lab]\npaths = 2\n")))
            .starts_with("t:8:2: lab: is not used with where = \"live\"; leave it out, or write")
    );
}

#[test]
fn what_takes_links_of_the_kernels_is_done_there_only() {
    let unplug = ten_seconds(&STEP.replace("reset", "unplug"));
    assert_eq!(
        complaint(&unplug),
        "t:4:1: step.do: \"unplug\" takes links of the kernel's, which the lab has not; write where = \"links\""
    );
    let slow = "do = \"slow\"\ndelay = \"9ms\"\njitter = \"3ms\"";
    let jitter = ten_seconds(&STEP.replace("do = \"reset\"", slow));
    assert!(complaint(&jitter).starts_with("t:4:1: step.do: \"jitter\" takes links of the kernel's"));
    let over_links = |text: &str| parse(&format!("where = \"links\"\n{text}"));
    assert_eq!(over_links(&unplug).steps[0].action, Action::Unplug);
    assert_eq!(over_links(&jitter).steps[0].action.describe(), "slow, 9ms ± 3ms each way");
    let Ground::Lab(plan) = over_links(&unplug).ground else { panic!("the lab has links") };
    assert_eq!((plan.real, plan.link.rate), (true, None));
    let long = format!("where = \"links\"\n{}", jitter.replace("3ms", "30ms"));
    assert!(
        complaint(&long).contains("step.jitter: is by how much the delay varies"),
        "{:?}",
        complaints(&long)
    );
}

#[test]
fn what_is_overwritten_is_told_explicitly() {
    let live = |load: &str| {
        let fail = STEP.replace("reset", "fail");
        format!("where = \"live\"\nduration = \"10s\"\n{fail}[load]\n{load}")
    };
    let missing = complaints(&live("portal = \"127.0.0.1\"\n"));
    assert_eq!(
        missing,
        [
            "t:8:1: load.lun: is missing; write the LUN that is overwritten",
            "t:8:1: load.overwrite: is missing; the load overwrites that LUN: write overwrite = true if nothing on it is needed any more",
        ]
    );
    assert!(
        complaint(&live("portal = \"127.0.0.1\"\nlun = 1\noverwrite = false\n"))
            .contains("overwrite: is false")
    );
    let scratch = parse(&live("portal = \"127.0.0.1\"\nlun = 1\noverwrite = true\n")).load.unwrap().scratch;
    assert_eq!(scratch.map(|unit| (unit.portal, unit.lun)), Some(("127.0.0.1:3260".to_owned(), 1)));
}

#[test]
fn a_drill_without_a_step_is_none() {
    assert!(complaints("duration = \"10s\"\n")[0].starts_with("t:1:1: step: is missing; write at least one"));
}
