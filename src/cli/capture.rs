//! `braid capture`: the latest PDU headers of a running Braid, for Wireshark.

use super::client::{NOTHING, escaped, must_know, request};
use super::exit::Failure;
use super::flags::Capture;
use anyhow::{Context, anyhow};
use hyper::Method;
use std::io::{IsTerminal, Write};
use std::path::Path;

/// Writes them to a file, or to standard output.
///
/// # Errors
/// No Braid answers, it keeps none, or the file cannot be written.
pub fn capture(asked: &Capture) -> Result<(), Failure> {
    let to_stdout = asked.file == Path::new("-");
    if to_stdout && std::io::stdout().is_terminal() {
        let complaint = "a capture is nothing for a terminal: name a file, or pass it on, as in `braid capture - | tshark -r -`";
        return Err(Failure::Wrong(complaint.to_owned()));
    }
    must_know(&asked.running, asked.target.as_deref())?;
    let named = [("target", &asked.target), ("initiator", &asked.initiator)];
    let named = named.iter().filter_map(|(key, name)| Some(format!("{key}={}", escaped((*name).as_ref()?))));
    let uri = format!("/v1/capture?{}", named.collect::<Vec<_>>().join("&"));
    let bytes = match request(&asked.running, Method::GET, &uri, NOTHING)? {
        Ok(bytes) => bytes,
        Err((_, refused)) => return Err(anyhow!(refused.error).into()),
    };
    if to_stdout {
        // Whoever reads has gone.
        std::io::stdout().write_all(&bytes).ok();
        return Ok(());
    }
    std::fs::write(&asked.file, &bytes).with_context(|| format!("cannot write {}", asked.file.display()))?;
    let file = asked.file.display();
    println!("{file}: {} bytes; look at it with `wireshark {file}` or `tshark -r {file}`", bytes.len());
    Ok(())
}
