//! What an operator does to an org, live, and sees of it: controls, resets, who did what; and in `inspection` where limits stand.
//!
//! Invariant: what an operator changes is written into the org's audit trail, with who did, and binds every process from the next
//! decision on.

mod inspection;
mod usage;

use std::{sync::Arc, time::Duration};

pub use self::usage::{Explanation, Inspection, LimitUse, OpenReservation, PartUse, UserUse};
use crate::{
    clock::millis,
    control::{Action, Control},
    error::Error,
    limiter::Limiter,
    store::governed::{AuditEntry, Governed, Manner},
    subject::Subject,
};

/// An operator's hand on the orgs of a limiter.
///
/// ```
/// use std::time::Duration;
/// use allotment::{Admin, Control, Limiter};
///
/// # async fn example(limiter: Limiter) -> Result<(), allotment::Error> {
/// let admin = Admin::new(&limiter, "dana@example.com")?;
/// let abuse = Control::block().on("user", "mallory").because("spam").lasting(Duration::from_secs(3600));
/// admin.apply("acme", &abuse).await?;
/// admin.withdraw("acme", &abuse).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Admin {
    limiter: Limiter,
    by: Arc<str>,
}

/// A control that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ActiveControl {
    /// What it says.
    pub control: Control,
    /// Until it ends; `None`: until it is withdrawn.
    pub expires_after: Option<Duration>,
}

/// One entry of an audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditRecord {
    /// When, in milliseconds since the epoch by the store's clock.
    pub at_ms: u64,
    /// Who.
    pub by: String,
    /// What was changed: the kind, the limit, the resource and the target of a control, or `reset` and the subject.
    pub what: String,
    /// The control before, as JSON; empty if there was none.
    pub old: String,
    /// The control after; empty if it was withdrawn.
    pub new: String,
}

impl Admin {
    /// The longest name of who acts, in bytes.
    pub const BY_BYTES_MAX: usize = 128;

    /// `by` names who acts, in audit trails.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a name of no or more than 128 bytes.
    pub fn new(limiter: &Limiter, by: impl Into<Arc<str>>) -> Result<Self, Error> {
        let by = by.into();
        if !(1..=Self::BY_BYTES_MAX).contains(&by.len()) {
            return Err(Error::invalid(format!("by of {} bytes: it takes 1 to {}", by.len(), Self::BY_BYTES_MAX)));
        }
        Ok(Self { limiter: limiter.clone(), by })
    }

    /// Sets a control, in place of the one that has the same kind, limit, resource and target. No usage is reset. One round trip.
    ///
    /// It binds every process from its next decision on. Places promised before stay, but for a block, which refuses them when they start,
    /// and a cool-down, in which none starts.
    /// A call that no limit holds is not held by a block or a cool-down either.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a control out of range, on a limit or resource that the policy of the org
    /// does not have, for a bypass or a cool-down without an end, and where an org has 1,000 controls; otherwise the store's.
    pub async fn apply(&self, org: &str, control: &Control) -> Result<(), Error> {
        Subject::org(org).validate()?;
        control.validate()?;
        let after = self.after_ms(org, control).await?;
        self.govern(org, control.id(), Some(control.to_text()?), after).await.map(drop)
    }

    /// Ends a control before its time; says whether there was one of its kind, limit, resource and target. One round trip.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn withdraw(&self, org: &str, control: &Control) -> Result<bool, Error> {
        Subject::org(org).validate()?;
        self.govern(org, control.id(), None, None).await
    }

    /// The controls in force. One round trip.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn controls(&self, org: &str) -> Result<Vec<ActiveControl>, Error> {
        Subject::org(org).validate()?;
        self.limiter.controls(org).await.map(|controls| {
            let active = |(control, expires_after)| ActiveControl { control, expires_after };
            controls.into_iter().map(active).collect()
        })
    }

    /// The last `entries` changes, the latest first; at most 1,000 are kept, for 90 days after the last. One round trip.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn audit(&self, org: &str, entries: u16) -> Result<Vec<AuditRecord>, Error> {
        Subject::org(org).validate()?;
        let stored = self.limiter.store().controls(org, entries.min(1_000)).await?;
        let record = |entry: AuditEntry| AuditRecord {
            at_ms: entry.at,
            by: entry.by,
            what: entry.what,
            old: entry.old,
            new: entry.new,
        };
        Ok(stored.audit.into_iter().map(record).collect())
    }

    /// Empties the ledgers of one limit that count this subject, and writes down who did: usage so far no longer binds, not of anybody who
    /// counts there too. Places promised for later stay, and so do the ledgers of other limits, but for those of the same scope and window.
    /// Two round trips.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a limit that the policy of the org does not have, that does not hold the
    /// subject, or that only counts calls under way; otherwise as [`Limiter::reset`].
    pub async fn reset_limit(&self, subject: &Subject, limit: &str) -> Result<(), Error> {
        self.limiter.reset_limit(subject, limit).await?;
        self.write_down(subject, format!("reset {limit} {subject:?}")).await
    }

    /// Empties every ledger that counts this subject, those of the whole org included, as [`Limiter::reset`] does, and writes down who
    /// did. Two round trips.
    ///
    /// # Errors
    ///
    /// As [`Limiter::reset`].
    pub async fn reset(&self, subject: &Subject) -> Result<(), Error> {
        self.limiter.reset(subject).await?;
        self.write_down(subject, format!("reset {subject:?}")).await
    }

    async fn write_down(&self, subject: &Subject, what: String) -> Result<(), Error> {
        let org = subject.value("org").unwrap_or_default();
        let by = self.by.to_string();
        let written = Governed { id: String::new(), control: None, after_ms: None, by, what, manner: Manner::Decided };
        self.limiter.store().govern(org, &written).await.map(drop)
    }

    async fn govern(
        &self,
        org: &str,
        id: String,
        control: Option<String>,
        after_ms: Option<u64>,
    ) -> Result<bool, Error> {
        let by = self.by.to_string();
        let change = Governed { what: id.clone(), id, control, after_ms, by, manner: Manner::Decided };
        self.limiter.store().govern(org, &change).await
    }

    /// How long a control lasts: a grant for one window, unless it says otherwise; a bypass and a cool-down must say.
    async fn after_ms(&self, org: &str, control: &Control) -> Result<Option<u64>, Error> {
        let stated = control.lasts.map(millis);
        if stated.is_some_and(|after| !(1..=YEAR_MS).contains(&after)) {
            return Err(Error::invalid(format!(
                "lasting {:?}: allowed are 1 ms to 366 days",
                control.lasts.unwrap_or_default()
            )));
        }
        let must_end = match control.action {
            Action::Bypass => Some("bypass"),
            Action::CoolDown { .. } => Some("cool-down"),
            _ => None,
        };
        if let Some(kind) = must_end.filter(|_| stated.is_none()) {
            return Err(Error::invalid(format!("{kind}: it must have an end; say .lasting(..)")));
        }
        let Some(limit) = control.limit() else { return Ok(stated) };
        let window_ms = self.limiter.window_of(org, limit, control.resource()).await?;
        let grant = matches!(control.action, Action::Grant { .. });
        Ok(stated.or(window_ms.filter(|_| grant)))
    }
}

const YEAR_MS: u64 = 366 * 24 * 60 * 60 * 1_000;
