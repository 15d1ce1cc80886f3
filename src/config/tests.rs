//! A test beside every key: what it takes, what it says when it is wrong.

use super::*;

const MINIMAL: &str =
    "[[target]]\nname = \"iqn.2003-01.org.example:disk\"\npaths = [\"10.0.1.1:3260\", \"10.0.2.1\"]\n";

fn parse(text: &str) -> Config {
    Config::from_toml(text, "t.toml").unwrap_or_else(|error| panic!("{error}"))
}

/// The target of the minimal file with further lines.
fn target_with(lines: &str) -> Target {
    parse(&format!("{MINIMAL}{lines}\n")).targets.remove(0)
}

/// The problems, each as `line:column: key: message`.
fn problems(text: &str) -> Vec<String> {
    let error = Config::from_toml(text, "t.toml").expect_err("must be refused");
    error.problems.iter().map(ToString::to_string).collect()
}

/// The only problem of the minimal file with a line more.
fn problem_of(line: &str) -> String {
    let found = problems(&format!("{MINIMAL}{line}\n"));
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn a_short_file_is_enough() {
    let config = parse(MINIMAL);
    assert_eq!(config.listen, [Listen::from("0.0.0.0:3260".parse::<SocketAddr>().unwrap())]);
    assert_eq!(config.admin, Some("127.0.0.1:9260".parse().unwrap()));
    assert_eq!((config.log.as_str(), config.log_format), ("info", LogFormat::Human));
    assert_eq!(config.state_file, None);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    let target = &config.targets[0];
    assert_eq!(
        (target.mode, target.policy, target.fence),
        (Mode::Auto, Policy::ServiceTime, FenceMethod::Auto)
    );
    let names: Vec<_> = target.paths.iter().map(|path| path.name.as_str()).collect();
    assert_eq!(names, ["10.0.1.1:3260", "10.0.2.1:3260"]);
    assert!(target.first_burst <= target.max_burst);
}

#[test]
fn keys_of_the_whole() {
    let text = format!(
        "listen = [\"10.0.0.1:3260\", \"[fd00::1]\"]\nadmin = \"127.0.0.1:80\"\nstate_file = \"/var/lib/braid/state.json\"\n\
         log = \"braid=debug,info\"\nlog_format = \"json\"\nlimits = {{ max_sessions = 3, login_timeout = \"1s\", login_rate = 7 }}\n{MINIMAL}"
    );
    let config = parse(&text);
    assert_eq!(config.listen[1].address.to_string(), "[fd00::1]:3260");
    assert_eq!(config.admin.unwrap().port(), 80);
    assert_eq!(config.state_file, Some(PathBuf::from("/var/lib/braid/state.json")));
    assert_eq!((config.log.as_str(), config.log_format), ("braid=debug,info", LogFormat::Json));
    assert_eq!(
        config.limits,
        Limits { max_sessions: 3, login_timeout: Duration::from_secs(1), login_rate: 7 }
    );
    assert_eq!(parse(&format!("admin = \"off\"\n{MINIMAL}")).admin, None);
    assert_eq!(parse(&format!("listen = \"127.0.0.1\"\n{MINIMAL}")).listen.len(), 1);
}

#[test]
fn keys_of_a_target() {
    assert_eq!(target_with("mode = \"mcs\"").mode, Mode::Mcs);
    assert_eq!(target_with("mode = \"sessions\"").mode, Mode::Sessions);
    assert_eq!(target_with("policy = \"service-time\"").policy, Policy::ServiceTime);
    assert_eq!(target_with("policy = \"queue-depth\"").policy, Policy::QueueDepth);
    assert_eq!(target_with("policy = \"round-robin\"").policy, Policy::RoundRobin);
    assert_eq!(target_with("policy = \"weighted\"").policy, Policy::Weighted);
    assert_eq!(target_with("policy = \"failover\"").policy, Policy::Failover);
    assert_eq!(target_with("barriers = \"strict\"").barriers, Barriers::Strict);
    assert_eq!(target_with("barriers = \"native\"").barriers, Barriers::Native);
    assert_eq!(
        target_with("upstream_recovery = \"reinstate\"").upstream_recovery,
        target_with("").upstream_recovery
    );
    assert_eq!(target_with("upstream_recovery = \"reassign\"").upstream_recovery, Recovery::Reassign);
    assert!(problem_of("upstream_recovery = \"reasign\"").contains("did you mean \"reassign\""));
    assert!(
        problem_of("mode = \"sessions\"\nupstream_recovery = \"reassign\"")
            .starts_with("5:21: target.upstream_recovery: is \"reassign\", which needs")
    );
    assert_eq!(target_with("").initiator_connections, 1);
    assert_eq!(target_with("initiator_connections = 16").initiator_connections, 16);
    assert!(problem_of("initiator_connections = 17").contains("target.initiator_connections: "));
    assert!(
        problem_of("chap = \"relay\"\ninitiator_connections = 4")
            .starts_with("5:25: target.initiator_connections: is 4, which chap = \"relay\" does not allow")
    );
    assert_eq!(target_with("fence = \"ordered\"").fence, FenceMethod::Ordered);
    assert_eq!(target_with("fence = \"reinstate\"").fence, FenceMethod::Reinstate);
    assert_eq!(target_with("fence = \"time\"").fence, FenceMethod::Time);
    assert_eq!(target_with("header_digest = \"crc32c\"").header_digest, Digest::Crc32c);
    assert_eq!(target_with("data_digest = \"prefer\"").data_digest, Digest::Prefer);
    assert_eq!(target_with("window = 7").window, 7);
    assert_eq!(target_with("memory = \"8MiB\"").memory, 8 << 20);
    assert_eq!(target_with("max_recv_data_segment = 8192").max_recv_data_segment, 8192);
    assert_eq!(target_with("max_burst = \"512KiB\"").max_burst, 512 << 10);
    assert_eq!(target_with("first_burst = 512").first_burst, 512);
}

#[test]
fn reads_that_are_late() {
    assert_eq!(target_with("hedged_reads.most = \"5%\"").hedge, None);
    let hedge = target_with("hedged_reads = { late = \"99.5%\" }").hedge;
    assert_eq!(hedge, Some(Hedge { late: 995, most: 50 }));
    assert_eq!(target_with("hedged_reads = { late = \"off\", most = \"100%\" }").hedge, None);
    for wrong in ["late = \"100%\"", "late = \"49%\"", "late = \"99.95%\"", "late = \"99\"", "late = 99"] {
        let problem = problem_of(&format!("hedged_reads = {{ {wrong} }}"));
        assert!(
            problem.contains("target.hedged_reads.late: must be a share") && problem.contains("or \"off\"")
        );
    }
    for wrong in ["\"0%\"", "\"101%\"", "\"-1%\"", "\"1.%\"", "5"] {
        let problem = problem_of(&format!("hedged_reads.most = {wrong}"));
        assert!(problem.contains("from \"0.1%\" to \"100%\""), "{problem}");
    }
}

#[test]
fn durations_of_a_target() {
    let ms = Duration::from_millis(300);
    assert_eq!(target_with("fence_time = \"300ms\"").fence_time, ms);
    assert_eq!(target_with("all_paths_down = { then = \"busy\" }").exhausted, Exhausted::Busy);
    assert_eq!(target_with("all_paths_down = { queue = \"300ms\" }").queue_time, ms);
    assert_eq!(target_with("ping_interval = \"300ms\"").ping_interval, ms);
    assert_eq!(target_with("ping_timeout = \"300ms\"").ping_timeout, ms);
    assert_eq!(target_with("task_timeout = \"300ms\"").task_timeout, ms);
    assert_eq!(target_with("silence_timeout = \"300ms\"").silence_timeout, ms);
    assert_eq!(target_with("connect_timeout = \"300ms\"").connect_timeout, ms);
    assert_eq!(target_with("login_timeout = \"300ms\"").login_timeout, ms);
    let marginal = target_with("marginal = { losses = 3, within = \"1h\", calm = \"1min\" }").marginal;
    let (within, calm) = (Duration::from_secs(3600), Duration::from_secs(60));
    assert_eq!(marginal, Marginal { losses: 3, within, calm });
    let reconnect = target_with("reconnect = { first = \"300ms\", longest = \"1min\" }").reconnect;
    assert_eq!(reconnect, (ms, Duration::from_secs(60)));
    assert!(
        problem_of("ping_interval = \"5\"")
            .starts_with("4:17: target.ping_interval: \"5\" is not a duration")
    );
    assert!(problem_of("ping_interval = 5").contains("must be a duration with its unit"));
    assert!(problem_of("ping_timeout = \"0s\"").contains("out of range: from 50ms to 1h"));
    assert!(
        problem_of("reconnect = { first = \"9s\", longest = \"1s\" }").contains("target.reconnect.longest")
    );
}

#[test]
fn keys_of_a_path() {
    let text = "[[target]]\nname = \"iqn.2003-01.org.example:disk\"\npaths = [\n\
        { portal = \"10.0.1.1:3260\", source = \"10.0.1.2\", weight = 3, name = \"left\" },\n\
        { portal = \"10.0.1.1:3260\", interface = \"eth1\" },\n\"10.0.1.1\",\n\
        { portal = \"10.0.1.1:3260\", target = \"iqn.2003-01.org.example:twin\" }]\npolicy = \"weighted\"\n";
    let paths = parse(text).targets.remove(0).paths;
    assert_eq!(paths[0].local, Local::Source("10.0.1.2".parse().unwrap()));
    assert_eq!((paths[0].name.as_str(), paths[0].weight), ("left", 3));
    assert_eq!(paths[1].local, Local::Interface("eth1".to_owned()));
    assert_eq!(paths[1].name, "10.0.1.1:3260@eth1");
    assert_eq!((&paths[2].local, paths[2].weight), (&Local::Any, 1));
    let targets: Vec<_> = paths.iter().map(|path| path.target.rsplit(':').next().unwrap()).collect();
    assert_eq!(targets, ["disk", "disk", "disk", "twin"]);
    assert_eq!(
        paths[3].name, "10.0.1.1:3260/iqn.2003-01.org.example:twin",
        "another way than the portal alone"
    );
}

#[test]
fn listeners_that_intercept() {
    let text = "listen = [\"0.0.0.0\", { address = \"127.0.0.1:3261\", intercept = \"redirect\" },\n\
        { address = \"[::1]:3262\", intercept = \"tproxy\" }, { address = \"10.0.0.9\" }]\nmark = 0x1000\n";
    let config = parse(&format!("{text}{MINIMAL}"));
    let how: Vec<_> = config.listen.iter().map(|listen| listen.intercept).collect();
    assert_eq!(how, [None, Some(Intercept::Redirect), Some(Intercept::Tproxy), None]);
    assert_eq!((config.mark, config.targets[0].paths[0].mark), (0x1000, Some(0x1000)));
    assert_eq!(parse(MINIMAL).targets[0].paths[0].mark, None, "nothing intercepts, so nothing is marked");
}

#[test]
fn listeners_behind_balancers() {
    let text = "listen = [\"0.0.0.0\", { address = \"10.0.9.1:3261\", proxy_protocol = [\"10.0.9.7\", \"fd00:9::/64\"] }]\n";
    let [open, behind] = &parse(&format!("{text}{MINIMAL}")).listen[..] else { panic!("two") };
    let at = |address: &str| -> IpAddr { address.parse().unwrap() };
    assert!(open.is_public() && !open.is_behind_balancers() && !open.trusts(at("10.0.9.7")));
    assert!(!behind.is_public() && behind.is_behind_balancers());
    for (address, trusted) in
        [("10.0.9.7", true), ("::ffff:10.0.9.7", true), ("fd00:9::1", true), ("10.0.9.8", false)]
    {
        assert_eq!(behind.trusts(at(address)), trusted, "{address}");
    }
}

#[test]
fn a_listener_that_makes_no_sense_is_refused() {
    let refused = |listen: &str| problems(&format!("listen = [{listen}]\n{MINIMAL}")).join("\n");
    let redirect = |address: &str| format!("{{ address = \"{address}\", intercept = \"redirect\" }}");
    assert!(refused(&redirect("10.0.9.1:3261")).contains("out of reach of redirect"));
    assert!(
        refused("{ address = \"0.0.0.0\", intercept = \"tproxy\" }").contains("port of a target's portal")
    );
    assert!(refused("{ address = \"::1\", intercept = \"nat\" }").contains("\"redirect\", \"tproxy\""));
    assert!(refused("{ intercept = \"redirect\" }").contains("listen.address: is missing"));
    let told = |by: &str| refused(&format!("{{ address = \"0.0.0.0:3261\", proxy_protocol = {by} }}"));
    assert!(told("\"everybody\"").contains("neither an address nor a network"));
    assert!(told("true").contains("listen.proxy_protocol: "));
    assert!(told("[]").contains("listen.proxy_protocol: must not be empty"));
    assert!(told("\"10.0.9.7\", intercept = \"redirect\"").contains("cannot both be given"));
    assert!(refused("{ address = \"::\", intercpt = \"redirect\" }").contains("did you mean intercept?"));
    let twice = format!("{}, {}", redirect("0.0.0.0:1"), redirect("127.0.0.1:2"));
    assert!(refused(&twice).contains("second to intercept"));
    assert!(problems(&format!("mark = 255\n{MINIMAL}"))[0].contains("from 256"));
    let v6 = format!("listen = [{}]\n{MINIMAL}", redirect("[::]:3261"));
    assert!(parse(&v6).warnings.iter().any(|warning| warning.contains("no listener intercepts")));
}

#[test]
fn a_path_that_makes_no_sense_is_refused() {
    let refused = |path: &str| {
        let text = format!("[[target]]\nname = \"iqn.2003-01.org.example:disk\"\npaths = [{path}]\n");
        problems(&text).join("\n")
    };
    assert!(
        refused("{ portal = \"10.0.0.1\", source = \"10.0.0.2\", interface = \"eth0\" }")
            .contains("cannot both")
    );
    assert!(refused("{ portal = \"10.0.0.1\", source = \"fd00::1\" }").contains("another address family"));
    assert!(refused("{ source = \"10.0.0.2\" }").contains("target.paths.portal: is missing"));
    assert!(refused("{ portal = \"10.0.0.1\", weight = 0 }").contains("from 1 to 1000"));
    assert!(
        refused("{ portal = \"10.0.0.1\", interface = \"a name far too long\" }")
            .contains("no interface name")
    );
    let misnamed = "{ portal = \"10.0.0.1\", target = \"disk\" }";
    assert!(
        refused(misnamed).starts_with("3:42: target.paths.target: \"disk\" is no iSCSI name"),
        "{}",
        refused(misnamed)
    );
    let same = "\"10.0.0.1\", { portal = \"10.0.0.1\", target = \"iqn.2003-01.org.example:disk\" }";
    assert!(refused(same).contains("listed twice"));
    assert!(refused("{ portal = \"10.0.0.1\", wight = 1 }").contains("did you mean weight?"));
    assert!(refused("\"10.0.0.1\", \"10.0.0.1:3260\"").contains("listed twice"));
    assert!(refused("\"0.0.0.0:3260\"").contains("no address of a target"));
    assert!(refused("17").contains("is a number"));
    assert!(refused("").contains("must not be empty"));
    let named = "{ portal = \"10.0.0.1\", name = \"a\" }, { portal = \"10.0.0.2\", name = \"a\" }";
    assert!(refused(named).contains("two paths are named"));
}

#[test]
fn every_problem_is_told_at_once_with_its_place() {
    let text = "listen = [\"nowhere\"]\nadmin = 5\nlog_format = \"jsn\"\n\n[[target]]\nname = \"disk\"\n\
                paths = [\"10.0.0.1\", \"x\"]\npolcy = \"failover\"\nwindow = 0\n";
    let found = problems(text);
    let expected = [
        "1:11: listen: \"nowhere\" is not an IP address",
        "2:9: admin: is a number, must be a string",
        "3:14: log_format: \"jsn\" is not known; it must be one of \"human\", \"json\"; did you mean \"json\"?",
        "6:8: target.name: \"disk\" is no iSCSI name",
        "7:22: target.paths: \"x\" is not an IP address",
        "8:1: target.polcy: is not known; did you mean policy?",
        "9:10: target.window: must be a whole number from 1 to 1024",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
    }
    let shown = Config::from_toml(text, "t.toml").unwrap_err().to_string();
    assert!(shown.starts_with("t.toml:1:11: listen:"), "{shown}");
    assert_eq!(shown.lines().count(), expected.len());
}

#[test]
fn what_is_missing_is_said() {
    assert!(problems("")[0].contains("no target is given; add a table [[target]]"));
    let found = problems("[[target]]\n");
    assert!(found[0].starts_with("1:"), "{found:?}");
    assert!(
        found[0].contains("target.name: is missing") && found[1].contains("target.paths: is missing"),
        "{found:?}"
    );
    assert!(problems("[target]\nname = \"iqn.a\"\n")[0].contains("write [[target]]"));
}

#[test]
fn what_is_mistyped_is_not_missing_too() {
    let one = |text: &str| {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap_or_default()
    };
    assert!(one("[[targets]]\n").contains("did you mean target?"));
    assert!(one("[[target]]\nname = \"iqn.a\"\npath = [\"10.0.0.1\"]\n").contains("did you mean paths?"));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    assert!(problem_of("max_burst = 1024").contains("more than max_burst"));
    assert!(problems(&format!("{MINIMAL}{MINIMAL}"))[0].contains("given twice"));
    assert!(problems(&format!("listen = \"10.0.1.1\"\n{MINIMAL}"))[0].contains("where Braid itself listens"));
    let twice = format!("listen = [\"10.0.9.9\", \"10.0.9.9:3260\"]\n{MINIMAL}");
    assert!(problems(&twice)[0].contains("listed twice"));
}

#[test]
fn syntax_errors_name_their_lines() {
    let found = problems("listen = [\"10.0.0.1\"\n[[target]]\nname = \n");
    assert!(found.iter().all(|problem| problem.contains("not TOML")), "{found:?}");
    assert!(problem_of("window = 1\nwindow = 2").starts_with("5:"));
}

#[test]
fn names_are_checked() {
    let named =
        |name: &str| problems(&format!("[[target]]\nname = \"{name}\"\npaths = [\"10.0.0.1\"]\n")).join("\n");
    assert!(named("iqn.2003-01.org.example:a b").contains("no iSCSI name does"));
    assert!(named(&format!("iqn.{}", "a".repeat(220))).contains("at most 223"));
    assert!(named("").contains("must not be empty"));
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let warned = |text: &str| parse(text).warnings.join("\n");
    assert!(warned(&format!("admin = \"0.0.0.0:9260\"\n{MINIMAL}")).contains("other machines"));
    assert!(warned("[[target]]\nname = \"iqn.a\"\npaths = \"10.0.0.1\"\n").contains("single path"));
    let weights =
        "[[target]]\nname = \"iqn.a\"\npaths = [\"10.0.0.1\", { portal = \"10.0.0.2\", weight = 2 }]\n";
    assert!(warned(weights).contains("weights are given"));
    assert!(warned(&format!("{MINIMAL}fence = \"time\"\nfence_time = \"0s\"\n")).contains("no fence"));
}

#[test]
fn an_unreadable_file_is_a_problem_like_others() {
    let error = Config::load(Path::new("/nonexistent/braid.toml")).unwrap_err();
    assert!(error.to_string().contains("cannot read the file"), "{error}");
}
