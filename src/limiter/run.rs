//! A call in one line: the permit before it, and what becomes of the charge after it.
//!
//! Invariant: a call that fails without having committed gives its charge back, unless its slot was lost: then somebody else may be making
//! the same call.

use std::future::Future;

use crate::{cost::Cost, error::Error, limiter::Limiter, permit::Permit, subject::Subject};

/// Why [`Limiter::run`] or [`Limiter::run_with`] failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError<E> {
    /// There was no permit; the call was not made.
    #[error("not admitted: {0}")]
    NotAdmitted(Error),
    /// The call failed; its charge was given back, unless it had been committed.
    #[error("the call failed: {0}")]
    Call(E),
}

impl Limiter {
    /// Waits for a permit as long as it takes and makes the call: any future that can fail. Two round trips at most.
    ///
    /// The estimate stays charged if the call succeeds, and is given back if it fails. To say what was used, see
    /// [`run_with`](Self::run_with).
    ///
    /// ```
    /// # async fn example(limiter: allotment::Limiter) -> Result<(), allotment::RunError<std::io::Error>> {
    /// # use allotment::{Cost, Subject};
    /// # async fn draw() -> Result<Vec<u8>, std::io::Error> { Ok(Vec::new()) }
    /// let alice = Subject::org("acme").user("alice");
    /// let image = limiter.run(&alice, Cost::images(1).tokens(1756), || draw()).await?;
    /// # drop(image);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`RunError`] says which step failed.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the permit, nothing is charged; dropped during the call, the charge stays as estimated.
    pub async fn run<T, E, F, Fut>(&self, subject: &Subject, cost: Cost, call: F) -> Result<T, RunError<E>>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let holding = |permit: Permit| async move {
            let result = call().await;
            // its slot is held until here
            drop(permit);
            result
        };
        self.run_with(subject, cost, holding).await
    }

    /// [`run`](Self::run) for a call that settles for itself: it is handed the permit. Two round trips.
    ///
    /// `call` owns the permit: it commits what was used, or drops the permit to keep the estimate. If it fails without having committed,
    /// the charge is given back, unless its slot was lost.
    ///
    /// # Errors
    ///
    /// [`RunError`] says which step failed.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the permit, nothing is charged; dropped during the call, the charge stays as estimated.
    pub async fn run_with<T, E, F, Fut>(&self, subject: &Subject, cost: Cost, call: F) -> Result<T, RunError<E>>
    where
        F: FnOnce(Permit) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let permit = self.acquire(subject, cost).await.map_err(RunError::NotAdmitted)?;
        let (twin, watch) = (permit.twin(), permit.watch());
        let result = call(permit).await;
        // where the slot was lost, the charge stays: somebody else may be making the call
        if result.is_err()
            && !watch.is_some_and(|watch| watch.is_lost())
            && let Err(error) = twin.release().await
        {
            tracing::debug!(kind = ?error.kind(), "a failed call keeps its charge");
        }
        result.map_err(RunError::Call)
    }
}
