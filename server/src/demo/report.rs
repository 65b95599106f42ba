//! What a run comes to: the figures, their JSON, and the verdict.
//!
//! Invariant: all times are unscaled, and every figure about a window comes from the replay.

pub(crate) mod table;

use std::time::Duration;

use allotment::{Resource, Subject};
use anyhow::Result;
use serde::{Serialize, Serializer};

use super::{
    options::Play,
    oracle::{self, Charge, Span},
    policy::{self, Rule},
    tally::Tally,
    upstream::MINUTE,
};

/// The figures of a run, as `--json` prints them.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) store: &'static str,
    pub(crate) processes: usize,
    pub(crate) seconds: u64,
    /// Calls that came to their end, however that was.
    pub(crate) wanted: u64,
    pub(crate) admitted: u64,
    /// Calls that were not admitted.
    pub(crate) denied: u64,
    pub(crate) upstream_refused: u64,
    /// Which part of the admitted calls that was, where a stranger uses the pool too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) share_refused: Option<f64>,
    /// The time average of the share of the upstream's image quota that its rolling minute holds, from when on it is measured. Refused
    /// calls are not in it. `None` for a run that is no longer than that.
    pub(crate) quota_used: Option<f64>,
    #[serde(skip)]
    pub(crate) measured_after: Duration,
    pub(crate) wait_ms: Waits,
    pub(crate) limits: Vec<LimitReport>,
    pub(crate) users: Vec<UserReport>,
    #[serde(skip)]
    pub(crate) verdict: Verdict,
}

/// How long admitted calls waited, in unscaled milliseconds.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(crate) struct Waits {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

/// The fullest window of one limit and resource. A smoothed limit has another row, with the shorter window.
#[derive(Debug, Serialize)]
pub(crate) struct LimitReport {
    pub(crate) name: String,
    #[serde(serialize_with = "by_name")]
    pub(crate) resource: Resource,
    /// As stated: the margin is not taken off.
    pub(crate) amount: u64,
    pub(crate) window_ms: u64,
    pub(crate) fullest_window: u64,
    #[serde(skip)]
    pub(crate) over: bool,
    #[serde(skip)]
    pub(crate) rule: Rule,
}

/// How one user fared.
#[derive(Debug, Serialize)]
pub(crate) struct UserReport {
    pub(crate) user: String,
    /// Which of the orgs, from 1 on; `None` if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) org: Option<usize>,
    pub(crate) wanted: u64,
    pub(crate) admitted: u64,
    #[serde(skip)]
    pub(crate) served: u64,
}

/// What the exit status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was over and nothing was refused.
    Kept,
    /// A window was over its limit, or the upstream refused an admitted call though nobody else used the pool.
    Broken,
    /// Nothing was over. With a stranger on the pool nobody can promise that nothing is refused.
    Shared,
    /// Without limits, so that nothing was promised.
    Unlimited,
}

impl Report {
    /// Weighs a run that lasted `lasted` of unscaled time.
    pub(crate) fn new(play: &Play, tally: &Tally, lasted: Duration) -> Result<Self> {
        let scenario = &play.scenario;
        let load = &scenario.load;
        let subjects: Vec<Subject> = (0..load.users()).map(|user| load.subject(&scenario.org, user)).collect();
        let admissions = tally.admissions();
        let limits = policy::rules(&play.policy, scenario.speed)?.into_iter().map(|rule| {
            let fullest = oracle::replay(&rule, &subjects, &admissions);
            LimitReport {
                name: rule.name.clone(),
                resource: rule.resource.clone(),
                amount: rule.amount,
                window_ms: u64::try_from(rule.window.as_millis()).unwrap_or(u64::MAX),
                fullest_window: fullest.amount,
                over: fullest.over,
                rule,
            }
        });
        let limits: Vec<_> = limits.collect();
        let users = tally.users.iter().enumerate().map(|(user, tally)| UserReport {
            user: load.name(user),
            org: (load.orgs() > 1).then(|| load.group(user).org + 1),
            wanted: tally.wanted,
            admitted: tally.admitted,
            served: tally.served,
        });
        let is_shared = play.terms.stranger > 0.0;
        let is_over = limits.iter().any(|limit| limit.over);
        let admitted = tally.admitted.len() as u64;
        Ok(Self {
            store: match (&scenario.redis, scenario.unlimited) {
                (_, true) => "none",
                (Some(_), false) => "redis",
                (None, false) => "memory",
            },
            processes: scenario.processes,
            seconds: lasted.as_secs(),
            wanted: tally.ended(),
            admitted,
            denied: tally.denied + tally.failed,
            upstream_refused: tally.refused,
            share_refused: is_shared.then(|| rounded(tally.refused as f64 / admitted.max(1) as f64)),
            quota_used: quota_used(play, tally, Period { from: play.measured_after, until: lasted }, |_| true),
            measured_after: play.measured_after,
            wait_ms: waits(tally, scenario.speed),
            limits,
            users: users.collect(),
            verdict: match (is_over, is_shared) {
                _ if scenario.unlimited => Verdict::Unlimited,
                (true, _) => Verdict::Broken,
                (false, true) => Verdict::Shared,
                (false, false) if tally.refused > 0 => Verdict::Broken,
                (false, false) => Verdict::Kept,
            },
        })
    }
}

/// A part of a run, in unscaled time since its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Period {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

/// The time average of how full the quotas of these orgs were, over a part of the run. `None` if nothing was admitted or the part is empty.
pub(crate) fn quota_used(play: &Play, tally: &Tally, period: Period, of_org: impl Fn(usize) -> bool) -> Option<f64> {
    let load = &play.scenario.load;
    let ms = |unscaled: Duration| u64::try_from(play.scenario.real(unscaled).as_millis()).unwrap_or(u64::MAX);
    let start_ms = tally.store_start_ms()?;
    let span = Span { from_ms: start_ms + ms(period.from), until_ms: start_ms + ms(period.until) };
    let served = tally.admitted.iter().filter(|(user, admitted)| !admitted.refused && of_org(load.group(*user).org));
    let charges = served.map(|(_, admitted)| Charge { at_ms: admitted.at_ms, amount: admitted.images });
    let fill = oracle::average_fill(charges, ms(MINUTE), span)?;
    let orgs = (0..load.orgs()).filter(|org| of_org(*org)).count();
    Some(rounded(fill / (play.terms.images * orgs as u64) as f64))
}

/// The images admitted in a part of the run and not refused by the upstream.
pub(crate) fn images_admitted(play: &Play, tally: &Tally, period: Period) -> u64 {
    let ms = |unscaled: Duration| u64::try_from(play.scenario.real(unscaled).as_millis()).unwrap_or(u64::MAX);
    let Some(start_ms) = tally.store_start_ms() else { return 0 };
    let period = start_ms + ms(period.from)..start_ms + ms(period.until);
    let admitted = tally.admitted.iter().map(|(_, admitted)| admitted).filter(|admitted| !admitted.refused);
    admitted.filter(|admitted| period.contains(&admitted.at_ms)).map(|admitted| admitted.images).sum()
}

/// To four digits.
pub(crate) fn rounded(share: f64) -> f64 {
    (share * 10_000.0).round() / 10_000.0
}

fn waits(tally: &Tally, speed: f64) -> Waits {
    let unscaled = |waited: Duration| (waited.as_secs_f64() * 1_000.0 * speed).round() as u64;
    let mut waits: Vec<u64> = tally.admitted.iter().map(|(_, admitted)| unscaled(admitted.waited)).collect();
    waits.sort_unstable();
    Waits { p50: percentile(&waits, 50), p99: percentile(&waits, 99), max: percentile(&waits, 100) }
}

/// The smallest of the sorted values that `percent` of them do not exceed; 0 of none.
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn by_name<S: Serializer>(resource: &Resource, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(resource.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&values, percent)), [100, 198, 200]);
        assert_eq!(percentile(&[7], 50), 7);
        assert_eq!(percentile(&[], 99), 0);
    }
}
