//! Pairing: QRs that follow each other, and the phone that scans one.

use std::sync::Arc;

use actors::model::PhoneNumber;
use actors::ports::connector::{ConnectorError, Note, Sink};
use actors::ports::simulation::SimulationError;
use tokio::time::Instant;

use super::Node;
use super::chance;
use super::digits::Digits;
use super::line::{Account, Line, QrMaker, Scan};
use super::network::{Network, Trouble};
use super::record::{self, Link};
use super::timers::What;

/// How often a link that is given up is erased before that is left to the next pairing.
const ERASURES_MAX: u32 = 6;

impl Node {
    /// Runs something that makes QRs for a line.
    pub(super) fn with_qr_maker<T>(&self, line: &Line, run: impl FnOnce(&QrMaker<'_>) -> T) -> T {
        let text =
            |turn, attempt| chance::pairing_text(self.options.seed, line.device, turn, attempt);
        let lives = (self.options.first_qr, self.options.next_qr);
        run(&QrMaker {
            text: &text,
            lives,
            qr_max: self.options.qr_max,
            now: self.clock.now(),
        })
    }

    /// Starts to pair. A link that is there gives way to the new one.
    pub(super) async fn pair(
        &self,
        network: &Network,
        line: &Arc<Line>,
        session: u64,
        sink: &Arc<dyn Sink>,
    ) -> Result<(), ConnectorError> {
        let _lane = line.lane.lock().await;
        if line.account().is_some() {
            let erased = self
                .write_value(line.tenant, record::link_key(line.device), None)
                .await;
            erased.map_err(|error| ConnectorError::Failed {
                reason: error.to_string(),
            })?;
            self.unlink(network, line, None);
        }
        let armed = self.with_qr_maker(line, |maker| line.show_qr(session, sink, maker));
        self.timers
            .set(armed.map(|at| (at, What::Qr(Arc::clone(line)))));
        Ok(())
    }

    /// Takes the account from a line and frees its number.
    fn unlink(&self, network: &Network, line: &Line, note: Option<Note>) {
        if let Some(account) = line.unlink(note) {
            network.release(line, account.digits);
        }
    }

    /// Gives up the link of a device, for good.
    pub(super) async fn give_up_link(&self, network: &Network, line: &Line, note: Option<Note>) {
        let _lane = line.lane.lock().await;
        self.unlink(network, line, note);
        for _ in 0..ERASURES_MAX {
            if self
                .write_value(line.tenant, record::link_key(line.device), None)
                .await
                .is_ok()
            {
                line.taken();
                return;
            }
            tokio::time::sleep(line.back_off()).await;
        }
        tracing::warn!(tenant = %line.tenant, device = %line.device, "the link of a simulated device could not be erased");
    }

    /// Plays the phone that scans: waits for a QR and links the device.
    pub(super) async fn scan(
        &self,
        network: &Arc<Network>,
        line: &Arc<Line>,
        number: Option<&PhoneNumber>,
    ) -> Result<(), SimulationError> {
        let until = Instant::now() + self.options.scan_wait;
        loop {
            let shown = line.shown.notified();
            tokio::pin!(shown);
            shown.as_mut().enable();
            if self.try_scan(network, line, number).await? {
                return Ok(());
            }
            if tokio::time::timeout_at(until, shown).await.is_err() {
                return Err(SimulationError::NoQr);
            }
        }
    }

    async fn try_scan(
        &self,
        network: &Arc<Network>,
        line: &Arc<Line>,
        number: Option<&PhoneNumber>,
    ) -> Result<bool, SimulationError> {
        let _lane = line.lane.lock().await;
        let (turn, own_number) = match line.scan() {
            Scan::Nothing => return Ok(false),
            Scan::Linked => return Ok(true),
            Scan::Qr { turn, own_number } => (turn, own_number),
        };
        let wanted = number
            .or(own_number.as_ref())
            .and_then(|it| Digits::parse(it.digits()));
        let digits = network
            .claim(line, wanted, self.options.seed)
            .ok_or(SimulationError::NumberTaken)?;
        let linked = self.link(network, line, digits, turn).await;
        if !matches!(linked, Ok(true)) {
            network.release(line, digits);
        }
        Ok(linked?)
    }

    /// Links a device; false where its session has gone in the meantime.
    async fn link(
        &self,
        network: &Arc<Network>,
        line: &Arc<Line>,
        digits: Digits,
        turn: u64,
    ) -> Result<bool, Trouble> {
        let Some(number) = digits.number() else {
            return Err(Trouble::Away);
        };
        let link = Link {
            number,
            banned: false,
            restricted: None,
        };
        self.write_value(
            line.tenant,
            record::link_key(line.device),
            Some(record::encode(&link)?),
        )
        .await?;
        let Some(account) = Account::new(link) else {
            return Err(Trouble::Away);
        };
        if !line.link(turn, account) {
            self.write_value(line.tenant, record::link_key(line.device), None)
                .await?;
            return Ok(false);
        }
        if network.mail.waits_for(digits) {
            self.chores.drain(line);
        } else {
            self.arrive(line, turn);
        }
        Ok(true)
    }
}

impl From<Trouble> for SimulationError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Busy => Self::Busy,
            Trouble::Away => Self::Away,
            Trouble::Full => Self::Full,
            Trouble::Failed => Self::Failed,
            Trouble::Unknown => Self::Unknown,
        }
    }
}
