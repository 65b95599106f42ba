//! Who of the processes that ask for an org is alive: those share its limits while the store is away.

use crate::{error::Error, store::Store};

/// One sign of life of a member, or its leave.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "nobody shares the embedded store"))]
pub(crate) struct Beat {
    /// Who gives it.
    pub(crate) id: [u8; 16],
    /// For how long it counts; 0: the member leaves.
    pub(crate) lease_ms: u64,
    /// The org's time at which it joined, as it was told; 0: it joins now.
    pub(crate) joined_at: u64,
}

/// What a member is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The org's time at which it joined: now, if it was no member any more.
    pub(crate) joined_at: u64,
    /// How many members there are, itself included.
    pub(crate) members: u64,
    /// How many of them, itself included, have given no sign after it joined: none of the others is sure to know of it.
    pub(crate) unaware: u64,
}

impl Store {
    /// Gives a sign of life of one member of an org. One round trip.
    #[cfg_attr(not(feature = "redis"), expect(unused_variables, reason = "nobody shares the embedded store"))]
    pub(crate) async fn beat(&self, org: &str, beat: Beat) -> Result<Membership, Error> {
        match self {
            Self::Memory(_) => Ok(Membership { joined_at: beat.joined_at, members: 1, unaware: 0 }),
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.beat(org, beat).await,
        }
    }
}
