//! Who of an org was admitted lately: `lua/note.lua` for the embedded store.

use std::collections::BTreeMap;

use crate::store::{keyspace::SubjectKey, memory::MemoryStore};

/// Subjects, by when they are taken off.
#[derive(Debug, Default)]
pub(super) struct Roster(BTreeMap<SubjectKey, u64>);

impl Roster {
    fn note(&mut self, subject: &SubjectKey, off_at: u64) {
        let noted = self.0.entry(subject.clone()).or_default();
        // somebody else may have noted it for longer
        *noted = off_at.max(*noted);
    }

    fn listed(&self, now: u64) -> impl Iterator<Item = &SubjectKey> {
        self.0.iter().filter(move |(_, off_at)| **off_at > now).map(|(subject, _)| subject)
    }

    pub(super) fn prune(&mut self, now: u64) {
        self.0.retain(|_, off_at| *off_at > now);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl MemoryStore {
    pub(crate) fn note(&self, org: &str, subjects: &[SubjectKey], life_ms: u64) {
        self.with_org(org, |org, now| subjects.iter().for_each(|subject| org.roster.note(subject, now + life_ms)));
    }

    pub(crate) fn orgs(&self) -> Vec<String> {
        let orgs = self.orgs.lock();
        let now = self.clock.now_ms();
        let listed = orgs.by_name.iter().filter(|(_, org)| org.roster.listed(now).next().is_some());
        let mut names: Vec<_> = listed.map(|(name, _)| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    pub(crate) fn subjects(&self, org: &str) -> Vec<SubjectKey> {
        let orgs = self.orgs.lock();
        let now = self.clock.now_ms();
        orgs.by_name.get(org).map(|org| org.roster.listed(now).cloned().collect()).unwrap_or_default()
    }
}
