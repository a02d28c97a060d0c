use actors::log::FilterTerms;
use actors::model::{EventType, ScopeSet};
use proptest::prelude::*;

use super::*;

fn facts(kind: EventType) -> Facts<'static> {
    Facts {
        kind,
        device: None,
        chat: None,
        direction: None,
    }
}

fn at(seq: u64) -> Cursor {
    Cursor { epoch: 4, seq }
}

fn created_only() -> Filter {
    Filter::compile(&FilterTerms {
        types: vec!["message.created".into()],
        ..FilterTerms::default()
    })
    .unwrap()
}

fn delivery(start: u64, head: u64) -> Delivery {
    Delivery::new(
        created_only(),
        Sight::new(ScopeSet::tenant(), &[]),
        at(start),
        head,
    )
}

const TIMES: Times = Times {
    heartbeat: Duration::from_secs(25),
    auth: Duration::from_secs(10),
    write_stall: Duration::from_secs(30),
};

#[derive(Clone, Copy, Debug)]
enum Act {
    Wanted(usize),
    Unwanted,
    Ack(u64),
    Position,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (1usize..3 << 20).prop_map(Act::Wanted),
        4 => Just(Act::Unwanted),
        2 => (0u64..20).prop_map(Act::Ack),
        1 => Just(Act::Position),
    ];
    prop::collection::vec(act, 0..300)
}

proptest! {
    /// Whatever comes: the window holds, nothing is sent twice, no told place is ahead of what was not sent yet.
    #[test]
    fn a_window_holds_and_a_place_is_never_ahead(acts in acts(), events_max in 1u32..12) {
        let now = Instant::now();
        let mut delivery = delivery(0, 0).with_window(events_max, now);
        let (mut next, mut open, mut sent) = (1u64, Vec::<(u64, usize)>::new(), Vec::new());
        for act in acts {
            match act {
                Act::Wanted(bytes) => match delivery.offer(next, facts(EventType::MessageCreated), bytes, now) {
                    Verdict::Send => {
                        open.push((next, bytes));
                        sent.push(next);
                        next += 1;
                    }
                    Verdict::Hold => {
                        let held: usize = open.iter().map(|(_, bytes)| bytes).sum();
                        let full = open.len() == usize::try_from(events_max).unwrap() || WINDOW_BYTES_MAX < held + bytes;
                        prop_assert!(full && !open.is_empty());
                    }
                    Verdict::Skip => prop_assert!(false, "it was wanted"),
                },
                Act::Unwanted => {
                    prop_assert_eq!(delivery.offer(next, facts(EventType::ChatRead), 10, now), Verdict::Skip);
                    next += 1;
                }
                Act::Ack(seq) => {
                    let result = delivery.ack(at(seq), now);
                    prop_assert_eq!(result.is_err(), delivery.told < seq);
                    if result.is_ok() {
                        open.retain(|(open, _)| seq < *open);
                    }
                }
                Act::Position => prop_assert_eq!(delivery.tell_position(), (at(next - 1), sent.len() as u64)),
            }
            prop_assert!(open.len() <= usize::try_from(events_max).unwrap());
            prop_assert_eq!(delivery.ack_deadline().is_some(), !open.is_empty());
        }
        prop_assert!(sent.is_sorted());
    }
}

#[test]
fn an_entry_that_is_larger_than_the_window_passes_alone() {
    let now = Instant::now();
    let mut delivery = delivery(0, 0).with_window(10, now);
    assert_eq!(
        delivery.offer(
            1,
            facts(EventType::MessageCreated),
            WINDOW_BYTES_MAX + 1,
            now
        ),
        Verdict::Send
    );
    assert_eq!(
        delivery.offer(2, facts(EventType::MessageCreated), 1, now),
        Verdict::Hold
    );
    assert_eq!(delivery.ack(at(1), now), Ok(Some(1)));
    assert_eq!(
        delivery.offer(2, facts(EventType::MessageCreated), 1, now),
        Verdict::Send
    );
}

#[test]
fn the_place_is_told_after_a_replay_and_after_much_that_was_passed_over() {
    let now = Instant::now();
    let mut delivery = delivery(5, 7);
    assert!(!delivery.position_is_due());
    delivery.offer(6, facts(EventType::MessageCreated), 1, now);
    delivery.offer(7, facts(EventType::ChatRead), 1, now);
    assert!(delivery.position_is_due() && !delivery.is_live());
    assert_eq!(delivery.tell_position(), (at(7), 1));
    assert!(delivery.is_live() && !delivery.position_is_due());
    for seq in 8..8 + u64::from(FILTERED_MAX) {
        assert!(!delivery.position_is_due());
        delivery.offer(seq, facts(EventType::ChatRead), 1, now);
    }
    assert!(delivery.position_is_due());
    let empty = self::delivery(9, 9);
    assert!(empty.position_is_due(), "an empty replay is over at once");
}

#[test]
fn lag_is_told_once_and_not_of_a_replay() {
    let mut delivery = delivery(0, 1);
    assert_eq!(
        delivery.fed_from(true),
        None,
        "a replay comes from the store"
    );
    delivery.offer(1, facts(EventType::ChatRead), 1, Instant::now());
    delivery.tell_position();
    let told = [true, true, false, false].map(|from_store| delivery.fed_from(from_store));
    assert_eq!(told, [Some(true), None, Some(false), None]);
}

#[test]
fn acks_are_cumulative_and_may_name_any_place_that_was_told() {
    let now = Instant::now();
    let mut delivery = delivery(0, 0).with_window(10, now);
    delivery.offer(1, facts(EventType::MessageCreated), 1, now);
    delivery.offer(2, facts(EventType::ChatRead), 1, now);
    assert_eq!(
        delivery.ack(at(2), now),
        Err(Beyond),
        "2 was passed over and its place not told"
    );
    delivery.tell_position();
    assert_eq!(delivery.ack(at(2), now), Ok(Some(2)));
    assert_eq!(
        delivery.ack(Cursor { epoch: 3, seq: 9 }, now),
        Ok(None),
        "an older life is behind us"
    );
    assert_eq!(delivery.ack(Cursor { epoch: 5, seq: 0 }, now), Err(Beyond));
}

#[test]
fn who_does_not_confirm_is_sent_away_30_s_after_the_last_progress() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut clocks = Clocks::new(TIMES, start);
    clocks.known(None);
    let mut delivery = delivery(0, 0).with_window(10, start);
    delivery.offer(1, facts(EventType::MessageCreated), 1, start);
    delivery.offer(2, facts(EventType::MessageCreated), 1, start + 5 * second);
    assert_eq!(
        clocks.next(None, Some(&delivery)),
        Some(start + 30 * second)
    );
    delivery.ack(at(1), start + 20 * second).unwrap();
    clocks.heard(start + 40 * second);
    assert_eq!(
        clocks.due(start + 49 * second, None, Some(&delivery)),
        Due::Nothing
    );
    assert_eq!(
        clocks.due(start + 50 * second, None, Some(&delivery)),
        Due::Close(Close::AckTimeout)
    );
    delivery.ack(at(2), start + 50 * second).unwrap();
    assert_eq!(
        clocks.due(start + 50 * second, None, Some(&delivery)),
        Due::Nothing
    );
}

#[test]
fn silence_counts_only_while_one_listens() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut clocks = Clocks::new(TIMES, start);
    assert_eq!(
        clocks.due(start + 10 * second, None, None),
        Due::Close(Close::AuthTimeout)
    );
    clocks.known(None);
    assert_eq!(clocks.due(start + 34 * second, None, None), Due::Nothing);
    clocks.listens(false, start + 34 * second);
    assert_eq!(clocks.due(start + 60 * second, None, None), Due::Nothing);
    clocks.listens(true, start + 60 * second);
    assert_eq!(clocks.due(start + 94 * second, None, None), Due::Nothing);
    assert_eq!(
        clocks.due(start + 95 * second, None, None),
        Due::Close(Close::Silent)
    );
    let blocked = Some(start + 60 * second);
    assert_eq!(
        clocks.due(start + 90 * second, blocked, None),
        Due::Close(Close::Stalled)
    );
}

#[test]
fn a_credential_is_given_notice_once_and_then_ends() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let mut clocks = Clocks::new(TIMES, start);
    clocks.known(Some(start + 100 * second));
    clocks.heard(start + 90 * second);
    assert_eq!(clocks.due(start + 39 * second, None, None), Due::Nothing);
    assert_eq!(
        clocks.due(start + 40 * second, None, None),
        Due::ExpiryNotice
    );
    assert_eq!(clocks.due(start + 41 * second, None, None), Due::Nothing);
    assert_eq!(
        clocks.due(start + 100 * second, None, None),
        Due::Close(Close::Expired)
    );
    clocks.known(Some(start + 500 * second));
    assert_eq!(
        clocks.due(start + 100 * second, None, None),
        Due::Nothing,
        "a new credential takes its place"
    );
}

#[test]
fn a_rate_lets_a_burst_pass_and_then_one_at_a_time() {
    let start = Instant::now();
    let mut rate = Rate::new(10, 5, start);
    assert!((0..15).all(|_| rate.count(start).is_ok()));
    assert_eq!(rate.count(start), Err(Duration::from_millis(100)));
    assert_eq!(rate.count(start + Duration::from_millis(100)), Ok(()));
    assert!(rate.count(start + Duration::from_millis(100)).is_err());
    let mut none = Rate::new(0, 0, start);
    assert!((0..1000).all(|_| none.count(start).is_ok()));
}
