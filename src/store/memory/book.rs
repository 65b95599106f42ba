//! What operators have decided about one org, and who did: `lua/govern.lua` and `lua/controls.lua` for the embedded store.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    error::Error,
    store::governed::{AuditEntry, Governed, Manner, StoredControls},
};

/// The most controls of an org.
const CONTROLS_MAX: usize = 1_000;
/// How long the version of withdrawn controls is remembered.
const FORGOTTEN_MS: u64 = 75_000;
/// Entries of the audit trail that are kept.
const AUDIT_MAX: usize = 1_000;

/// Controls by their ids, and the audit trail.
#[derive(Debug, Default)]
pub(super) struct Book {
    version: u64,
    /// When the version is forgotten, after the last control was withdrawn: by then it cannot come back.
    forgotten_at: u64,
    controls: BTreeMap<String, Written>,
    audit: VecDeque<AuditEntry>,
}

#[derive(Debug)]
struct Written {
    text: String,
    expires_at: Option<u64>,
}

impl Book {
    /// The version that a decision at `now` goes by; 0 if there are no controls.
    pub(super) fn version(&mut self, now: u64) -> u64 {
        if self.version > 0 {
            self.controls.retain(|_, written| written.expires_at.is_none_or(|at| at > now));
            if self.controls.is_empty() && now >= self.forgotten_at {
                self.version = 0;
            }
        }
        self.version
    }

    pub(super) fn govern(&mut self, change: &Governed, now: u64) -> Result<bool, Error> {
        // as in Redis, where the hash lives as long as its longest control
        let before = self.version(now);
        if change.control.is_some() && !self.controls.contains_key(&change.id) && self.controls.len() >= CONTROLS_MAX {
            return Err(Error::invalid(format!("an org has at most {CONTROLS_MAX} controls: remove some")));
        }
        if change.manner == Manner::Hinted
            && let (Some(old), Some(after)) = (self.controls.get(&change.id), change.after_ms)
            && old.expires_at.is_none_or(|ends_at| ends_at + Governed::slack_ms(after) >= now + after)
        {
            return Ok(false);
        }
        let old = self.controls.remove(&change.id);
        let changed = !change.id.is_empty() && (change.control.is_some() || old.is_some());
        if changed {
            self.version = now.max(before + 1);
        }
        if let Some(mut text) = change.control.clone() {
            if change.manner == Manner::Hinted
                && let Some(old) = &old
            {
                // who has set it keeps his word: it is only extended
                text.clone_from(&old.text);
            }
            let expires_at = change.after_ms.map(|after| now + after);
            self.controls.insert(change.id.clone(), Written { text, expires_at });
        }
        if changed && self.controls.is_empty() {
            self.forgotten_at = now + FORGOTTEN_MS;
        } else if changed {
            self.forgotten_at = 0;
        }
        self.version(now);
        if change.manner == Manner::Decided && (changed || change.id.is_empty()) {
            let (old, new) = (old.map(|old| old.text).unwrap_or_default(), change.control.clone().unwrap_or_default());
            let (by, what) = (change.by.clone(), change.what.clone());
            self.audit.push_front(AuditEntry { at: now, by, what, old, new });
            self.audit.truncate(AUDIT_MAX);
        }
        Ok(changed)
    }

    pub(super) fn stored(&self, now: u64, entries: u16) -> StoredControls {
        let live = |written: &&Written| written.expires_at.is_none_or(|at| at > now);
        let controls = self.controls.values().filter(live).map(|written| (written.text.clone(), written.expires_at));
        let audit = self.audit.iter().take(usize::from(entries)).cloned().collect();
        let controls: Vec<_> = controls.collect();
        let version = if controls.is_empty() && now >= self.forgotten_at { 0 } else { self.version };
        StoredControls { now, version, controls, audit }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.controls.is_empty() && self.audit.is_empty()
    }
}
