//! A probe's report as a table for people.

use super::super::verdict::{Loss, Order, Second};
use super::{CONNECTIONS, ProbeReport};

/// The report as a table, one row for each question, ending with the verdict and a newline.
#[must_use]
pub fn render(report: &ProbeReport) -> String {
    let verdict = &report.verdict;
    let product = &verdict.product;
    let tag = product.tpgt.map_or_else(|| "not told".to_owned(), |tag| tag.to_string());
    let [first, second] = &report.portals;
    let rows = [
        ("target", verdict.target.clone()),
        ("portals", format!("{first}, {second}")),
        ("portal group", tag),
        ("product", [product.vendor.as_str(), &product.product, &product.revision].join(" ")),
        ("MaxConnections", format!("{} granted ({CONNECTIONS} offered)", verdict.max_connections)),
        ("second connection", second_text(&verdict.second)),
        ("order", order_text(verdict.order).to_owned()),
        ("lost connection", loss_text(report)),
        ("logout", if report.clean_logout { "answered" } else { "not possible or not answered" }.to_owned()),
        ("several connections", mcs_text(report)),
    ];
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

fn second_text(second: &Second) -> String {
    match second {
        Second::NotAllowed => "not tried: one connection allowed".to_owned(),
        Second::Hazardous => "not tried: the target may crash".to_owned(),
        Second::Joined => "joined".to_owned(),
        Second::Refused(why) => format!("refused: {why}"),
        Second::Unreachable(why) => format!("not made: {why}"),
        Second::OtherGroup(tag) => format!("its portal is in portal group {tag}"),
    }
}

const fn order_text(order: Order) -> &'static str {
    match order {
        Order::Unknown => "not tested",
        Order::Held => "kept: a command waits for its predecessor on the other connection",
        Order::RanEarly => "broken: a command runs before its predecessor on the other connection",
        Order::Stuck => "broken: a command stays unanswered after its predecessor has come",
        Order::Closed => "broken: the target closes a connection when a command overtakes another",
    }
}

fn loss_text(report: &ProbeReport) -> String {
    match (report.verdict.loss, report.ended_after) {
        (Loss::Unknown, _) => "not tested".to_owned(),
        (Loss::Rejoins, _) => "the session lives on, and a new connection may join".to_owned(),
        (Loss::Shrinks, _) => "the session lives on, but no new connection may join".to_owned(),
        (Loss::Stuck, _) => "the session answers no more".to_owned(),
        (Loss::EndsSession, Some(after)) => format!("ends the session after {:.1} s", after.as_secs_f64()),
        (Loss::EndsSession, None) => "ends the session".to_owned(),
    }
}

fn mcs_text(report: &ProbeReport) -> String {
    match report.verdict.objection() {
        None => format!("yes, up to {} in one session", report.verdict.max_connections),
        Some(why) => format!("no, one session per path: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::verdict::{Product, Verdict};
    use std::time::Duration;

    #[test]
    fn the_table_says_what_was_found() {
        let product = Product {
            tpgt: Some(1),
            vendor: "VENDOR".to_owned(),
            product: "DISK".to_owned(),
            revision: "4.0".to_owned(),
        };
        let verdict = Verdict {
            target: "iqn.a".to_owned(),
            product,
            max_connections: 8,
            second: Second::Joined,
            order: Order::Held,
            loss: Loss::EndsSession,
        };
        let report = ProbeReport {
            portals: ["192.0.2.1:3260".to_owned(), "192.0.2.2:3260".to_owned()],
            verdict,
            ended_after: Some(Duration::from_millis(2040)),
            clean_logout: false,
        };
        let table = render(&report);
        let expected = [
            "target               iqn.a\n",
            "product              VENDOR DISK 4.0\n",
            "MaxConnections       8 granted (8 offered)\n",
            "lost connection      ends the session after 2.0 s\n",
            "several connections  yes, up to 8 in one session\n",
        ];
        assert!(expected.iter().all(|row| table.contains(row)), "{table}");
        let refused = Verdict { second: Second::NotAllowed, order: Order::Unknown, ..report.verdict.clone() };
        let table = render(&ProbeReport { verdict: refused, ..report });
        assert!(
            table.ends_with("no, one session per path: the target allows one connection per session\n"),
            "{table}"
        );
    }
}
