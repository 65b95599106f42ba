//! Whom the store is to list for operators: subjects that were admitted.
//!
//! Invariant: a subject that keeps being admitted stays on the list until the longest window after its last admission has passed. No
//! decision waits for the list or depends on it.

#[cfg(feature = "redis")]
mod gathering;

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use tokio_util::task::TaskTracker;

#[cfg(feature = "redis")]
use self::gathering::Gathering;
use crate::{
    clock::Clock,
    dispatch::presence::Presence,
    store::{Notes, Store, keyspace::SubjectKey},
    subject::Subject,
};

/// Longer on the list than a window and a half, for what gathers and for clocks that differ.
const SLACK_MS: u64 = 60_000;

#[derive(Debug)]
pub(super) struct Roster {
    store: Arc<Store>,
    clock: Clock,
    noted: Presence,
    #[cfg(feature = "redis")]
    gathering: Arc<Gathering>,
}

impl Roster {
    #[cfg_attr(not(feature = "redis"), expect(unused_variables, reason = "the embedded store is written in place"))]
    pub(super) fn new(store: &Arc<Store>, clock: Clock, tasks: &TaskTracker) -> Self {
        Self {
            store: Arc::clone(store),
            clock,
            noted: Presence::default(),
            #[cfg(feature = "redis")]
            gathering: Gathering::new(Arc::clone(store), tasks.clone()),
        }
    }

    /// A call of this subject was admitted; `attributes` are those that limits go by, `window_ms` is the longest of their windows.
    pub(super) fn note(&self, org: &Arc<str>, subject: &Subject, attributes: &[Box<str>], window_ms: u64) {
        let named = Named { subject, attributes };
        // half a window is more than short, so that it is the longest pause between two notes
        if self.noted.note((org, &named), window_ms, self.clock.now_ms()) != Notes::User {
            return;
        }
        let (key, life_ms) = (SubjectKey::new(named.pairs()), window_ms + window_ms / 2 + SLACK_MS);
        match &*self.store {
            Store::Memory(store) => store.note(org, &[key], life_ms),
            #[cfg(feature = "redis")]
            Store::Redis(_) => self.gathering.add(org, key, life_ms),
        }
    }

    /// What has gathered is written without a pause from now on.
    pub(super) fn close(&self) {
        #[cfg(feature = "redis")]
        self.gathering.close();
    }
}

/// A subject, as far as limits know it.
struct Named<'a> {
    subject: &'a Subject,
    attributes: &'a [Box<str>],
}

impl<'a> Named<'a> {
    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let subject = self.subject;
        self.attributes.iter().filter_map(move |name| Some((&**name, subject.value(name)?)))
    }
}

impl Hash for Named<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pairs().for_each(|pair| pair.hash(state));
    }
}
