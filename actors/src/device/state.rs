//! A device's session without its runtime: what follows from what.

use std::time::Duration;

use crate::CommandError;
use crate::model::{
    Desired, DeviceRecord, DeviceState, Health, HealthState, PhoneNumber, SessionChange,
    SessionState, Timestamp,
};
use crate::ports::connector::{Start, Stop};

/// What happens to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// The gateway has started.
    Boot,
    /// The owner wants it on the network.
    Connect,
    /// The owner wants it off the network.
    Disconnect,
    /// The owner wants it off and on again.
    Restart,
    /// The owner gives up the link.
    Logout,
    /// A QR is being shown.
    QrShown,
    /// Nobody scanned in time.
    PairingTimeout,
    /// A phone has linked the device.
    Linked(PhoneNumber),
    /// It is on the network.
    Connected,
    /// It fell off the network, or could not get on.
    Dropped(&'static str),
    /// The phone gave up the link.
    LoggedOut,
    /// The network has shut it out.
    Banned(&'static str),
    /// The network treats it in another way.
    Health(Health),
    /// The wait before the next attempt is over.
    RetryDue,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Go to the network.
    Start(Start),
    /// Leave it.
    Stop(Stop),
    /// Leave it, and go there again.
    StopAndStart,
    /// Try again at this time.
    RetryAt(Timestamp),
}

/// How long a device waits before it tries again.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackOff {
    pub(super) min: Duration,
    pub(super) max: Duration,
    /// Between 0 and 1: spreads devices that fell at the same time.
    pub(super) jitter: f64,
}

impl BackOff {
    fn wait(self, attempt: u32) -> Duration {
        let doubled = self.min.saturating_mul(
            1u32.checked_shl(attempt.saturating_sub(1).min(16))
                .unwrap_or(u32::MAX),
        );
        doubled
            .min(self.max)
            .mul_f64(0.5 + self.jitter.clamp(0.0, 1.0) / 2.0)
    }
}

/// Applies an input: changes the record, tells what changed and what to do.
///
/// # Errors
///
/// Where the owner asks for what the present state does not allow.
pub(super) fn apply(
    record: &mut DeviceRecord,
    input: Input,
    now: Timestamp,
    back_off: BackOff,
) -> Result<(Option<SessionChange>, Option<Effect>), CommandError> {
    use DeviceState::{Connected, Connecting, Created, Disconnected, Failed, LoggedOut, Pairing};
    let state = record.session.state;
    let active = matches!(state, Connecting | Pairing | Connected);
    let link = if record.linked {
        Start::Resume
    } else {
        Start::LinkQr
    };
    let (next, reason, effect): (DeviceState, Option<&str>, Option<Effect>) = match input {
        Input::Boot if record.linked && record.desired == Desired::Connected && state != Failed => {
            (
                Connecting,
                Some("gateway_started"),
                Some(Effect::Start(Start::Resume)),
            )
        }
        Input::Boot if active => (Disconnected, Some("gateway_started"), None),
        Input::Boot => return Ok((None, None)),
        Input::Connect => {
            record.desired = Desired::Connected;
            if active {
                return Ok((None, None));
            }
            // A ban is lifted by linking anew.
            if state == Failed {
                record.linked = false;
                record.session.health = Health::default();
            }
            let link = if record.linked {
                Start::Resume
            } else {
                Start::LinkQr
            };
            (Connecting, Some("requested"), Some(Effect::Start(link)))
        }
        Input::Disconnect => {
            record.desired = Desired::Disconnected;
            if matches!(state, Created | LoggedOut | Failed) {
                return Ok((None, None));
            }
            if state == Disconnected && record.session.next_attempt_at.is_none() {
                return Ok((None, None));
            }
            (
                Disconnected,
                Some("requested"),
                Some(Effect::Stop(Stop::Disconnect)),
            )
        }
        Input::Restart => {
            if !record.linked {
                return Err(CommandError::StateConflict("the device is not linked"));
            }
            record.desired = Desired::Connected;
            (Connecting, Some("restart"), Some(Effect::StopAndStart))
        }
        Input::Logout => {
            if state == LoggedOut {
                return Ok((None, None));
            }
            if !record.linked {
                return Err(CommandError::StateConflict("the device is not linked"));
            }
            record.linked = false;
            record.desired = Desired::Disconnected;
            record.session.health = Health::default();
            (
                LoggedOut,
                Some("requested"),
                Some(Effect::Stop(Stop::Logout)),
            )
        }
        Input::QrShown if matches!(state, Connecting) => (Pairing, None, None),
        Input::QrShown => return Ok((None, None)),
        Input::PairingTimeout if matches!(state, Connecting | Pairing) => {
            record.desired = Desired::Disconnected;
            (Disconnected, Some("pairing_timeout"), None)
        }
        Input::PairingTimeout => return Ok((None, None)),
        Input::Linked(number) => {
            record.number = Some(number);
            record.linked = true;
            return Ok((None, None));
        }
        Input::Connected
            if active || (state == Disconnected && record.desired == Desired::Connected) =>
        {
            (Connected, None, None)
        }
        Input::Connected => return Ok((None, None)),
        Input::Dropped(_) if !active => return Ok((None, None)),
        Input::Dropped(reason) if record.desired == Desired::Connected && record.linked => {
            let attempt = if state == Connected {
                1
            } else {
                record.session.attempt.saturating_add(1)
            };
            let retry_at = now.plus(back_off.wait(attempt));
            let change = set(record, Disconnected, Some(reason), now);
            record.session.attempt = attempt;
            record.session.next_attempt_at = Some(retry_at);
            return Ok((change, Some(Effect::RetryAt(retry_at))));
        }
        Input::Dropped(reason) => (Disconnected, Some(reason), None),
        Input::LoggedOut => {
            record.linked = false;
            record.desired = Desired::Disconnected;
            record.session.health = Health::default();
            (LoggedOut, Some("logged_out_by_phone"), None)
        }
        Input::Banned(reason) => {
            record.session.health = Health {
                state: HealthState::Banned,
                reason: Some(reason.to_owned()),
                until: None,
            };
            (Failed, Some(reason), None)
        }
        Input::Health(health) => {
            if record.session.health == health {
                return Ok((None, None));
            }
            record.session.health = health;
            let reason = record.session.reason.clone();
            return Ok((
                Some(SessionChange {
                    state,
                    previous: state,
                    reason,
                    at: now,
                }),
                None,
            ));
        }
        Input::RetryDue
            if state == Disconnected && record.desired == Desired::Connected && record.linked =>
        {
            let attempt = record.session.attempt;
            let change = set(record, Connecting, Some("retry"), now);
            record.session.attempt = attempt;
            return Ok((change, Some(Effect::Start(link))));
        }
        Input::RetryDue => return Ok((None, None)),
    };
    Ok((set(record, next, reason, now), effect))
}

fn set(
    record: &mut DeviceRecord,
    state: DeviceState,
    reason: Option<&str>,
    now: Timestamp,
) -> Option<SessionChange> {
    let previous = record.session.state;
    let reason = reason.map(ToOwned::to_owned);
    if previous == state
        && record.session.reason == reason
        && record.session.next_attempt_at.is_none()
    {
        return None;
    }
    let health = record.session.health.clone();
    let since = if previous == state {
        record.session.since
    } else {
        now
    };
    record.session = SessionState {
        state,
        since,
        reason: reason.clone(),
        attempt: 0,
        next_attempt_at: None,
        health,
    };
    Some(SessionChange {
        state,
        previous,
        reason,
        at: now,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ConnectorChoice, DeviceId, Metadata};

    const BACK_OFF: BackOff = BackOff {
        min: Duration::from_secs(1),
        max: Duration::from_secs(60),
        jitter: 1.0,
    };

    fn device() -> DeviceRecord {
        let now = Timestamp::from_millis(0);
        DeviceRecord {
            id: DeviceId::generate(),
            name: "a".to_owned(),
            connector: ConnectorChoice::Simulator {},
            number: None,
            linked: false,
            desired: Desired::Disconnected,
            session: SessionState::created(now),
            last_inbound_at: None,
            last_ack_at: None,
            metadata: Metadata::new(),
            created_at: now,
        }
    }

    fn feed(record: &mut DeviceRecord, input: Input) -> Option<Effect> {
        apply(record, input, Timestamp::from_millis(1000), BACK_OFF)
            .unwrap()
            .1
    }

    fn linked() -> DeviceRecord {
        let mut record = device();
        assert_eq!(
            feed(&mut record, Input::Connect),
            Some(Effect::Start(Start::LinkQr))
        );
        feed(&mut record, Input::QrShown);
        assert_eq!(record.session.state, DeviceState::Pairing);
        feed(&mut record, Input::Linked("51999888777".parse().unwrap()));
        feed(&mut record, Input::Connected);
        assert_eq!(record.session.state, DeviceState::Connected);
        record
    }

    #[test]
    fn what_is_already_so_is_no_change() {
        let mut record = linked();
        let before = record.clone();
        assert_eq!(
            apply(
                &mut record,
                Input::Connect,
                Timestamp::from_millis(9),
                BACK_OFF
            )
            .unwrap(),
            (None, None)
        );
        assert_eq!(record, before);
        feed(&mut record, Input::Disconnect);
        assert_eq!(
            apply(
                &mut record,
                Input::Disconnect,
                Timestamp::from_millis(9),
                BACK_OFF
            )
            .unwrap(),
            (None, None)
        );
    }

    #[test]
    fn after_disconnect_it_resumes_and_after_logout_it_pairs_anew() {
        let mut record = linked();
        assert_eq!(
            feed(&mut record, Input::Disconnect),
            Some(Effect::Stop(Stop::Disconnect))
        );
        assert_eq!(
            feed(&mut record, Input::Connect),
            Some(Effect::Start(Start::Resume))
        );
        assert_eq!(
            feed(&mut record, Input::Logout),
            Some(Effect::Stop(Stop::Logout))
        );
        assert_eq!(
            feed(&mut record, Input::Connect),
            Some(Effect::Start(Start::LinkQr))
        );
    }

    #[test]
    fn restart_and_logout_need_a_link() {
        for input in [Input::Restart, Input::Logout] {
            let refused = apply(&mut device(), input, Timestamp::from_millis(1), BACK_OFF);
            assert!(
                matches!(refused, Err(CommandError::StateConflict(_))),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_drop_comes_back_with_a_longer_wait_each_time() {
        let mut record = linked();
        let mut waits = Vec::new();
        for _ in 0..4 {
            let Some(Effect::RetryAt(at)) = feed(&mut record, Input::Dropped("connection_lost"))
            else {
                panic!("no retry")
            };
            waits.push(at.since(Timestamp::from_millis(1000)).as_millis());
            assert_eq!(record.session.state, DeviceState::Disconnected);
            assert_eq!(
                feed(&mut record, Input::RetryDue),
                Some(Effect::Start(Start::Resume))
            );
        }
        assert_eq!(waits, [1000, 2000, 4000, 8000]);
        feed(&mut record, Input::Connected);
        assert_eq!(
            (record.session.attempt, record.session.next_attempt_at),
            (0, None)
        );
    }

    #[test]
    fn a_start_brings_back_what_was_linked_and_wanted() {
        let mut record = linked();
        assert_eq!(
            feed(&mut record.clone(), Input::Boot),
            Some(Effect::Start(Start::Resume))
        );
        feed(&mut record, Input::Disconnect);
        assert_eq!(feed(&mut record, Input::Boot), None);
        let mut pairing = device();
        feed(&mut pairing, Input::Connect);
        assert_eq!(feed(&mut pairing, Input::Boot), None);
        assert_eq!(pairing.session.state, DeviceState::Disconnected);
    }

    #[test]
    fn a_restriction_begins_and_ends_as_a_change_in_the_same_state() {
        let mut record = linked();
        let restricted = Health {
            state: HealthState::Restricted,
            reason: Some("restricted_by_network".to_owned()),
            until: Some(Timestamp::from_millis(2_000)),
        };
        for health in [restricted, Health::default()] {
            let at = Timestamp::from_millis(2_000);
            let told = apply(&mut record, Input::Health(health.clone()), at, BACK_OFF).unwrap();
            let change = told.0.unwrap();
            assert_eq!(
                (change.state, change.previous),
                (DeviceState::Connected, DeviceState::Connected)
            );
            assert_eq!(record.session.health, health);
            let again = apply(&mut record, Input::Health(health), at, BACK_OFF).unwrap();
            assert_eq!(again, (None, None));
        }
    }

    #[test]
    fn a_ban_fails_the_device_until_it_is_linked_anew() {
        let mut record = linked();
        feed(&mut record, Input::Banned("banned"));
        assert_eq!(
            (record.session.state, record.session.health.state),
            (DeviceState::Failed, HealthState::Banned)
        );
        assert_eq!(feed(&mut record, Input::RetryDue), None);
        assert_eq!(
            feed(&mut record, Input::Connect),
            Some(Effect::Start(Start::LinkQr))
        );
    }
}
