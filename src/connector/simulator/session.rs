//! One device's session on the simulated network.

use std::fmt;
use std::sync::Arc;

use actors::ports::connector::{Command, ConnectorError, Outcomes, Session, Sink, Start, Stop};
use async_trait::async_trait;

use super::Node;
use super::handover::Sender;
use super::line::{Line, Resume};
use super::network::Network;

/// A session. When it is let go without a word, the network takes it for a disconnect.
pub(super) struct SimulatedSession {
    node: Arc<Node>,
    network: Arc<Network>,
    line: Arc<Line>,
    sink: Arc<dyn Sink>,
    id: u64,
}

impl SimulatedSession {
    /// A session that has not started.
    pub(super) const fn new(
        node: Arc<Node>,
        network: Arc<Network>,
        line: Arc<Line>,
        sink: Arc<dyn Sink>,
        id: u64,
    ) -> Self {
        Self {
            node,
            network,
            line,
            sink,
            id,
        }
    }
}

#[async_trait]
impl Session for SimulatedSession {
    async fn start(&self, how: Start) -> Result<(), ConnectorError> {
        match how {
            Start::LinkQr => {
                self.node
                    .pair(&self.network, &self.line, self.id, &self.sink)
                    .await
            }
            Start::Resume => {
                match self.line.resume(self.id, &self.sink) {
                    Resume::Turned => {}
                    Resume::Going { digits, turn: _ } if self.network.mail.waits_for(digits) => {
                        self.node.chores.drain(&self.line);
                    }
                    Resume::Going { digits: _, turn } => self.node.arrive(&self.line, turn),
                }
                Ok(())
            }
        }
    }

    async fn execute(&self, command: Command) -> Result<Outcomes, ConnectorError> {
        let own = self
            .line
            .on_air(self.id)
            .ok_or(ConnectorError::NotConnected)?;
        match command {
            Command::Send(batch) => {
                let from = Sender {
                    network: &self.network,
                    line: &self.line,
                    own: &own,
                };
                Ok(self.node.hand_over(&from, &batch).await)
            }
            Command::MarkRead { chat, upstream_ids } => {
                self.node
                    .mark_read(&self.network, &own, &chat, &upstream_ids)
                    .await;
                Ok(Vec::new())
            }
            Command::Typing { chat, typing } => {
                self.node.type_to(&self.network, &own, &chat, typing);
                Ok(Vec::new())
            }
        }
    }

    async fn stop(&self, how: Stop) {
        self.line.leave(self.id);
        match how {
            Stop::Disconnect => {}
            Stop::Logout => {
                self.node
                    .give_up_link(&self.network, &self.line, None)
                    .await;
            }
        }
    }
}

impl Drop for SimulatedSession {
    fn drop(&mut self) {
        self.line.leave(self.id);
    }
}

impl fmt::Debug for SimulatedSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedSession")
            .field("line", &self.line)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
