//! Readers of single values: what may be written, and what to say when something else was.
//!
//! Each reader takes a value as typed and gives the setting or a message that says what to write instead. What flags
//! carry is always text, so readers of numbers take text too.

use super::draft::Value;
use super::{Config, ControlSocket, Digest, Intercept, Level, LogFormat, Mode, Recovery};
use crate::path::select::Policy;
use crate::session::{Barriers, Exhausted, FenceMethod};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// What a reader gives.
pub(crate) type Read<T> = Result<T, String>;

/// A string that is not empty.
pub(crate) fn text(value: &Value) -> Read<String> {
    match value {
        Value::Text(text) if !text.trim().is_empty() => Ok(text.clone()),
        Value::Text(_) => Err("must not be empty".to_owned()),
        Value::Integer(_) | Value::Boolean(_) | Value::List(_) | Value::Table(_) | Value::Other(_) => {
            Err(format!("is {}, must be a string in quotes", value.kind()))
        }
    }
}

/// A whole number from `low` to `high`.
pub(crate) fn number(value: &Value, low: u32, high: u32) -> Read<u32> {
    let typed = match value {
        Value::Integer(number) => Some(*number),
        Value::Text(text) => text.trim().parse().ok(),
        Value::Boolean(_) | Value::List(_) | Value::Table(_) | Value::Other(_) => None,
    };
    typed
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| (low..=high).contains(number))
        .ok_or_else(|| format!("must be a whole number from {low} to {high}"))
}

/// True or false.
pub(crate) fn boolean(value: &Value) -> Read<bool> {
    match value {
        Value::Boolean(value) => Ok(*value),
        Value::Text(_) | Value::Integer(_) | Value::List(_) | Value::Table(_) | Value::Other(_) => {
            Err(format!("is {}, must be true or false, without quotes", value.kind()))
        }
    }
}

/// A duration such as `500ms`, `5s` or `2min`, from `low` to `high`.
pub(crate) fn duration(value: &Value, low: Duration, high: Duration) -> Read<Duration> {
    let range =
        || format!("from {} to {}", humantime::format_duration(low), humantime::format_duration(high));
    let Value::Text(text) = value else {
        return Err(format!(
            "is {}, must be a duration with its unit in quotes, such as \"5s\"",
            value.kind()
        ));
    };
    let typed = humantime::parse_duration(text.trim()).map_err(|_| {
        format!("\"{text}\" is not a duration; write one such as \"500ms\", \"5s\" or \"2min\"")
    })?;
    if (low..=high).contains(&typed) {
        Ok(typed)
    } else {
        Err(format!("\"{text}\" is out of range: {}", range()))
    }
}

/// A number of bytes such as `65536`, `"64KiB"` or `"1MiB"`, from `low` to `high`.
pub(crate) fn size(value: &Value, low: u64, high: u64) -> Read<u64> {
    let typed = match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::Text(text) => parse_size(text),
        Value::Boolean(_) | Value::List(_) | Value::Table(_) | Value::Other(_) => None,
    };
    let typed = typed.ok_or("must be a size in bytes, such as 65536, \"64KiB\" or \"1MiB\"")?;
    if (low..=high).contains(&typed) {
        Ok(typed)
    } else {
        Err(format!("{typed} bytes is out of range: from {low} to {high}"))
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "K" | "k" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A share such as `"5%"` or `"99.9%"`, from `low` to `high`, in thousandths.
pub(super) fn thousandths(value: &Value, low: u16, high: u16) -> Read<u16> {
    let typed = match value {
        Value::Text(text) => text.trim().strip_suffix('%').and_then(parse_thousandths),
        Value::Integer(_) | Value::Boolean(_) | Value::List(_) | Value::Table(_) | Value::Other(_) => None,
    };
    let range = || format!("from \"{}\" to \"{}\"", percent(low), percent(high));
    typed.filter(|typed| (low..=high).contains(typed)).ok_or_else(|| {
        format!("must be a share in quotes, with at most one decimal, such as \"5%\", {}", range())
    })
}

fn parse_thousandths(text: &str) -> Option<u16> {
    let text = text.trim();
    let (whole, tenths) = text.split_once('.').unwrap_or((text, "0"));
    let tenths = Some(tenths).filter(|tenths| tenths.len() == 1)?;
    whole.parse::<u16>().ok()?.checked_mul(10)?.checked_add(tenths.parse().ok()?)
}

/// Thousandths as they are written.
pub(super) fn percent(thousandths: u16) -> String {
    match (thousandths / 10, thousandths % 10) {
        (whole, 0) => format!("{whole}%"),
        (whole, tenths) => format!("{whole}.{tenths}%"),
    }
}

/// How many reads in a thousand are not late; none if none is.
pub(super) fn late(value: &Value) -> Read<Option<u16>> {
    if *value == Value::Text("off".to_owned()) {
        return Ok(None);
    }
    thousandths(value, 500, 999).map(Some).map_err(|problem| format!("{problem}; or \"off\""))
}

/// An address, with the iSCSI port if none is written.
pub(super) fn address(text: &str) -> Read<SocketAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, 3260));
    }
    let port_alone = |ip: &str| ip.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    match (text.parse::<SocketAddr>(), text.rsplit_once(':')) {
        (Ok(address), _) if address.port() == 0 => Err(format!("\"{text}\": port 0 cannot be used")),
        (Ok(address), _) => Ok(address),
        (Err(_), Some((ip, port))) if port_alone(ip) => Err(format!(
            "\"{text}\": \"{port}\" is no port; write one from 1 to 65535, such as \"{ip}:3260\""
        )),
        (Err(_), _) => Err(format!(
            "\"{text}\" is not an IP address with a port; write it as \"10.0.0.1:3260\" or \"[fd00::1]:3260\" \
             (host names are not taken, since they may mean something else tomorrow)"
        )),
    }
}

/// The address of a target's portal: a real one.
pub(crate) fn portal(text: &str) -> Read<SocketAddr> {
    let address = address(text)?;
    if address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(format!("\"{text}\" is no address of a target; write the portal's own address"));
    }
    Ok(address)
}

/// The admin address, or `off`.
pub(super) fn admin(value: &Value) -> Read<Option<SocketAddr>> {
    let text = text(value)?;
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        format!("\"{text}\" is not an address; write it as \"{}\", or \"off\"", Config::DEFAULT_ADMIN)
    })
}

/// Path of the control socket, or `off`.
pub(super) fn control(value: &Value) -> Read<ControlSocket> {
    let text = text(value)?;
    match text.as_str() {
        "off" => Ok(ControlSocket::Off),
        path if path.starts_with('/') => Ok(ControlSocket::At(PathBuf::from(path))),
        other => Err(format!(
            "\"{other}\" is no absolute path; write it as \"{}\", or \"off\"",
            Config::DEFAULT_CONTROL
        )),
    }
}

/// An iSCSI name (RFC 7143 section 4.2.7).
pub(crate) fn iscsi_name(value: &Value) -> Read<String> {
    let name = text(value)?;
    if name.contains(['*', '?']) {
        return Err(format!(
            "\"{name}\" is a pattern; write the target's whole name, or discover = true beside it"
        ));
    }
    let known = ["iqn.", "eui.", "naa."].iter().any(|prefix| name.starts_with(prefix));
    if !known {
        return Err(format!("\"{name}\" is no iSCSI name; it begins with iqn., eui. or naa."));
    }
    if name.len() > 223 {
        return Err(format!("is {} bytes long; an iSCSI name has at most 223", name.len()));
    }
    match name.chars().find(|c| c.is_whitespace() || c.is_control() || "=,/\\".contains(*c)) {
        Some('*' | '?') => Err(format!(
            "\"{name}\" is a pattern; write the target's whole name, or discover = true beside it"
        )),
        Some(wrong) => Err(format!("\"{name}\" contains {wrong:?}, which no iSCSI name does")),
        None => Ok(name),
    }
}

/// An iSCSI name, or a pattern of such names, in which `*` stands for anything and `?` for one character.
pub(super) fn name_pattern(value: &Value) -> Read<String> {
    let name = text(value)?;
    if !name.contains(['*', '?']) {
        return iscsi_name(value);
    }
    match name.chars().find(|c| c.is_whitespace() || c.is_control() || "=,/\\".contains(*c)) {
        Some(wrong) => Err(format!("\"{name}\" contains {wrong:?}, which no iSCSI name does")),
        None => Ok(name),
    }
}

/// One word of a list.
pub(crate) fn word<T: Copy>(value: &Value, words: &[(&str, T)]) -> Read<T> {
    let all = || words.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    let typed = text(value).map_err(|_| format!("must be one of {}", all()))?;
    if let Some((_, meaning)) = words.iter().find(|(name, _)| *name == typed) {
        return Ok(*meaning);
    }
    let hint = nearest(&typed, words.iter().map(|(name, _)| *name));
    let hint = hint.map_or(String::new(), |name| format!("; did you mean \"{name}\"?"));
    Err(format!("\"{typed}\" is not known; it must be one of {}{hint}", all()))
}

/// Words for [`Mode`].
pub(super) const MODES: &[(&str, Mode)] =
    &[("auto", Mode::Auto), ("mcs", Mode::Mcs), ("sessions", Mode::Sessions)];

/// Words for [`Intercept`].
pub(super) const INTERCEPTS: &[(&str, Intercept)] =
    &[("redirect", Intercept::Redirect), ("tproxy", Intercept::Tproxy)];

/// Words for [`Policy`].
pub(super) const POLICIES: &[(&str, Policy)] = &[
    ("service-time", Policy::ServiceTime),
    ("queue-depth", Policy::QueueDepth),
    ("round-robin", Policy::RoundRobin),
    ("weighted", Policy::Weighted),
    ("failover", Policy::Failover),
];

/// Words for [`Barriers`].
pub(super) const BARRIERS: &[(&str, Barriers)] =
    &[("strict", Barriers::Strict), ("native", Barriers::Native)];

/// Words for [`Recovery`].
pub(super) const RECOVERIES: &[(&str, Recovery)] =
    &[("reinstate", Recovery::Reinstate), ("reassign", Recovery::Reassign)];

/// Words for [`Exhausted`].
pub(super) const EXHAUSTED: &[(&str, Exhausted)] = &[("close", Exhausted::Close), ("busy", Exhausted::Busy)];

/// Words for [`FenceMethod`].
pub(super) const FENCES: &[(&str, FenceMethod)] = &[
    ("auto", FenceMethod::Auto),
    ("reinstate", FenceMethod::Reinstate),
    ("ordered", FenceMethod::Ordered),
    ("time", FenceMethod::Time),
];

/// Words for [`Level`].
pub(super) const LEVELS: &[(&str, Level)] = &[("read", Level::Read), ("control", Level::Control)];

pub(super) fn level(value: &Value) -> Read<Level> {
    word(value, LEVELS)
}

pub(super) fn mode(value: &Value) -> Read<Mode> {
    word(value, MODES)
}

pub(super) fn intercept(value: &Value) -> Read<Intercept> {
    word(value, INTERCEPTS)
}

pub(super) fn policy(value: &Value) -> Read<Policy> {
    word(value, POLICIES)
}

pub(super) fn barriers(value: &Value) -> Read<Barriers> {
    word(value, BARRIERS)
}

pub(super) fn recovery(value: &Value) -> Read<Recovery> {
    word(value, RECOVERIES)
}

pub(super) fn exhausted(value: &Value) -> Read<Exhausted> {
    word(value, EXHAUSTED)
}

pub(super) fn fence(value: &Value) -> Read<FenceMethod> {
    word(value, FENCES)
}

pub(super) fn digest(value: &Value) -> Read<Digest> {
    word(value, &[("none", Digest::None), ("prefer", Digest::Prefer), ("crc32c", Digest::Crc32c)])
}

pub(super) fn log_format(value: &Value) -> Read<LogFormat> {
    word(value, &[("human", LogFormat::Human), ("json", LogFormat::Json)])
}

/// The word for a meaning.
pub(super) fn name_of<T: PartialEq>(words: &[(&'static str, T)], meaning: &T) -> &'static str {
    words.iter().find(|(_, candidate)| candidate == meaning).map_or("", |(name, _)| name)
}

/// A log filter.
pub(super) fn log_filter(value: &Value) -> Read<String> {
    let filter = text(value)?;
    match tracing_subscriber::EnvFilter::try_new(&filter) {
        Ok(_) => Ok(filter),
        Err(error) => Err(format!("{error}; write a level such as \"info\", or \"braid::proxy=debug,info\"")),
    }
}

/// The known word nearest to what was typed, if it is near enough to be a slip.
pub(super) fn nearest<'w>(typed: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let limit = (typed.chars().count() / 3).max(1);
    let plain = |word: &str| word.to_ascii_lowercase().replace('-', "_");
    words
        .into_iter()
        .map(|word| (distance(&plain(typed), &plain(word)), word))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Insertions, deletions and replacements that turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (to, above) in b.iter().zip(row.iter().skip(1)) {
            left = (diagonal + usize::from(from != *to)).min(above + 1).min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units_and_nothing_else() {
        for (text, bytes) in [("512", 512), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("2G", 2 << 30)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "KiB", "1.5MiB", "-1", "10MB", "99999999999999GiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_get_the_iscsi_port() {
        assert_eq!(address("10.0.0.1").unwrap().to_string(), "10.0.0.1:3260");
        assert_eq!(address("fd00::1").unwrap().to_string(), "[fd00::1]:3260");
        assert_eq!(address("[fd00::1]").unwrap().to_string(), "[fd00::1]:3260");
        assert_eq!(address("[fd00::1]:860").unwrap().to_string(), "[fd00::1]:860");
        assert!(address("storage:3260").unwrap_err().contains("host names"));
        assert!(address("10.0.0.1:0").is_err());
        assert!(portal("0.0.0.0:3260").is_err());
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("polcy", "policy"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(nearest("ping-intervall", ["ping_timeout", "ping_interval"]), Some("ping_interval"));
        assert_eq!(nearest("colour", ["ping_timeout", "mode"]), None);
    }
}
