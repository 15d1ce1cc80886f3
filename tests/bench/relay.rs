//! What Braid is measured against: a plain TCP relay, as good as one can be without leaving user space.
//!
//! One thread, one task per connection, both directions in it, 256 KiB of buffer each, no delay.

use anyhow::Result;
use std::net::SocketAddr;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

const BUFFER: usize = 256 << 10;

/// Relays until it is killed.
pub(crate) fn serve(listen: SocketAddr, to: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (downstream, _) = listener.accept().await?;
            tokio::spawn(async move {
                if let Err(error) = relay(downstream, to).await {
                    eprintln!("relay: {error}");
                }
            });
        }
    })
}

async fn relay(mut downstream: TcpStream, to: SocketAddr) -> Result<()> {
    let mut upstream = TcpStream::connect(to).await?;
    downstream.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    copy_bidirectional_with_sizes(&mut downstream, &mut upstream, BUFFER, BUFFER).await?;
    Ok(())
}
