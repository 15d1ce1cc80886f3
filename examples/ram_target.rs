//! The lab's RAM-disk target on its own: `cargo run --release --example ram_target -- [PORTALS] [MIB] [PORT]`.
//!
//! Portals listen on 127.0.0.1 from PORT on (3260 by default); point any initiator at one of them. Ends with Ctrl-C.

#![expect(clippy::print_stdout, reason = "this is what a person reads")]

use anyhow::Context;
use braid::lab::target::{RamTarget, TargetOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| -> anyhow::Result<u64> {
        arguments
            .next()
            .map_or(Ok(default), |text| text.parse().with_context(|| format!("not a number: {text}")))
    };
    let (portals, mebibytes, port) = (number(4)?, number(64)?, number(3260)?);
    let mut options = TargetOptions::loopback(usize::try_from(portals)?);
    for (listen, port) in options.listen.iter_mut().zip(u16::try_from(port)?..) {
        listen.address.set_port(port);
    }
    for disk in &mut options.target.disks {
        disk.blocks = mebibytes * 2048;
    }
    let name = options.target.name.clone();
    let target = RamTarget::start(options).await?;
    for address in target.addresses() {
        println!("iscsi://{address}/{name}/0");
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
