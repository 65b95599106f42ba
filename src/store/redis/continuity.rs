//! Whether Redis still has the data of an org that this process has seen there.
//!
//! Invariant: data are missed only while the head of the org must be alive by the org's own time and by the clock of this process: a head
//! that expired is no loss, whatever either clock did. A loss is reported once by this process, and only by the one that marked it.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::{
    clock::Clock,
    store::{Loss, redis::reply::Life},
    telemetry,
};

/// Orgs kept before those whose heads may have expired are dropped for the first time.
const KEPT_MIN: usize = 1_024;
/// By so much, besides the longest call, the clock of this process may be behind that of Redis.
const DRIFT_MS: u64 = 2_000;
/// For so long at least a process goes by a loss that it was told of, so that its next call can: its head may be about to expire.
const TOLD_MS_MIN: u64 = 1_000;
/// Losses are logged at this pace at most.
const LOGGED_EVERY_MS: u64 = 10_000;
/// Added to when a life of the data began, where it did after a loss: see `lua/README.md`.
const AFTER_LOSS: u64 = 1 << 47;
/// A time that never comes.
const NEVER: u64 = (1 << 48) - 1;

/// Tells one life of the data of an org from another: when it began, by the org's time, and a number, as stored. Both are 0 where there is
/// none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Epoch {
    pub(super) born_at: u64,
    pub(super) salt: u64,
}

/// What a call says of the life of the data that it was made for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) epoch: Epoch,
    /// Until when its head is alive, by the org's time.
    pub(super) alive_until: u64,
    /// It began after a loss.
    pub(super) after_loss: bool,
    /// Of this process: who marks a loss.
    pub(super) mark: u64,
    /// The loss that limits must go by, as far as one is known: see [`Loss::at`].
    lost_at: Option<u64>,
    /// When the call was made, by the clock of this process.
    sent_ms: u64,
}

impl Known {
    /// Whether a request may be sent that was planned by this loss (0: by none): its limits are not those of before another one.
    pub(super) fn allows(&self, lost_at: u64) -> bool {
        self.lost_at.is_none_or(|at| at == lost_at)
    }
}

/// The lives of data that this process has seen.
#[derive(Debug)]
pub(super) struct Continuity {
    clock: Clock,
    mark: u64,
    /// Whether limits hold calls back after a loss, so that one must be known of before anything is admitted.
    minds: bool,
    margin_ms: u64,
    orgs: Mutex<Orgs>,
}

#[derive(Debug, Default)]
struct Orgs {
    seen: HashMap<Box<str>, Seen>,
    dropped_at: usize,
    /// Losses that were marked since the last were logged, and when that was.
    unlogged: u64,
    logged_ms: Option<u64>,
}

impl Orgs {
    /// The losses to log now: the first at once, the others together, as all orgs may be lost at a time.
    fn take_unlogged(&mut self, now_ms: u64) -> u64 {
        if self.unlogged == 0 || self.logged_ms.is_some_and(|at| now_ms < at + LOGGED_EVERY_MS) {
            return 0;
        }
        self.logged_ms = Some(now_ms);
        std::mem::take(&mut self.unlogged)
    }
}

/// The life of an org's data, as last seen.
#[derive(Clone, Copy, Debug)]
struct Seen {
    epoch: Epoch,
    after_loss: bool,
    /// The org's time then.
    now: u64,
    alive_until: u64,
    /// By the clock of this process.
    alive_until_ms: u64,
}

impl Seen {
    fn loss(&self) -> Option<Loss> {
        self.after_loss.then_some(Loss { at: self.epoch.born_at % AFTER_LOSS, now: self.now })
    }
}

impl Continuity {
    /// `longest_call_ms`: a call may reach Redis this long after it was made.
    pub(super) fn new(minds: bool, longest_call_ms: u64) -> Self {
        // the low end of the counter in a new id: random
        let [.., high, low, _, _, _, _] = uuid::Uuid::now_v7().into_bytes();
        let mark = u64::from(high) << 8 | u64::from(low);
        let margin_ms = longest_call_ms.saturating_add(DRIFT_MS);
        Self { clock: Clock::system(), mark, minds, margin_ms, orgs: Mutex::default() }
    }

    /// What a call of this org that is made now says.
    pub(super) fn known(&self, org: &str) -> Known {
        let sent_ms = self.clock.now_ms();
        let seen = self.orgs.lock().seen.get(org).copied().filter(|seen| seen.alive_until_ms > sent_ms);
        let unseen = if self.minds { NEVER } else { 0 };
        Known {
            epoch: seen.map(|seen| seen.epoch).unwrap_or_default(),
            alive_until: seen.map_or(unseen, |seen| seen.alive_until),
            after_loss: seen.is_some_and(|seen| seen.after_loss),
            mark: self.mark,
            lost_at: seen.and_then(|seen| seen.loss()).filter(|_| self.minds).map(|loss| loss.at),
            sent_ms,
        }
    }

    /// The last loss of this org's data, as far as this process knows.
    pub(super) fn loss(&self, org: &str) -> Option<Loss> {
        let now_ms = self.clock.now_ms();
        let orgs = self.orgs.lock();
        orgs.seen.get(org).filter(|seen| seen.alive_until_ms > now_ms).and_then(Seen::loss)
    }

    /// Learns from an answer, and reports a loss that this process has marked. Answers come in any order: one of a life that this process
    /// has seen the end of says nothing.
    pub(super) fn learn(&self, org: &str, known: &Known, life: &Life) {
        if life.epoch == Epoch::default() {
            return;
        }
        let left_ms = life.alive_until.saturating_sub(life.now).saturating_sub(self.margin_ms);
        let left_ms = if life.lost && self.minds { left_ms.max(TOLD_MS_MIN) } else { left_ms };
        let seen = Seen {
            epoch: life.epoch,
            after_loss: life.after_loss,
            now: life.now,
            alive_until: life.alive_until,
            alive_until_ms: known.sent_ms + left_ms,
        };
        let (is_first, to_log) = {
            let now_ms = self.clock.now_ms();
            let mut orgs = self.orgs.lock();
            if orgs.seen.len() > orgs.dropped_at.max(KEPT_MIN) {
                orgs.seen.retain(|_, seen| seen.alive_until_ms > now_ms);
                orgs.dropped_at = 2 * orgs.seen.len();
            }
            let is_first = match orgs.seen.get_mut(org) {
                Some(before) if before.epoch == seen.epoch && !life.lost => {
                    if seen.now >= before.now {
                        let alive_until_ms = before.alive_until_ms.max(seen.alive_until_ms);
                        *before = Seen { alive_until_ms, ..seen };
                    }
                    false
                }
                Some(before) if before.epoch == known.epoch || before.alive_until_ms <= now_ms => {
                    *before = seen;
                    true
                }
                Some(_) => false,
                None => {
                    orgs.seen.insert(org.into(), seen);
                    true
                }
            };
            let is_first = is_first && life.lost && life.marked && known.epoch != Epoch::default();
            orgs.unlogged += u64::from(is_first);
            (is_first, orgs.take_unlogged(now_ms))
        };
        if is_first {
            telemetry::state_lost();
        }
        if to_log > 0 {
            telemetry::states_lost(to_log);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn life(born_at: u64) -> Life {
        let epoch = Epoch { born_at, salt: 7 };
        Life { now: born_at, alive_until: born_at + DAY_MS, epoch, after_loss: false, lost: false, marked: false }
    }

    fn lost(born_at: u64) -> Life {
        Life { after_loss: true, lost: true, marked: true, ..life(born_at) }
    }

    #[test]
    fn an_answer_that_comes_late_does_not_bring_back_a_life_that_has_ended() {
        let continuity = Continuity::new(true, 250);
        continuity.learn("acme", &continuity.known("acme"), &life(1_000));
        let (early, first) = (continuity.known("acme"), continuity.known("acme"));
        continuity.learn("acme", &first, &lost(5_000));
        continuity.learn("acme", &early, &life(1_000));
        assert_eq!(continuity.known("acme").epoch.born_at, 5_000);
        assert_eq!(continuity.loss("acme"), Some(Loss { at: 5_000, now: 5_000 }));
        let later = continuity.known("acme");
        continuity.learn("acme", &later, &Life { now: 6_000, after_loss: true, ..life(5_000) });
        continuity.learn("acme", &later, &Life { now: 5_500, after_loss: true, ..life(5_000) });
        assert_eq!(continuity.loss("acme"), Some(Loss { at: 5_000, now: 6_000 }));
    }

    #[test]
    fn a_request_planned_by_another_loss_is_not_sent() {
        let (minds, fresh) = (Continuity::new(true, 250), Continuity::new(false, 250));
        for continuity in [&minds, &fresh] {
            assert!(continuity.known("acme").allows(0) && continuity.known("acme").allows(4_000));
            continuity.learn("acme", &continuity.known("acme"), &lost(5_000));
        }
        assert_eq!([0, 4_000, 5_000].map(|at| minds.known("acme").allows(at)), [false, false, true]);
        assert!(fresh.known("acme").allows(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loss_that_was_told_is_gone_by_though_its_head_is_about_to_expire() {
        let continuity = Continuity::new(true, 250);
        let ends = Life { now: 75_000, alive_until: 75_100, marked: false, ..lost(5_000) };
        continuity.learn("acme", &continuity.known("acme"), &ends);
        assert!(continuity.known("acme").allows(5_000) && continuity.loss("acme").is_some());
        tokio::time::advance(std::time::Duration::from_millis(TOLD_MS_MIN)).await;
        assert_eq!((continuity.known("acme").alive_until, continuity.loss("acme")), (NEVER, None));
    }

    #[test]
    fn losses_at_a_time_are_logged_together() {
        let mut orgs = Orgs::default();
        let mut lose = |losses, at_ms| {
            orgs.unlogged += losses;
            orgs.take_unlogged(at_ms)
        };
        assert_eq!([lose(0, 0), lose(1, 0), lose(1, 0), lose(7, 9_999), lose(0, 10_000)], [0, 1, 0, 0, 8]);
        assert_eq!([lose(0, 30_000), lose(1, 30_000), lose(1, 30_001)], [0, 1, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn orgs_whose_heads_may_have_expired_are_forgotten() {
        let continuity = Continuity::new(false, 250);
        let short = Life { alive_until: 1_000 + 75_000, ..life(1_000) };
        continuity.learn("acme", &continuity.known("acme"), &short);
        tokio::time::advance(std::time::Duration::from_millis(75_000 - 250 - DRIFT_MS - 1)).await;
        assert_eq!(continuity.known("acme").epoch, short.epoch);
        tokio::time::advance(std::time::Duration::from_millis(1)).await;
        assert_eq!(continuity.known("acme").epoch, Epoch::default());
        let continuity = Continuity::new(false, 250);
        for org in 0..=KEPT_MIN {
            continuity.learn(&org.to_string(), &continuity.known("new"), &short);
        }
        assert_eq!(continuity.orgs.lock().seen.len(), KEPT_MIN + 1);
        tokio::time::advance(std::time::Duration::from_millis(75_000)).await;
        continuity.learn("last", &continuity.known("last"), &short);
        assert_eq!(continuity.orgs.lock().seen.len(), 1);
    }
}
