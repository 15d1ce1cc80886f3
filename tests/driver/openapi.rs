//! The description of the interface fits what is answered.

use crate::cuts::Links;
use crate::rig::{Client, TARGET, bounded, pattern};
use braid::admin::{explain::Explanation, view};
use braid::proxy::operator::PathOrder;
use serde_json::{Value, json};
use std::time::Duration;

fn description() -> Value {
    serde_json::from_str(include_str!("../../src/admin/openapi.json")).unwrap()
}

/// What of an answer is not as the schema of this name says; every field must be described.
fn differences(name: &str, answer: impl serde::Serialize) -> Vec<String> {
    let mut found = Vec::new();
    let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
    compare(&description(), &schema, &serde_json::to_value(answer).unwrap(), name, &mut found);
    found
}

fn compare(all: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str() {
        let target = all.pointer(name.trim_start_matches('#'));
        return compare(all, target.unwrap_or_else(|| panic!("{name} is not there")), value, at, found);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = |choice: &Value| {
            let mut none = Vec::new();
            compare(all, choice, value, at, &mut none);
            none.is_empty()
        };
        if !choices.iter().any(fits) {
            found.push(format!("{at} is none of the choices: {value}"));
        }
        return;
    }
    if let Some(words) = schema["enum"].as_array() {
        if !words.contains(value) {
            found.push(format!("{at} is no word that is known: {value}"));
        }
        return;
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let said = &schema["type"];
    if said != kind && !said.as_array().is_some_and(|kinds| kinds.contains(&kind.into())) {
        found.push(format!("{at} is {kind}, not {said}"));
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        compare(all, &schema["items"], item, &format!("{at}[{index}]"), found);
    }
    let Some(fields) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap()) {
            found.push(format!("{at}.{name} is missing"));
        }
    }
    for (name, field) in fields {
        let described = match &schema["properties"][name] {
            Value::Null => &schema["additionalProperties"],
            described => described,
        };
        if described.is_object() {
            compare(all, described, field, &format!("{at}.{name}"), found);
        } else {
            found.push(format!("{at}.{name} is not described"));
        }
    }
}

#[tokio::test]
async fn answers_are_as_described() {
    bounded(async {
        let rig = Links::new(2, "mode = \"sessions\"").await;
        let operator = rig.proxy.operator();
        let mut client = Client::login(rig.proxy.addresses()[0], 1).await.unwrap();
        assert_eq!(client.write(0, &pattern(8, 1)).await.status, 0);
        rig.links[1].cut_reset().await;
        while rig.losses() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let path = rig.links[0].address().to_string();
        operator.order(TARGET, &path, PathOrder::Weigh(2), false).await.unwrap();
        let status = view::Status::of(&operator).await;
        assert!(status.targets[0].sessions[0].standing.is_some() && status.uptime_seconds > 0.0);
        let totals = status.targets[0].paths.iter().filter_map(|path| path.totals.as_ref());
        assert!(totals.map(|totals| totals.written_bytes).sum::<u64>() >= 8 * 512);
        assert_eq!(differences("Status", &status), Vec::<String>::new());
        let told = Explanation::from(operator.explain(TARGET).await.unwrap());
        assert!(!told.sessions[0].units.is_empty());
        assert_eq!(differences("Explanation", &told), Vec::<String>::new());
        let news = view::News::from(operator.events().after(0));
        assert!(news.events.len() >= 3);
        assert_eq!(differences("News", &news), Vec::<String>::new());
    })
    .await;
}

#[test]
fn answers_about_the_configuration_are_as_described() {
    let changes = ["now", "new-sessions", "restart"].map(|effect| view::Change {
        target: Some("iqn.a".to_owned()),
        setting: "window".to_owned(),
        old: None,
        new: Some("9".to_owned()),
        effect: effect.to_owned(),
        place: "braid.toml:1:1".to_owned(),
    });
    let notes = vec!["a note".to_owned()];
    let done = view::Reloaded { applied: true, changes: changes.to_vec(), sessions: 1, notes };
    assert_eq!(differences("Reloaded", done), Vec::<String>::new());
    let refused = view::Refused { error: "no".to_owned(), changes: changes.to_vec() };
    assert_eq!(differences("Refused", refused), Vec::<String>::new());
    assert_eq!(differences("ReloadOrder", view::ReloadOrder { check: true }), Vec::<String>::new());
}

#[test]
fn what_is_not_as_described_is_found() {
    assert_eq!(differences("Done", json!({ "sessions": 1 })), Vec::<String>::new());
    assert_eq!(differences("Done", json!({ "sessions": "1" })).len(), 1);
    assert_eq!(differences("Done", json!({})).len(), 1);
    assert_eq!(differences("Done", json!({ "sessions": 1, "more": 2 })).len(), 1);
    let path = json!({ "path": "left", "may": "much", "why": null });
    assert_eq!(differences("UnitPath", path).len(), 2);
}
