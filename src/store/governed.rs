//! What operators and upstreams have decided about an org, as a store is told and tells it.

/// One change of the controls of an org.
#[derive(Clone, Debug)]
pub(crate) struct Governed {
    /// Of the control; empty: only the audit trail is written.
    pub(crate) id: String,
    /// `None` removes it.
    pub(crate) control: Option<String>,
    /// Until it expires.
    pub(crate) after_ms: Option<u64>,
    pub(crate) by: String,
    pub(crate) what: String,
    pub(crate) manner: Manner,
}

/// How a control is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// By an operator: it is written into the audit trail.
    Decided,
    /// By an upstream that asks for a pause: it changes nothing where the control ends no sooner, or hardly so, and otherwise only its end. Nothing
    /// is written down, as hints would drive what operators decide out of the trail.
    Hinted,
}

impl Governed {
    /// How much later than a control that is stored a hint must end to be worth a new version, which every process fetches.
    pub(crate) fn slack_ms(after_ms: u64) -> u64 {
        (after_ms / 10).max(100)
    }
}

/// Controls as stored, and the last entries of the audit trail.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredControls {
    pub(crate) now: u64,
    pub(crate) version: u64,
    /// Text, and when it expires.
    pub(crate) controls: Vec<(String, Option<u64>)>,
    pub(crate) audit: Vec<AuditEntry>,
}

/// One entry of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditEntry {
    pub(crate) at: u64,
    pub(crate) by: String,
    pub(crate) what: String,
    pub(crate) old: String,
    pub(crate) new: String,
}
