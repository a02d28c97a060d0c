//! One device's line into the network: its account, its session, and the lane in which everything reaches it.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use actors::model::{DeviceId, Health, HealthState, Jid, PhoneNumber, Qr, TenantId, Timestamp};
use actors::ports::connector::{Note, Sink};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::digits::Digits;
use super::dues::Dues;
use super::network::Network;
use super::record::{Link, Restriction};

/// An account, and how it is spoken of.
#[derive(Clone, Debug)]
pub(super) struct Account {
    /// What the store keeps.
    pub(super) link: Link,
    /// Its number.
    pub(super) digits: Digits,
    /// Its address.
    pub(super) jid: Jid,
}

impl Account {
    /// The account of a link.
    pub(super) fn new(link: Link) -> Option<Self> {
        let digits = Digits::parse(link.number.digits())?;
        let jid = Jid::person(&link.number);
        Some(Self { link, digits, jid })
    }
}

/// How far a session got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// Not on the network.
    Away,
    /// Shows a QR: which one, and until when.
    Pairing { attempt: u32, until: Instant },
    /// Gets what was kept for it.
    Resuming,
    /// On the network.
    Online,
}

struct State {
    account: Option<Account>,
    own_number: Option<PhoneNumber>,
    presence: Presence,
    /// Counts starts and stops: work that began under another turn has no say any more.
    turn: u64,
    /// Which session started last.
    session: u64,
    sink: Option<Arc<dyn Sink>>,
    /// Whether a timer for the next QR is set; there is never more than one.
    qr_armed: bool,
    /// The same for the end of a restriction.
    health_armed: bool,
}

impl State {
    fn note(&self, note: Note) {
        if let Some(sink) = &self.sink {
            sink.notify(note);
        }
    }

    fn restriction(&self) -> Option<&Restriction> {
        self.account.as_ref()?.link.restricted.as_ref()
    }

    fn leave(&mut self) {
        self.turn += 1;
        self.presence = Presence::Away;
        self.sink = None;
    }
}

/// How a device can be reached.
pub(super) enum Reach {
    /// At once.
    Online(Arc<dyn Sink>),
    /// It is linked, and will come back.
    Away,
    /// There is no such account.
    Nobody,
}

/// What the phone that scans finds.
pub(super) enum Scan {
    /// Nothing is shown yet.
    Nothing,
    /// The device is linked.
    Linked,
    /// A QR, in this turn, of a device that has this number.
    Qr {
        turn: u64,
        own_number: Option<PhoneNumber>,
    },
}

/// What a resuming session finds.
pub(super) enum Resume {
    /// The account, in this turn.
    Going { digits: Digits, turn: u64 },
    /// The network will not have it, which was told.
    Turned,
}

/// What became of a QR whose time was over.
pub(super) enum NextQr {
    /// Another one, or the same, until then.
    Until(Instant),
    /// None.
    Over,
}

/// How QRs are made: the text for a turn and an attempt, how long it lives, and the wall time.
pub(super) struct QrMaker<'a> {
    /// The text.
    pub(super) text: &'a dyn Fn(u64, u32) -> String,
    /// How long the first lives, and each later one.
    pub(super) lives: (std::time::Duration, std::time::Duration),
    /// How many there are.
    pub(super) qr_max: u32,
    /// The wall time.
    pub(super) now: Timestamp,
}

impl QrMaker<'_> {
    const fn life(&self, attempt: u32) -> std::time::Duration {
        if attempt <= 1 {
            self.lives.0
        } else {
            self.lives.1
        }
    }

    fn make(&self, turn: u64, attempt: u32) -> (Presence, Note, Instant) {
        let until = Instant::now() + self.life(attempt);
        let qr = Qr {
            code: (self.text)(turn, attempt),
            expires_at: self.now.plus(self.life(attempt)),
            attempt,
        };
        (Presence::Pairing { attempt, until }, Note::Qr(qr), until)
    }
}

/// A device's line.
pub(super) struct Line {
    /// Its tenant.
    pub(super) tenant: TenantId,
    /// The device.
    pub(super) device: DeviceId,
    /// The network that it belongs to.
    pub(super) network: Weak<Network>,
    /// Everything that reaches the device or changes its account does so one after the other.
    pub(super) lane: tokio::sync::Mutex<()>,
    /// At most one search for missed receipts is under way.
    pub(super) search_lane: tokio::sync::Mutex<()>,
    /// Wakes who waits for a QR.
    pub(super) shown: Notify,
    /// The receipts that it is owed.
    pub(super) dues: Mutex<Dues>,
    /// Whether it already waits to get its mail.
    pub(super) drain_waits: AtomicBool,
    /// Whether it already waits to look for missed receipts.
    pub(super) search_waits: AtomicBool,
    /// How often in a row the gateway did not take what was offered.
    tries: AtomicU32,
    state: Mutex<State>,
}

impl Line {
    /// A line; with an account where the device is linked.
    pub(super) fn new(
        network: Weak<Network>,
        tenant: TenantId,
        device: DeviceId,
        account: Option<Account>,
        dues: Dues,
    ) -> Self {
        let state = State {
            account,
            own_number: None,
            presence: Presence::Away,
            turn: 0,
            session: 0,
            sink: None,
            qr_armed: false,
            health_armed: false,
        };
        Self {
            tenant,
            device,
            network,
            lane: tokio::sync::Mutex::new(()),
            search_lane: tokio::sync::Mutex::new(()),
            shown: Notify::new(),
            dues: Mutex::new(dues),
            drain_waits: AtomicBool::new(false),
            search_waits: AtomicBool::new(false),
            tries: AtomicU32::new(0),
            state: Mutex::new(state),
        }
    }

    /// The number that the device was made with.
    pub(super) fn set_own_number(&self, number: Option<PhoneNumber>) {
        self.state.lock().own_number = number;
    }

    /// The account, where the device is linked.
    pub(super) fn account(&self) -> Option<Account> {
        self.state.lock().account.clone()
    }

    /// The account of a session that is on the network.
    pub(super) fn on_air(&self, session: u64) -> Option<Account> {
        let state = self.state.lock();
        (state.presence == Presence::Online && state.session == session)
            .then(|| state.account.clone())
            .flatten()
    }

    /// How the device can be reached now.
    pub(super) fn reach(&self) -> Reach {
        let state = self.state.lock();
        match (&state.account, &state.sink) {
            (None, _) => Reach::Nobody,
            (Some(_), Some(sink)) if state.presence == Presence::Online => {
                Reach::Online(Arc::clone(sink))
            }
            (Some(_), Some(_) | None) => Reach::Away,
        }
    }

    /// Whether a session is on the network, or about to be.
    pub(super) fn listens(&self) -> bool {
        matches!(
            self.state.lock().presence,
            Presence::Resuming | Presence::Online
        )
    }

    /// Whose mail is to be brought where, and in which turn.
    pub(super) fn mail_goes_to(&self) -> Option<(Digits, Arc<dyn Sink>, u64)> {
        let state = self.state.lock();
        match state.presence {
            Presence::Resuming | Presence::Online => Some((
                state.account.as_ref()?.digits,
                Arc::clone(state.sink.as_ref()?),
                state.turn,
            )),
            Presence::Away | Presence::Pairing { .. } => None,
        }
    }

    /// Gives a note to a session that is on the network; says whether there is an account at all.
    pub(super) fn note(&self, note: Note) -> bool {
        let state = self.state.lock();
        if state.presence == Presence::Online {
            state.note(note);
        }
        state.account.is_some()
    }

    /// A session goes on with its link.
    pub(super) fn resume(&self, session: u64, sink: &Arc<dyn Sink>) -> Resume {
        let mut state = self.state.lock();
        state.leave();
        state.session = session;
        state.sink = Some(Arc::clone(sink));
        let turned = match &state.account {
            None => Note::LoggedOut,
            Some(account) if account.link.banned => Note::Banned { reason: "banned" },
            Some(account) => {
                let digits = account.digits;
                state.presence = Presence::Resuming;
                self.taken();
                return Resume::Going {
                    digits,
                    turn: state.turn,
                };
            }
        };
        state.note(turned);
        state.leave();
        Resume::Turned
    }

    /// A session that got its mail is on the network. False where it has gone in the meantime.
    pub(super) fn arrive(&self, turn: u64, now: Timestamp) -> bool {
        let mut state = self.state.lock();
        if state.turn != turn {
            return false;
        }
        if state.presence == Presence::Resuming {
            state.presence = Presence::Online;
            state.note(Note::Connected);
            if let Some(restriction) = state.restriction() {
                // One that has ended meanwhile may still be shown.
                state.note(Note::Health(restriction.health(now)));
            }
        }
        state.presence == Presence::Online
    }

    /// Shows the first QR of a session; the time at which a timer is to be set, where none is.
    pub(super) fn show_qr(
        &self,
        session: u64,
        sink: &Arc<dyn Sink>,
        maker: &QrMaker<'_>,
    ) -> Option<Instant> {
        let mut state = self.state.lock();
        state.leave();
        state.session = session;
        state.sink = Some(Arc::clone(sink));
        let (presence, note, until) = maker.make(state.turn, 1);
        state.presence = presence;
        state.note(note);
        let armed = std::mem::replace(&mut state.qr_armed, true);
        drop(state);
        self.shown.notify_waiters();
        (!armed).then_some(until)
    }

    /// The timer of a QR went off.
    pub(super) fn next_qr(&self, maker: &QrMaker<'_>) -> NextQr {
        let mut state = self.state.lock();
        let Presence::Pairing { attempt, until } = state.presence else {
            state.qr_armed = false;
            return NextQr::Over;
        };
        if Instant::now() < until {
            return NextQr::Until(until);
        }
        if maker.qr_max <= attempt {
            state.note(Note::PairingTimeout);
            state.leave();
            state.qr_armed = false;
            return NextQr::Over;
        }
        let (presence, note, until) = maker.make(state.turn, attempt + 1);
        state.presence = presence;
        state.note(note);
        NextQr::Until(until)
    }

    /// What a phone that scans finds.
    pub(super) fn scan(&self) -> Scan {
        let state = self.state.lock();
        match (&state.account, state.presence) {
            (None, Presence::Pairing { .. }) => Scan::Qr {
                turn: state.turn,
                own_number: state.own_number.clone(),
            },
            (Some(account), _) if !account.link.banned => Scan::Linked,
            (None | Some(_), _) => Scan::Nothing,
        }
    }

    /// The device is linked, and its session goes on. False where the session has gone in the meantime.
    pub(super) fn link(&self, turn: u64, account: Account) -> bool {
        let mut state = self.state.lock();
        if state.turn != turn {
            return false;
        }
        state.note(Note::Linked {
            number: account.link.number.clone(),
        });
        state.account = Some(account);
        state.presence = Presence::Resuming;
        drop(state);
        self.shown.notify_waiters();
        true
    }

    /// A session ends; no note follows. Another one that has started since stays.
    pub(super) fn leave(&self, session: u64) {
        let mut state = self.state.lock();
        if state.session == session {
            state.leave();
        }
    }

    /// The account goes, told to a session that is there by this note. Gives the account; its number stays the device's
    /// own, so that the next phone that scans has it again.
    pub(super) fn unlink(&self, note: Option<Note>) -> Option<Account> {
        let mut state = self.state.lock();
        if let Some(note) = note {
            state.note(note);
        }
        state.leave();
        let account = state.account.take();
        if let Some(account) = &account {
            state.own_number = Some(account.link.number.clone());
        }
        account
    }

    /// The number of the account, or of the one that it was or will be.
    pub(super) fn number(&self) -> Option<Digits> {
        let state = self.state.lock();
        let number = state
            .account
            .as_ref()
            .map(|it| &it.link.number)
            .or(state.own_number.as_ref());
        number.and_then(|it| Digits::parse(it.digits()))
    }

    /// The session falls off the network.
    pub(super) fn drop_session(&self) {
        let mut state = self.state.lock();
        if matches!(state.presence, Presence::Resuming | Presence::Online) {
            state.note(Note::Dropped {
                reason: "connection_lost",
            });
            state.leave();
        }
    }

    /// What the network holds of the account changed: it is shut out, or limited.
    pub(super) fn judge(&self, link: Link, now: Timestamp) {
        let mut state = self.state.lock();
        let (banned, restricted) = (link.banned, link.restricted.clone());
        if let Some(account) = state.account.as_mut() {
            account.link = link;
        }
        if banned {
            state.note(Note::Banned { reason: "banned" });
            state.leave();
        } else if let Some(restriction) = restricted.filter(|_| state.presence == Presence::Online)
        {
            state.note(Note::Health(restriction.health(now)));
        }
    }

    /// After how long a timer is to look whether a restriction has ended, where none is set and somebody is to be told.
    pub(super) fn arm_health(&self, now: Timestamp) -> Option<std::time::Duration> {
        let mut state = self.state.lock();
        if state.health_armed || state.presence != Presence::Online {
            return None;
        }
        let until = state.restriction()?.until;
        state.health_armed = now < until;
        state.health_armed.then(|| until.since(now))
    }

    /// The timer of a restriction went off. After how long it is to look again, where the restriction has become longer;
    /// a device that is away is told when it is back.
    pub(super) fn next_health(&self, now: Timestamp) -> Option<std::time::Duration> {
        let mut state = self.state.lock();
        state.health_armed = false;
        if let Some(restriction) = state.restriction().filter(|it| it.until <= now)
            && state.presence == Presence::Online
        {
            state.note(Note::Health(restriction.health(now)));
        }
        drop(state);
        self.arm_health(now)
    }

    /// How long to wait before the gateway is offered the same again: doubles from 50 ms to 1 s.
    pub(super) fn back_off(&self) -> std::time::Duration {
        back_off(self.tries.fetch_add(1, Ordering::Relaxed))
    }

    /// The gateway took what it was offered.
    pub(super) fn taken(&self) {
        self.tries.store(0, Ordering::Relaxed);
    }
}

/// The pause after so many failures in a row: doubles from 50 ms to 1 s.
pub(super) fn back_off(tries: u32) -> std::time::Duration {
    std::time::Duration::from_millis(50 << tries.min(5)).min(std::time::Duration::from_secs(1))
}

impl Restriction {
    /// What a device is told of it.
    fn health(&self, now: Timestamp) -> Health {
        if self.until <= now {
            return Health::default();
        }
        Health {
            state: HealthState::Restricted,
            reason: Some(self.reason.clone()),
            until: Some(self.until),
        }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}
