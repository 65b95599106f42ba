//! What the tests stand on: the fixtures that every package shares, stores whose time is in the test's hand, users in
//! simulated time.

mod outage;
mod simulation;
mod stage;

pub(crate) use allotment_fixtures::{
    ClockedServer, Fault, Proxy, Server, Stored, connect, dump_all, random_org, raw, shared,
};

pub(crate) use self::{
    outage::{Behind, eventually, held, held_on, lose, refuse_all_but, share_is_known, share_is_known_on},
    simulation::{Group, Outcome, Scene, play},
    stage::Stage,
};
