//! The controls of each org, as this process last saw them.
//!
//! Invariant: nothing is decided by controls of another version than the store has: it says so, and they are fetched anew. An org without
//! controls takes no place here.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

use crate::{
    control::{Controls, LiveControl},
    error::{Error, ErrorKind},
    store::{Store, governed::StoredControls},
};

#[derive(Debug, Default)]
pub(crate) struct Governing {
    none: Arc<Controls>,
    by_org: RwLock<HashMap<Arc<str>, Arc<Controls>>>,
}

impl Governing {
    pub(crate) fn of(&self, org: &str) -> Arc<Controls> {
        self.by_org.read().get(org).map_or_else(|| Arc::clone(&self.none), Arc::clone)
    }

    /// Fetches the controls of an org. One round trip.
    pub(crate) async fn refresh(&self, store: &Store, org: &Arc<str>) -> Result<Arc<Controls>, Error> {
        let controls = Arc::new(read(store.controls(org, 0).await?)?);
        if controls.version == 0 {
            self.by_org.write().remove(org);
        } else {
            self.by_org.write().insert(Arc::clone(org), Arc::clone(&controls));
        }
        Ok(controls)
    }
}

/// What is stored, as controls.
pub(crate) fn read(stored: StoredControls) -> Result<Controls, Error> {
    let control = |(text, expires_at): (String, Option<u64>)| {
        let control = serde_json::from_str(&text).map_err(|error| {
            Error::new(ErrorKind::Protocol, "a control of this org is one that this version cannot read")
                .with_source(error)
        })?;
        Ok(LiveControl { control, expires_at })
    };
    let mut live = stored.controls.into_iter().map(control).collect::<Result<Vec<_>, Error>>()?;
    // of two that are equally narrow, every process takes the same
    live.sort_by_cached_key(|live: &LiveControl| live.control.id());
    Ok(Controls { version: stored.version, live })
}
