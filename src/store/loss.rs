//! A loss of all that a store had of an org, once it was noticed.

/// When it was noticed, and how far the org's time has come since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// By the org's time; never 0.
    pub(crate) at: u64,
    /// The org's time as last seen.
    pub(crate) now: u64,
}

impl Loss {
    /// How long ago it was noticed, in milliseconds.
    pub(crate) fn age_ms(&self) -> u64 {
        self.now.saturating_sub(self.at)
    }
}
