//! What must hold between the index and the tree.

use crate::index::{Entry, Index, LAST, Status};
use crate::tree::{Found, Tree, citations};

/// Everything that does not hold, in words.
pub(crate) fn breaches(index: &Index, tree: &Tree) -> Vec<String> {
    let mut breaches = numbers(index);
    for (key, entry) in &index.0 {
        let Some(number) = Index::number(key) else { continue };
        let found = shape(entry).into_iter().chain(tests(entry, number, tree)).chain(places(entry, tree));
        breaches.extend(found.map(|breach| format!("{key}: {breach}")));
    }
    breaches.extend(strangers(index, tree));
    breaches
}

fn numbers(index: &Index) -> Vec<String> {
    let missing = (1..=LAST).map(|number| format!("R{number}")).filter(|key| !index.0.contains_key(key));
    let unknown = index.0.keys().filter(|key| Index::number(key).is_none());
    missing
        .map(|key| format!("{key} is missing"))
        .chain(unknown.map(|key| format!("{key} is no requirement")))
        .collect()
}

/// An entry says what is asked, and what its status needs.
fn shape(entry: &Entry) -> Vec<String> {
    let blank = |text: &str| text.trim().is_empty();
    let reason = matches!(entry.status, Status::NotApplicable | Status::Deviates);
    let rules = [
        (blank(&entry.summary), "has no summary"),
        (blank(&entry.section), "names no section"),
        (entry.status == Status::Tested && entry.tests.is_empty(), "is tested by nothing"),
        (entry.status == Status::Met && entry.code.is_empty(), "is met nowhere"),
        (entry.status == Status::Met && !entry.tests.is_empty(), "has tests, and so is tested"),
        (reason && blank(&entry.because), "gives no reason (because)"),
        (!reason && !blank(&entry.because), "needs no reason (because)"),
        (entry.status != Status::Deviates && !blank(&entry.change), "has nothing to change"),
    ];
    rules.into_iter().filter(|(broken, _)| *broken).map(|(_, what)| what.to_owned()).collect()
}

/// Named tests exist and cite the number: in their name, in the comment above them or inside.
fn tests(entry: &Entry, number: u32, tree: &Tree) -> Vec<String> {
    let breach = |name: &String| match tree.find_test(name, number) {
        Found::Nowhere => Some(format!("there is no test {name}")),
        Found::WithoutCitation => Some(format!("{name} does not cite R{number}")),
        Found::Citing => None,
    };
    entry.tests.iter().filter_map(breach).collect()
}

fn places(entry: &Entry, tree: &Tree) -> Vec<String> {
    let missing = entry.code.iter().filter(|place| !tree.has_item(place));
    missing.map(|place| format!("{place} does not exist (path#item, in src/ outside the lab)")).collect()
}

/// Every number that the tree cites is a requirement.
fn strangers(index: &Index, tree: &Tree) -> Vec<String> {
    let mut breaches = Vec::new();
    for file in &tree.files {
        for (line, number) in citations(&file.text) {
            if !index.0.contains_key(&format!("R{number}")) {
                breaches.push(format!("{}:{line}: there is no requirement R{number}", file.path));
            }
        }
    }
    breaches
}

mod matchers {
    use super::*;
    use crate::tree::File;

    /// An index in which R7 is this and everything else is in order.
    fn index(r7: &str) -> Index {
        let other = "side = \"F\"\nstrength = \"may\"\nsection = \"1\"\nsummary = \"x\"\n\
                     status = \"not-applicable\"\nbecause = \"x\"\n";
        let text: String = (1..=LAST)
            .map(|n| format!("[R{n}]\n{}", if n == 7 { format!("{HEAD}{r7}\n") } else { other.to_owned() }))
            .collect();
        Index::read(&text).unwrap()
    }

    const HEAD: &str = "side = \"FB\"\nstrength = \"must\"\nsection = \"4.2\"\nsummary = \"do it\"\n";

    fn tree(files: &[(&str, &str)]) -> Tree {
        let file = |(path, text): &(&str, &str)| File { path: (*path).to_owned(), text: (*text).to_owned() };
        Tree { files: files.iter().map(file).collect() }
    }

    fn found(r7: &str, files: &[(&str, &str)]) -> String {
        breaches(&index(r7), &tree(files)).join("\n")
    }

    const TESTED: &str = "status = \"tested\"\ntests = [\"it_does\"]";

    #[test]
    fn a_missing_a_double_and_a_strange_number_are_found() {
        let mut whole = index("status = \"met\"\ncode = [\"src/a.rs#f\"]");
        let files = tree(&[("src/a.rs", "fn f() {}\n")]);
        assert_eq!(breaches(&whole, &files), Vec::<String>::new());
        let entry = whole.0.remove("R7").unwrap();
        assert_eq!(breaches(&whole, &files), ["R7 is missing"]);
        for strange in ["07", "0", "1000", "x"].map(|number| format!("R{number}")) {
            whole.0 = index("status = \"met\"\ncode = [\"src/a.rs#f\"]").0;
            whole.0.insert(strange.clone(), entry.clone());
            assert_eq!(breaches(&whole, &files), [format!("{strange} is no requirement")]);
        }
        let twice = format!("[R7]\n{HEAD}status = \"met\"\n").repeat(2);
        assert!(Index::read(&twice).is_err_and(|error| error.contains("duplicate")));
    }

    #[test]
    fn each_status_needs_its_grounds() {
        for (r7, breach) in [
            ("status = \"tested\"", "tested by nothing"),
            ("status = \"met\"", "met nowhere"),
            ("status = \"not-applicable\"", "no reason"),
            ("status = \"deviates\"\nchange = \"x\"", "no reason"),
            ("status = \"deviates\"\nbecause = \" \"", "no reason"),
            ("status = \"not-applicable\"\nbecause = \"x\"\nchange = \"y\"", "nothing to change"),
        ] {
            let found = found(r7, &[]);
            assert!(found.starts_with("R7: ") && found.contains(breach), "{found}");
        }
        let blank = index("status = \"deviates\"\nbecause = \"x\"");
        let mut blank = blank.0;
        blank.get_mut("R7").unwrap().summary.clear();
        assert_eq!(breaches(&Index(blank), &tree(&[])), ["R7: has no summary"]);
    }

    #[test]
    fn a_test_must_exist_and_cite_the_number() {
        let there = "\n/// Doc.\n#[test]\nfn it_does() {\n    assert!(true);\n}\n\n// R7\nfn other() {}\n";
        assert_eq!(found(TESTED, &[("tests/a.rs", there)]), "R7: it_does does not cite R7");
        for citing in [
            there.replace("Doc", "R7"),
            there.replace("assert!", "// R7: so\n    assert!"),
            there.replace("(true)", "(true, \"R7\")"),
            there.replace("assert!(true)", "Broken { requirement: 7 }"),
            there.replace("#[test]", "#[tokio::test(start_paused = true)]").replace("Doc", "R7"),
        ] {
            assert_eq!(found(TESTED, &[("tests/a.rs", &citing)]), "", "{citing}");
            assert_eq!(found(TESTED, &[("src/lab/a.rs", &citing)]), "R7: there is no test it_does");
        }
        assert_eq!(
            found(TESTED, &[("tests/a.rs", "// R7\nfn it_does() {}\n")]),
            "R7: there is no test it_does"
        );
        let named = "status = \"tested\"\ntests = [\"it_does_r7\"]";
        assert_eq!(found(named, &[("src/a.rs", "    #[test]\n    async fn it_does_r7() {\n    }\n")]), "");
    }

    #[test]
    fn trials_and_scripts_are_tests_too() {
        let trial = |name: &str| format!("status = \"tested\"\ntests = [\"{name}\"]");
        let main = ("tests/sim/main.rs", "Trial::test(\"world::cuts\", || Ok(()))");
        assert_eq!(found(&trial("world::cuts"), &[main]), "R7: world::cuts does not cite R7");
        assert_eq!(found(&trial("world::rains"), &[main]), "R7: there is no test world::rains");
        let listed = "vec![(\"cuts\", cuts)]\n// R7\nfn cuts() {\n}\n";
        assert_eq!(found(&trial("world::cuts"), &[("tests/sim/world.rs", listed)]), "");
        assert_ne!(found(&trial("world::cuts"), &[("tests/sim/target.rs", listed)]), "");
        let script = trial("tests/scripts/a.txt");
        assert_eq!(found(&script, &[("tests/scripts/a.txt", "# R7: asks\n")]), "");
        assert_ne!(found(&script, &[("tests/scripts/a.txt", "# asks\n")]), "");
        assert_ne!(found(&script, &[]), "");
    }

    #[test]
    fn a_place_in_the_code_must_exist() {
        let met = |place: &str| format!("status = \"met\"\ncode = [\"{place}\"]");
        let files = [
            ("src/a.rs", "pub(super) fn admit(&mut self) {}\nstruct Front;\n"),
            ("src/lab/b.rs", "fn f() {}\n"),
        ];
        for place in ["src/a.rs#admit", "src/a.rs#Front"] {
            assert_eq!(found(&met(place), &files), "");
        }
        for place in ["src/a.rs#adm", "src/a.rs#dmit", "src/b.rs#admit", "src/a.rs", "src/lab/b.rs#f"] {
            assert!(found(&met(place), &files).contains("does not exist"), "{place}");
        }
    }

    #[test]
    fn a_number_that_does_not_exist_is_found_wherever_it_is_cited() {
        let after = LAST + 1;
        let fine = "status = \"deviates\"\nbecause = \"x\"";
        for text in [
            format!("// (R{after})"),
            format!("fn a_read_r{after}() {{}}"),
            format!("fn r{after}_a_read() {{}}"),
            format!("Broken {{ requirement: {after}, what }}"),
            format!("self.judge.rule(\n    {after},\n    true)"),
            format!("// R{}", 0),
        ] {
            assert!(found(fine, &[("src/a.rs", &text)]).contains("there is no requirement"), "{text}");
        }
        for text in ["R2T, max_outstanding_r2t, r900, Rx900, requirement 900, rules(900)", "R7 and a_r8"] {
            assert_eq!(found(fine, &[("tests/a.rs", text)]), "", "{text}");
        }
    }
}
