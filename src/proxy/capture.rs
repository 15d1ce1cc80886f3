//! What is on the tapes of running sessions, for who asks.

use super::operator::{Asked, Desk, Operator};
use super::pcapng;
use super::tape::Recording;

impl Operator {
    /// The latest PDU headers as a pcapng file: of this target and this initiator, if they are named. None if none are kept.
    pub async fn capture(&self, target: Option<&str>, initiator: Option<&str>) -> Option<Vec<u8>> {
        let black_box = self.shared.black_box.clone()?;
        let fits = |wanted: Option<&str>, name: &str| wanted.is_none_or(|wanted| wanted == name);
        let mut asked = Vec::new();
        for (key, _, desk) in self.shared.registry.desks() {
            if let Some(desk) = desk.filter(|_| fits(target, &key.target) && fits(initiator, &key.initiator))
            {
                asked.push(async move { desk.recordings().await });
            }
        }
        let recordings = futures_util::future::join_all(asked).await.concat();
        tokio::task::spawn_blocking(move || pcapng::file(&black_box, &recordings)).await.ok()
    }
}

impl Desk {
    /// Nothing if it does not answer.
    async fn recordings(&self) -> Vec<Recording> {
        self.ask(Asked::Recordings).await.unwrap_or_default()
    }
}
