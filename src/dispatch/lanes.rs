//! Coalescing: requests of one org that wait while a script call of theirs is in flight go together in the next one.
//!
//! Invariant: requests of a lane are sent in the order they came, one call of a lane is in flight at a time, and a request that was sent
//! is answered even if nobody waits any more. With a batch size of one there are no lanes: each request is sent at once.

use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::error::{Error, ErrorKind};

type Waiting<R, A> = Vec<(R, oneshot::Sender<Result<A, Error>>)>;
type Call<R, A> = dyn Fn(Arc<str>, Vec<R>) -> Pin<Box<dyn Future<Output = Vec<Result<A, Error>>> + Send>> + Send + Sync;

/// One lane per org, for one kind of request.
pub(crate) struct Lanes<R, A> {
    call: Box<Call<R, A>>,
    /// An org is here exactly while a task of its lane runs.
    by_org: Mutex<HashMap<Arc<str>, Waiting<R, A>>>,
    batch_max: usize,
    tasks: TaskTracker,
}

impl<R: Send + 'static, A: Send + 'static> Lanes<R, A> {
    /// Lanes whose requests go to `call`, which answers each of a batch, in order.
    pub(crate) fn new<F, Fut>(call: F, batch_max: usize, tasks: TaskTracker) -> Arc<Self>
    where
        F: Fn(Arc<str>, Vec<R>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<Result<A, Error>>> + Send + 'static,
    {
        let call = Box::new(move |org, requests| Box::pin(call(org, requests)) as Pin<Box<_>>);
        Arc::new(Self { call, by_org: Mutex::default(), batch_max, tasks })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the request goes to the store, unless [`withdraw`](Self::withdraw) takes it back before.
    pub(crate) async fn send(self: &Arc<Self>, org: &Arc<str>, request: R) -> Result<A, Error> {
        let (reply, answer) = oneshot::channel();
        let lanes = Arc::clone(self);
        let org = Arc::clone(org);
        if self.batch_max <= 1 {
            self.tasks.spawn(async move { lanes.call_once(&org, vec![(request, reply)]).await });
        } else if self.join(&org, request, reply) {
            self.tasks.spawn(async move {
                let mut broken_off = BrokenOff { lanes, org, armed: true };
                while let Some(batch) = broken_off.lanes.next_batch(&broken_off.org) {
                    broken_off.lanes.call_once(&broken_off.org, batch).await;
                }
                broken_off.armed = false;
            });
        }
        answer.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Closed, "the runtime was shut down before the store answered"))
        })
    }

    /// Takes back a request that has not been sent yet; says whether it did.
    pub(crate) fn withdraw(&self, org: &str, is_it: impl Fn(&R) -> bool) -> bool {
        let mut by_org = self.by_org.lock();
        let Some(waiting) = by_org.get_mut(org) else { return false };
        let position = waiting.iter().position(|(request, _)| is_it(request));
        position.map(|position| waiting.remove(position)).is_some()
    }

    /// Queues a request; says whether the lane must be started.
    fn join(&self, org: &Arc<str>, request: R, reply: oneshot::Sender<Result<A, Error>>) -> bool {
        let mut by_org = self.by_org.lock();
        if let Some(waiting) = by_org.get_mut(org) {
            waiting.push((request, reply));
            return false;
        }
        by_org.insert(Arc::clone(org), vec![(request, reply)]);
        true
    }

    /// What goes next; ends the lane when nothing waits.
    fn next_batch(&self, org: &Arc<str>) -> Option<Waiting<R, A>> {
        let mut by_org = self.by_org.lock();
        let waiting = by_org.get_mut(org)?;
        if waiting.is_empty() {
            by_org.remove(org);
            return None;
        }
        let size = waiting.len().min(self.batch_max);
        Some(waiting.drain(..size).collect())
    }

    async fn call_once(&self, org: &Arc<str>, batch: Waiting<R, A>) {
        let (requests, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let answers = (self.call)(Arc::clone(org), requests).await;
        for (reply, answer) in replies.into_iter().zip(answers) {
            let _nobody_waits = reply.send(answer);
        }
    }
}

/// Ends a lane whose task is dropped in mid-call, as by the end of its runtime: who waits gets an error, and the next request starts it anew.
struct BrokenOff<R, A> {
    lanes: Arc<Lanes<R, A>>,
    org: Arc<str>,
    armed: bool,
}

impl<R, A> Drop for BrokenOff<R, A> {
    fn drop(&mut self) {
        if self.armed {
            self.lanes.by_org.lock().remove(&self.org);
        }
    }
}

impl<R, A> fmt::Debug for Lanes<R, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes")
            .field("orgs", &self.by_org.lock().len())
            .field("batch_max", &self.batch_max)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_lane_whose_runtime_ended_in_mid_call_starts_anew() {
        let stuck = Arc::new(AtomicBool::new(true));
        let is_stuck = Arc::clone(&stuck);
        let call = move |_org, requests: Vec<u32>| {
            let is_stuck = is_stuck.load(Ordering::SeqCst);
            async move {
                if is_stuck {
                    std::future::pending::<()>().await;
                }
                requests.into_iter().map(Ok).collect()
            }
        };
        let lanes = Lanes::new(call, 64, TaskTracker::new());
        let org: Arc<str> = "acme".into();
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();

        let first = runtime();
        let (sender, its_org) = (Arc::clone(&lanes), Arc::clone(&org));
        first.spawn(async move { sender.send(&its_org, 1).await });
        first.block_on(async {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
        });
        assert!(lanes.by_org.lock().contains_key(&org), "the first call is under way");
        drop(first);

        stuck.store(false, Ordering::SeqCst);
        assert_eq!(runtime().block_on(lanes.send(&org, 2)).unwrap(), 2);
    }
}
