//! Subjects that wait to be written to the store's list: one task per limiter writes them, many in one call.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Notify};
use tokio_util::task::TaskTracker;

use crate::store::{Store, keyspace::SubjectKey};

/// How long subjects gather before they are written.
const GATHER: Duration = Duration::from_secs(1);
/// The most that wait: while the store does not answer, more are not listed.
const WAITING_MAX: usize = 100_000;

#[derive(Debug)]
pub(super) struct Gathering {
    store: Arc<Store>,
    tasks: TaskTracker,
    waiting: Mutex<Waiting>,
    hurry: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// With how long those of the org are to stay on the list.
    by_org: HashMap<Arc<str>, (BTreeSet<SubjectKey>, u64)>,
    count: usize,
    /// A task writes.
    is_written: bool,
    closing: bool,
}

impl Waiting {
    fn add(&mut self, org: &Arc<str>, key: SubjectKey, life_ms: u64) {
        if self.count < WAITING_MAX {
            let (subjects, longest_ms) = self.by_org.entry(Arc::clone(org)).or_default();
            *longest_ms = life_ms.max(*longest_ms);
            self.count += usize::from(subjects.insert(key));
        }
    }
}

impl Gathering {
    pub(super) fn new(store: Arc<Store>, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self { store, tasks, waiting: Mutex::default(), hurry: Notify::new() })
    }

    pub(super) fn add(self: &Arc<Self>, org: &Arc<str>, key: SubjectKey, life_ms: u64) {
        let mut waiting = self.waiting.lock();
        waiting.add(org, key, life_ms);
        // without a runtime nobody writes: the next call that has one does
        let Some(runtime) = Handle::try_current().ok().filter(|_| !waiting.is_written) else { return };
        waiting.is_written = true;
        drop(waiting);
        let writes = Writes(Arc::clone(self));
        self.tasks.spawn_on(async move { writes.0.write().await }, &runtime);
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closing = true;
        self.hurry.notify_one();
    }

    /// Writes what has gathered, until nothing has.
    async fn write(&self) {
        loop {
            if !self.waiting.lock().closing {
                tokio::select! {
                    () = tokio::time::sleep(GATHER) => {}
                    () = self.hurry.notified() => {}
                }
            }
            let (by_org, closing) = {
                let mut waiting = self.waiting.lock();
                if waiting.by_org.is_empty() {
                    waiting.is_written = false;
                    return;
                }
                waiting.count = 0;
                (std::mem::take(&mut waiting.by_org), waiting.closing)
            };
            for (org, (subjects, life_ms)) in by_org {
                let subjects: Vec<_> = subjects.into_iter().collect();
                let written = self.store.note(&org, &subjects, life_ms).await;
                if written.is_err_and(|error| error.is_retryable()) && !closing {
                    let mut waiting = self.waiting.lock();
                    subjects.into_iter().for_each(|subject| waiting.add(&org, subject, life_ms));
                }
            }
        }
    }
}

/// However the writing ends, also with its runtime: the next subject starts it anew. Should two tasks write for a moment, each writes others.
struct Writes(Arc<Gathering>);

impl Drop for Writes {
    fn drop(&mut self) {
        self.0.waiting.lock().is_written = false;
    }
}
