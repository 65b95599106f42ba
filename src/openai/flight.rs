//! Equal calls at the same time make one call: the first makes it, the others wait for its answer.
//!
//! Invariant: while a call of a key is under way, no second one of that key is. Whoever is dropped leaves the key to the next that waits,
//! and nothing stays when nobody does.
//!
//! Lacks memory: an answer goes to those who waited for it, and is then forgotten. The one whose turn it was is charged.

use std::{collections::HashMap, future::Future, hash::Hash, mem, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Mutex as Turn;

use crate::openai::error::{ImageError, ImageErrorKind};

/// Calls under way, by what makes them equal.
#[derive(Debug)]
pub(super) struct Flights<K, T, E> {
    under_way: Mutex<HashMap<K, Flight<T, E>>>,
}

/// Whose turn it is holds the lock; what it came to is in it.
type Flight<T, E> = Arc<Turn<Option<Result<T, E>>>>;

/// An answer, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flown<T> {
    Own(T),
    /// Of an equal call that was under way.
    Shared(T),
}

impl<K, T, E> Default for Flights<K, T, E> {
    fn default() -> Self {
        Self { under_way: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, T: Clone, E> Flights<K, T, E> {
    /// Makes the call, or waits for the answer to an equal one.
    ///
    /// Of an error `shared` says whether those who wait get it too: `None` is the caller's own, and the next one makes the call itself.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops its call; the next one that waits makes its own.
    pub(super) async fn fly<F: Future<Output = Result<T, E>>>(
        &self,
        key: K,
        call: impl FnOnce() -> F,
        shared: impl Fn(&E) -> Option<E>,
    ) -> Flown<Result<T, E>> {
        let seat = self.board(key);
        let mut turn = seat.flight.lock().await;
        match &*turn {
            Some(Ok(answer)) => return Flown::Shared(Ok(answer.clone())),
            Some(Err(error)) => {
                if let Some(error) = shared(error) {
                    return Flown::Shared(Err(error));
                }
            }
            None => {}
        }
        let outcome = call().await;
        let for_others = match &outcome {
            Ok(answer) => Some(Ok(answer.clone())),
            Err(error) => shared(error).map(Err),
        };
        if for_others.is_some() {
            // who asks from now on asks anew, and does not wait behind one who waits and is not polled
            self.land(&seat.key, &seat.flight);
        }
        *turn = for_others;
        Flown::Own(outcome)
    }

    fn board(&self, key: K) -> Seat<'_, K, T, E> {
        let flight = Arc::clone(self.under_way.lock().entry(key.clone()).or_default());
        Seat { flights: self, key, flight }
    }

    /// Takes it off the list, if it is on it.
    fn land(&self, key: &K, flight: &Flight<T, E>) {
        let mut under_way = self.under_way.lock();
        if under_way.get(key).is_some_and(|other| Arc::ptr_eq(other, flight)) {
            under_way.remove(key);
        }
    }
}

/// The error for those who waited, if it is theirs as well: what upstream said or did not say would be said to them too, and asking again one
/// by one would only take quota. What the limiter or a check said is the caller's own.
pub(super) fn shared(error: &ImageError) -> Option<ImageError> {
    match error.kind() {
        ImageErrorKind::Refused
        | ImageErrorKind::Unreachable
        | ImageErrorKind::Unanswered
        | ImageErrorKind::NoImage
        | ImageErrorKind::Unreadable => Some(error.copy()),
        ImageErrorKind::Invalid | ImageErrorKind::NotAdmitted | ImageErrorKind::Access => None,
    }
}

/// A place of one caller, before, during or after its turn.
struct Seat<'a, K: Clone + Eq + Hash, T: Clone, E> {
    flights: &'a Flights<K, T, E>,
    key: K,
    flight: Flight<T, E>,
}

impl<K: Clone + Eq + Hash, T: Clone, E> Drop for Seat<'_, K, T, E> {
    fn drop(&mut self) {
        let mut under_way = self.flights.under_way.lock();
        // seats are taken and left under the same lock, so that of two at once the second one is the last
        drop(mem::take(&mut self.flight));
        if under_way.get(&self.key).is_some_and(|flight| Arc::strong_count(flight) == 1) {
            under_way.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Barrier,
            atomic::{AtomicU32, Ordering},
        },
        thread,
        time::Duration,
    };

    use tokio::time::sleep;

    use super::*;

    type Tried = Flights<&'static str, u32, &'static str>;

    /// `own` is the caller's; all other errors are shared.
    fn theirs(error: &&'static str) -> Option<&'static str> {
        (*error != "own").then_some(error)
    }

    struct Stage {
        flights: Tried,
        calls: AtomicU32,
    }

    fn stage() -> Arc<Stage> {
        Arc::new(Stage { flights: Tried::default(), calls: AtomicU32::new(0) })
    }

    impl Stage {
        /// A call of 10 s that comes to its number, or to this error.
        async fn fly(&self, key: &'static str, fails: Option<&'static str>) -> Result<Flown<u32>, &'static str> {
            let call = || async {
                let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
                sleep(Duration::from_secs(10)).await;
                fails.map_or(Ok(number), Err)
            };
            match self.flights.fly(key, call, theirs).await {
                Flown::Own(answer) => answer.map(Flown::Own),
                Flown::Shared(answer) => answer.map(Flown::Shared),
            }
        }

        fn calls(&self) -> u32 {
            self.calls.load(Ordering::SeqCst)
        }

        fn is_empty(&self) -> bool {
            self.flights.under_way.lock().is_empty()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn equal_calls_at_the_same_time_make_one_call() {
        let stage = stage();
        let (a, b, other) = tokio::join!(stage.fly("x", None), stage.fly("x", None), stage.fly("y", None));
        assert_eq!((a, b, other), (Ok(Flown::Own(1)), Ok(Flown::Shared(1)), Ok(Flown::Own(2))));
        assert!(stage.is_empty());
        assert_eq!(stage.fly("x", None).await, Ok(Flown::Own(3)), "a later one is made anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_leaves_its_turn_to_the_next() {
        let stage = stage();
        let leader = tokio::time::timeout(Duration::from_secs(4), stage.fly("x", None));
        let follower = async {
            sleep(Duration::from_secs(1)).await;
            let began = tokio::time::Instant::now();
            (stage.fly("x", None).await, began.elapsed())
        };
        let (leader, follower) = tokio::join!(
            async {
                let dropped = leader.await.is_err();
                assert!(!stage.is_empty());
                dropped
            },
            follower
        );
        assert_eq!((leader, follower), (true, (Ok(Flown::Own(2)), Duration::from_secs(13))));
        assert!(stage.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_goes_to_all_unless_it_is_the_callers_own() {
        let stage = stage();
        let calls = || async { tokio::join!(stage.fly("x", Some("refused")), stage.fly("x", None)) };
        assert_eq!(calls().await, (Err("refused"), Err("refused")));
        assert_eq!(stage.calls(), 1);
        let own = tokio::join!(stage.fly("x", Some("own")), stage.fly("x", None), stage.fly("x", None));
        assert_eq!(own, (Err("own"), Ok(Flown::Own(3)), Ok(Flown::Shared(3))));
        assert!(stage.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_waits_and_is_not_polled_holds_nobody_up_that_comes_later() {
        let stage = stage();
        let mut stuck = Box::pin(stage.fly("x", None));
        let leader = async {
            let mut leader = Box::pin(stage.fly("x", None));
            tokio::select! {
                biased;
                _ = &mut leader => panic!("it takes 10 s"),
                _ = &mut stuck => panic!("it waits"),
                () = tokio::task::yield_now() => {}
            }
            leader.await
        };
        assert_eq!(leader.await, Ok(Flown::Own(1)));
        let later = tokio::time::timeout(Duration::from_secs(60), stage.fly("x", None)).await;
        assert_eq!(later, Ok(Ok(Flown::Own(2))));
        assert_eq!(stuck.await, Ok(Flown::Shared(1)));
        assert!(stage.is_empty());
    }

    #[test]
    fn nothing_stays_of_two_seats_that_are_left_at_once() {
        let (flights, both, stayed) = (Tried::default(), Barrier::new(2), AtomicU32::new(0));
        let leave = || {
            for _ in 0..10_000 {
                let seat = flights.board("x");
                both.wait();
                drop(seat);
                both.wait();
                if !flights.under_way.lock().is_empty() {
                    stayed.fetch_add(1, Ordering::SeqCst);
                }
                both.wait();
            }
        };
        thread::scope(|scope| {
            scope.spawn(leave);
            scope.spawn(leave);
        });
        assert_eq!(stayed.into_inner(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nothing_stays_of_ten_thousand_callers_that_were_dropped() {
        let stage = stage();
        let callers = (0..10_000).map(|_| {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move { stage.fly("x", None).await })
        });
        let callers: Vec<_> = callers.collect();
        callers.iter().for_each(tokio::task::JoinHandle::abort);
        for caller in callers {
            assert!(caller.await.is_err());
        }
        assert!(stage.is_empty());
    }
}
