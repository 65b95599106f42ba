//! Redis does not answer: who decides then, and that it says so. What becomes of it afterwards is in `postings.rs`.
//!
//! Real time, because a network fails; windows of an hour, so that nothing leaves.

use std::{future::IntoFuture, time::Duration};

use allotment::{
    Admin, Control, Cost, Degraded, Denial, Error, ErrorKind, FailurePolicy, Limit, Limiter, Outcome, Permit, Policy,
    Reason, Resource, Retry, StateLoss, Subject,
};
use tokio::task::JoinSet;

use crate::support::{
    Behind, Fault, Server, eventually, held, lose, random_org, refuse_all_but, share_is_known, share_is_known_on,
};

const HOUR: Duration = Duration::from_secs(3_600);

fn policy(images: u64) -> Policy {
    Policy::new().limit(Limit::new("org").images(images).window(HOUR))
}

async fn ask(limiter: &Limiter, org: &str, images: u64) -> Result<Outcome, Error> {
    limiter.try_acquire(&Subject::org(org).user("alice"), Cost::images(images)).await
}

/// So many calls at once: those that were admitted, and why the others were not.
async fn ask_often(limiter: &Limiter, org: &str, calls: usize) -> (Vec<Permit>, Vec<Denial>) {
    let mut asking = JoinSet::new();
    for _ in 0..calls {
        let (limiter, org) = (limiter.clone(), org.to_owned());
        asking.spawn(async move { ask(&limiter, &org, 1).await.unwrap() });
    }
    let (mut permits, mut denials) = (Vec::new(), Vec::new());
    for outcome in asking.join_all().await {
        match outcome {
            Outcome::Admitted(permit) => permits.push(permit),
            Outcome::Denied(denial) => denials.push(denial),
        }
    }
    (permits, denials)
}

/// Makes the process known to Redis, and gives back what that took.
async fn join(process: &Behind, org: &str) {
    eventually("Redis decides", async || {
        let Ok(Outcome::Admitted(permit)) = ask(&process.limiter, org, 1).await else { return None };
        let decided = permit.degraded().is_none();
        permit.release().await.ok().filter(|()| decided)
    })
    .await;
}

/// Two processes of an org, each of which knows that it has half of each limit.
async fn two_processes(policy: &Policy, org: &str) -> [Behind; 2] {
    let processes = [
        Behind::new(policy.clone(), FailurePolicy::Local).await,
        Behind::new(policy.clone(), FailurePolicy::Local).await,
    ];
    for process in &processes {
        join(process, org).await;
    }
    share_is_known(org, 2).await;
    eventually("what joining took has been given back", async || (held(org).await == [0; 3]).then_some(())).await;
    processes
}

#[tokio::test]
async fn by_default_a_call_fails_with_the_error_of_the_store() {
    let (process, org) = (Behind::new(policy(10), FailurePolicy::Deny).await, random_org());
    join(&process, &org).await;
    for fault in [Fault::Refuse, Fault::BlackHole] {
        process.proxy.set(fault).await;
        let error = ask(&process.limiter, &org, 1).await.unwrap_err();
        assert!(error.is_retryable() && error.denial().is_none(), "{error:?}");
        process.heal().await;
        join(&process, &org).await;
    }
}

#[tokio::test]
async fn allow_admits_whatever_the_limits_say_but_not_who_was_blocked_or_what_can_never_be() {
    let with_slots = policy(2).limit(Limit::new("calls").in_flight(1));
    let (process, org) = (Behind::new(with_slots, FailurePolicy::Allow).await, random_org());
    join(&process, &org).await;
    let admin = Admin::new(&process.limiter, "dana").unwrap();
    admin.apply(&org, &Control::block().on("user", "mallory").lasting(HOUR)).await.unwrap();
    join(&process, &org).await;
    process.cut().await;
    let mut permits = Vec::new();
    for _ in 0..3 {
        let permit = ask(&process.limiter, &org, 1).await.unwrap().into_result().unwrap();
        assert_eq!(
            (permit.degraded(), permit.lease().is_none(), permit.limits()),
            (Some(Degraded::Allow), true, &[][..])
        );
        permits.push(permit);
    }
    let Outcome::Denied(never) = ask(&process.limiter, &org, 3).await.unwrap() else { panic!("3 of 2 images") };
    assert_eq!((never.retry, never.degraded), (Retry::Never { over_by: 1 }, Some(Degraded::Allow)));
    let mallory = Subject::org(org.as_str()).user("mallory");
    let Outcome::Denied(blocked) = process.limiter.try_acquire(&mallory, Cost::new()).await.unwrap() else {
        panic!("mallory is blocked")
    };
    assert_eq!((blocked.reason, blocked.degraded), (Reason::Blocked { because: None }, Some(Degraded::Allow)));
    let waits = process.limiter.acquire(&mallory, Cost::new()).max_wait(HOUR * 2).await.unwrap_err();
    assert_eq!(waits.kind(), ErrorKind::Denied, "and does not wait for it to end");
}

#[tokio::test]
async fn processes_that_lose_redis_share_each_limit_exactly() {
    let org = random_org();
    let processes = two_processes(&policy(11), &org).await;
    for process in &processes {
        process.cut().await;
    }
    let shares = [&processes[0], &processes[1]].map(|process| ask_often(&process.limiter, &org, 12));
    let [first, second] = shares;
    let degraded = Some(Degraded::Local { members: 2 });
    for (permits, denials) in [first.await, second.await] {
        assert_eq!((permits.len(), denials.len()), (5, 7), "half of 11, rounded down");
        assert!(permits.iter().all(|permit| permit.degraded() == degraded && permit.limits()[0].limit == 5));
        for denial in denials {
            assert_eq!((denial.degraded, denial.limits[0].used), (degraded, 5));
            assert!(denial.is_estimate(), "{denial}");
            let text = denial.to_string();
            assert!(text.ends_with("(decided without the store, by the failure policy `local`, one of 2)"), "{text}");
        }
    }
    let Outcome::Denied(large) = ask(&processes[0].limiter, &org, 6).await.unwrap() else { panic!("6 of 5 images") };
    assert_eq!((large.degraded, large.is_never()), (degraded, false), "the limit has room for it: {large}");
    assert_eq!(large.retry, Retry::Estimate(Duration::from_secs(1)));
    let Outcome::Denied(never) = ask(&processes[0].limiter, &org, 12).await.unwrap() else { panic!("12 of 11") };
    assert_eq!((never.degraded, never.is_never()), (degraded, true), "{never}");
}

#[tokio::test]
async fn a_process_that_does_not_know_its_share_denies() {
    let org = random_org();
    let stranger = Behind::new(policy(10), FailurePolicy::Local).await;
    stranger.cut().await;
    let error = ask(&stranger.limiter, &org, 1).await.unwrap_err();
    assert!(error.is_retryable() && error.denial().is_none(), "{error:?}");
    // a sign of life every 200 s: one is all that it gives
    let builder = Limiter::builder().policy(policy(10)).failure_policy(FailurePolicy::Local);
    let newcomer = Behind::built(builder.lease(Duration::from_secs(600))).await;
    for _ in 0..20 {
        join(&newcomer, &org).await;
    }
    newcomer.cut().await;
    let error = ask(&newcomer.limiter, &org, 1).await.unwrap_err();
    assert!(error.is_retryable() && error.denial().is_none(), "{error:?}");
}

#[tokio::test]
async fn slots_are_shared_too_and_come_back_when_a_call_ends() {
    let org = random_org();
    let processes = two_processes(&policy(1_000).limit(Limit::new("calls").in_flight(5)), &org).await;
    for process in &processes {
        process.cut().await;
    }
    let (mut permits, denials) = ask_often(&processes[0].limiter, &org, 3).await;
    assert_eq!((permits.len(), denials.len()), (2, 1), "half of 5, rounded down");
    let denial = &denials[0];
    assert_eq!(
        (&denial.reason, &denial.resource, denial.is_estimate()),
        (&Reason::InFlight, &Resource::InFlight, true)
    );
    assert!(denial.retry_after().is_some_and(|wait| wait <= Duration::from_secs(1)), "{denial}");
    assert!(permits.iter().all(|permit| permit.lease().is_none()));
    for end in ["commit", "release", "drop"] {
        let permit = permits.pop().unwrap();
        match end {
            "commit" => permit.commit(Cost::images(1)).await.unwrap(),
            "release" => permit.release().await.unwrap(),
            _ => drop(permit),
        }
        let (next, denials) = ask_often(&processes[0].limiter, &org, 2).await;
        assert_eq!((next.len(), denials.len()), (1, 1), "after a {end}");
        permits.extend(next);
    }
    let (others, _) = ask_often(&processes[1].limiter, &org, 3).await;
    assert_eq!(others.len(), 2);
}

/// Two processes share an hour's limit of 2; a call of 2 is more than a share, and the limit has room for it.
#[tokio::test]
async fn a_call_that_waits_is_admitted_by_the_store_when_it_answers_again() {
    let org = random_org();
    let processes = two_processes(&policy(2), &org).await;
    for process in &processes {
        process.cut().await;
    }
    let alice = Subject::org(org.as_str()).user("alice");
    let impatient = processes[0].limiter.acquire(&alice, Cost::images(2)).max_wait(Duration::ZERO).await.unwrap_err();
    assert_eq!(impatient.denial().and_then(|denial| denial.degraded), Some(Degraded::Local { members: 2 }));
    let waiting = tokio::spawn(processes[0].limiter.acquire(&alice, Cost::images(2)).max_wait(HOUR).into_future());
    let one = processes[0].limiter.acquire(&alice, Cost::images(1)).await.unwrap();
    assert_eq!(one.degraded(), Some(Degraded::Local { members: 2 }), "what fits in a share does not wait");
    one.release().await.unwrap();
    assert!(!waiting.is_finished());
    for process in &processes {
        process.heal().await;
    }
    let permit = waiting.await.unwrap().unwrap();
    assert_eq!((permit.degraded(), permit.cost()), (None, &Cost::images(2)));
}

#[tokio::test]
async fn who_is_refused_is_not_admitted_by_a_failure_policy() {
    for failure in [FailurePolicy::Allow, FailurePolicy::Local] {
        let (server, [org, near]) = (Server::start().await, [(); 2].map(|()| random_org()));
        let builder = Limiter::builder().policy(policy(10)).failure_policy(failure).lease(Duration::from_secs(6));
        let process = Behind::on(&server, builder).await;
        join(&process, &org).await;
        if failure == FailurePolicy::Local {
            share_is_known_on(&server, &org, 1).await;
        }
        refuse_all_but(&server, &near).await;
        let error = ask(&process.limiter, &org, 1).await.unwrap_err();
        assert_eq!((error.kind(), error.denial().is_none()), (ErrorKind::Unavailable, true), "{failure}: {error:?}");
        process.cut().await;
        let permit = ask(&process.limiter, &org, 1).await.unwrap().into_result().unwrap();
        assert!(permit.degraded().is_some(), "{failure}: it is away now");
    }
}

#[tokio::test]
async fn what_a_loss_of_data_holds_back_is_held_back_without_redis_too() {
    for state_loss in [StateLoss::Ramp, StateLoss::Closed] {
        let builder = Limiter::builder().policy(policy(10)).failure_policy(FailurePolicy::Local);
        let builder = builder.state_loss(state_loss).lease(Duration::from_secs(6));
        let (process, org) = (Behind::built(builder).await, random_org());
        join(&process, &org).await;
        share_is_known(&org, 1).await;
        lose(&org).await;
        let denied = async |images| match ask(&process.limiter, &org, images).await.unwrap() {
            Outcome::Denied(denial) => denial,
            Outcome::Admitted(_) => panic!("{state_loss:?}: nothing has grown yet"),
        };
        assert_eq!(denied(10).await.reason, Reason::StateLost, "{state_loss:?}");
        share_is_known(&org, 1).await;
        process.cut().await;
        for _ in 0..2 {
            let alone = denied(10).await;
            assert_eq!(
                (&alone.reason, alone.degraded, alone.is_estimate()),
                (&Reason::StateLost, Some(Degraded::Local { members: 1 }), true)
            );
        }
        assert!(denied(11).await.is_never(), "{state_loss:?}: more than the whole limit");
    }
}

/// Its place comes while Redis is away, and it has asked there since.
#[tokio::test]
async fn who_waits_in_line_is_decided_by_the_failure_policy_once_its_place_has_passed() {
    let short = || Policy::new().limit(Limit::new("org").images(1).window(Duration::from_secs(2)));
    for failure in [FailurePolicy::Deny, FailurePolicy::Allow] {
        let process = Behind::new(short(), failure).await;
        // anew where the place has come before Redis was gone
        eventually("the place comes without Redis", async || {
            let org = random_org();
            let alice = Subject::org(org.as_str()).user("alice");
            drop(process.limiter.try_acquire(&alice, Cost::images(1)).await.ok()?.into_result().ok()?);
            let waits = tokio::spawn(process.limiter.acquire(&alice, Cost::images(1)).into_future());
            let admin = Admin::new(&process.limiter, "dana").unwrap();
            eventually("it is booked", async || {
                let booked = admin.inspect(&alice).await.ok()?.limits.iter().any(|limit| limit.booked > 0);
                (booked || waits.is_finished()).then_some(())
            })
            .await;
            process.cut().await;
            let waited = tokio::time::timeout(Duration::from_secs(60), waits).await.unwrap().unwrap();
            process.heal().await;
            match (failure, waited) {
                (FailurePolicy::Allow, Ok(permit)) => permit.degraded().map(drop),
                (FailurePolicy::Deny, Err(error)) => (error.is_retryable() && error.denial().is_none()).then_some(()),
                _ => None,
            }
        })
        .await;
    }
}
