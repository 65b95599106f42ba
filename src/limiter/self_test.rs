//! Whether the store does all that a limiter will ask of it: each script is run once, before anything depends on it.
//!
//! Invariant: whatever it writes has names of its own, and expires. A user that lacks the right to one command would else leave a call half
//! written, some day.

use std::{sync::Arc, time::Duration};

use super::builder::PRIORITY;
use crate::{
    calendar::{ENTRY_MAX, Told},
    cost::Cost,
    error::{Error, ErrorKind},
    limit::Limit,
    plan::{Plan, UpstreamPool},
    policy::Policy,
    resource::Resource,
    store::{
        Lease, Notes, ObserveRequest, ReservationId, Store, Verdict,
        governed::{Governed, Manner},
        inspection::Owner,
        keyspace::SubjectKey,
        member::Beat,
    },
    subject::Subject,
};

/// How long what it leaves on the lists of operators stays there.
const LISTED_MS: u64 = 1;
const LEASE_MS: u64 = 1_000;
/// Of its limits.
const WINDOW_MS: u64 = 60_000;

/// Does with these orgs all that can be done with one; says what failed. The second is for controls.
pub(super) async fn self_test(store: &Store, [org, governed]: &[String; 2]) -> Result<(), (&'static str, Error)> {
    let failed = |script: &'static str| move |error: Error| (script, error);
    let plan = plan(org).map_err(failed("plan"))?;
    let new_id = || ReservationId::new(Owner::of(Some("user")));
    for releases in [true, false] {
        let id = new_id();
        let mut request = plan.acquire_request(id, 0);
        (request.notes, request.lease_ms) = (Notes::User, LEASE_MS);
        let answer = store.acquire(org, &[request]).await.pop().unwrap_or_else(|| Err(unanswered()));
        let answer = answer.map_err(failed("acquire"))?;
        let leases: Vec<_> = plan.slots().into_iter().map(|slots| Lease { slots, id }).collect();
        store.renew(org, &leases, LEASE_MS).await.map_err(failed("renew"))?;
        match answer.verdict {
            Verdict::Admitted { .. } => {}
            // the server has lost its data since the last self-test of this process
            Verdict::Lost => continue,
            _ => return Err(("acquire", Error::new(ErrorKind::Protocol, "a call that fits was not admitted"))),
        }
        let actual = Cost::new();
        let settlement = plan.settle_request(id, Some(answer.now), (!releases).then_some(&actual));
        let settled = store.settle(org, &[settlement]).await.pop().unwrap_or_else(|| Err(unanswered()));
        settled.map_err(failed("settle"))?;
    }
    let bypass = Some(r#"{"action":"bypass"}"#.to_owned());
    for (control, after_ms) in [(bypass.clone(), None), (bypass, Some(1_000)), (None, None)] {
        let (id, by, what) = ("self-test".to_owned(), "self-test".to_owned(), "self-test".to_owned());
        let change = Governed { id, control, after_ms, by, what, manner: Manner::Decided };
        store.govern(governed, &change).await.map_err(failed("govern"))?;
    }
    store.controls(governed, 1).await.map_err(failed("controls"))?;
    if let Some(UpstreamPool { key, window_ms, place, .. }) = plan.upstream_pool(&Resource::Requests, WINDOW_MS) {
        // told in the future, which is as good as now
        let told = Told { place, counted: 1, used: 0, at: ENTRY_MAX, limit: 1, lacking: 0 };
        let request = ObserveRequest { ledger: key, window_ms, told };
        store.observe(org, &request).await.map_err(failed("observe"))?;
    }
    store.inspect(org, &plan.inspect_request()).await.map_err(failed("inspect"))?;
    store.open(org, None, 1_000).await.map_err(failed("open"))?;
    for slots in plan.slots() {
        store.holders(org, &slots).await.map_err(failed("holders"))?;
    }
    store.note(org, &[SubjectKey::new([("user", "user")])], LISTED_MS).await.map_err(failed("note"))?;
    store.subjects(org).await.map_err(failed("subjects"))?;
    for lease_ms in [LEASE_MS, 0] {
        let beat = Beat { id: new_id().0, lease_ms, joined_at: 0 };
        store.beat(org, beat).await.map_err(failed("member"))?;
    }
    store.reset(org, &plan.ledger_keys()).await.map_err(failed("control"))
}

/// A call on every kind of limit.
fn plan(org: &str) -> Result<Plan, Error> {
    let policy = Policy::new()
        .limit(Limit::new("org").requests(1 << 20).fair_share())
        .limit(Limit::new("user").scope(["user"]).requests(1 << 20).window(Duration::from_millis(WINDOW_MS)))
        .limit(Limit::new("under-way").in_flight(1 << 10));
    let subject = Subject::org(org).user("user");
    Plan::new(Arc::new(policy.compile()?), &subject, Cost::new(), PRIORITY, &Arc::default(), None)
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Protocol, "the store left a request without an answer")
}
