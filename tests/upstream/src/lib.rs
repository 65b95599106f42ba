//! A simulated image API on real sockets: limits, errors, streams and faults as the real ones have them, for tests and demos.
//!
//! Invariant: it shares nothing with Allotment, neither code nor clock, so that its verdict is independent. Lacks TLS and HTTP/2.
//!
//! ```no_run
//! # async fn show() -> std::io::Result<()> {
//! use allotment_upstream::{ErrorShape, Script, Stranger, Terms, Upstream};
//!
//! let upstream = Upstream::start(Terms::new().images(250).tokens(8_000_000).stranger(Stranger::new(0.30))).await?;
//! upstream.next(Script::Refuse(ErrorShape::HiddenJson));
//! // .. calls to `upstream.base_url()` with the key `upstream.key()` ..
//! assert_eq!(upstream.tally().refusals(), 0);
//! # Ok(())
//! # }
//! ```

mod clock;
mod delivery;
mod drawing;
mod limits;
mod meter;
mod models;
mod picture;
mod quota;
mod reply;
mod script;
mod server;
mod shapes;
mod stranger;
mod tally;
mod terms;
mod usage;
mod visit;
mod wire;

pub use self::{
    clock::ManualClock,
    limits::{Dimension, Enforcement, Limits},
    picture::Pictures,
    quota::RefusedCalls,
    script::{Fault, Raw, Script},
    server::Upstream,
    shapes::{ErrorShape, Figures, ShouldRetry},
    stranger::{Arrivals, Stranger},
    tally::{Call, OrgTally, Part, Tally},
    terms::{ChatPicture, Feature, Latency, Org, RateHeaders, RetryHints, Terms, TokenCharge, UsageReport},
};
