//! The load: a number of callers that ask one after the other, all over one connection.
//!
//! Lacks pacing on purpose: a caller asks again as soon as it has its answer.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::task::JoinSet;

/// Calls in flight where each is sent alone: enough that the kernel's share of the server's time is small.
pub(super) const CALLERS: usize = 96;

/// What the callers saw of one slice.
#[derive(Debug)]
pub(super) struct Slice {
    /// From the first question to the last answer.
    pub(super) elapsed: Duration,
    /// How long each call took, shortest first.
    pub(super) waits: Vec<Duration>,
}

impl Slice {
    /// The slice of calls that took `waits`, in any order.
    pub(super) fn new(elapsed: Duration, mut waits: Vec<Duration>) -> Self {
        waits.sort_unstable();
        Self { elapsed, waits }
    }

    /// The time that `percent` of the calls did not exceed, in microseconds: the nearest rank. 0 of no calls.
    pub(super) fn percentile_us(&self, percent: usize) -> f64 {
        let rank = (self.waits.len() * percent).div_ceil(100);
        self.waits.get(rank.saturating_sub(1)).map_or(0.0, |wait| wait.as_secs_f64() * 1e6)
    }
}

/// Makes `calls` calls, numbered from 0, with `callers` of them in flight.
///
/// # Errors
///
/// The first error of a call; the others are abandoned.
pub(super) async fn drive<F, Fut>(callers: usize, calls: usize, call: F) -> Result<Slice>
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let next = Arc::new(AtomicUsize::new(0));
    let mut running = JoinSet::new();
    let started_at = Instant::now();
    for _ in 0..callers {
        let (next, call) = (Arc::clone(&next), call.clone());
        running.spawn(async move {
            let mut waits = Vec::with_capacity(2 * calls / callers);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= calls {
                    return anyhow::Ok(waits);
                }
                let asked_at = Instant::now();
                call(number).await?;
                waits.push(asked_at.elapsed());
            }
        });
    }
    let mut waits = Vec::with_capacity(calls);
    while let Some(caller) = running.join_next().await {
        waits.append(&mut caller??);
    }
    Ok(Slice::new(started_at.elapsed(), waits))
}

/// Which of `users` makes call `number`: spread evenly and in no order, as in real traffic, and the same in every run.
pub(super) fn user_of(number: usize, users: usize) -> usize {
    // The multiplier of Fibonacci hashing: neighbours land far apart.
    let spread = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    (spread as usize) % users
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks_of_the_sorted_waits() {
        let slice = Slice::new(Duration::from_secs(1), (1..=200).rev().map(Duration::from_micros).collect());
        assert_eq!(slice.percentile_us(50), 100.0);
        assert_eq!(slice.percentile_us(99), 198.0);
        assert_eq!(Slice::new(Duration::ZERO, vec![]).percentile_us(99), 0.0);
        assert_eq!(Slice::new(Duration::ZERO, vec![Duration::from_micros(7)]).percentile_us(50), 7.0);
    }

    #[test]
    fn calls_are_spread_over_all_users() {
        let mut calls = vec![0; 100];
        (0..10_000).for_each(|number| calls[user_of(number, 100)] += 1);
        assert!(calls.iter().all(|calls| (80..=120).contains(calls)), "{calls:?}");
    }

    #[tokio::test]
    async fn every_call_is_made_once_and_the_first_error_ends_the_slice() {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        let slice = drive(8, 1000, move |number| {
            let counter = Arc::clone(&counter);
            async move {
                counter.fetch_add(number, Ordering::Relaxed);
                Ok(())
            }
        });
        assert_eq!(slice.await.unwrap().waits.len(), 1000);
        assert_eq!(made.load(Ordering::Relaxed), 999 * 1000 / 2);

        let failed = drive(8, 1000, |number| async move { if number == 500 { anyhow::bail!("500") } else { Ok(()) } });
        assert_eq!(failed.await.unwrap_err().to_string(), "500");
    }
}
