//! The integration tests: one binary, over real Redis servers.

// clippy.toml allows these in tests, but takes only functions with `#[test]` for tests, not what they call.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a failed fixture is a failed test")]

mod api;
#[cfg(feature = "openai")]
mod api_openai;
mod bookings;
mod connections;
mod controls;
mod corpus;
mod engines;
mod exactly_once;
mod fairness;
mod faults;
mod feedback;
mod fixtures;
mod histories;
mod house;
#[cfg(feature = "openai")]
mod image_client;
#[cfg(feature = "openai")]
mod image_fleet;
mod inspection;
mod layers;
mod leases;
mod members;
mod model;
mod oracle;
mod policy;
mod postings;
mod purity;
mod retry_after;
mod rights;
mod scripts;
mod skew;
mod state_loss;
mod support;
mod together;
mod topologies;
mod unavailable;
