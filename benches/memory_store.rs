//! What a decision costs on the embedded store: an org and a user with three resources each. `store_*` is the store by itself, the others
//! are the public API, from policy to permit; over 10,000 users.
//!
//! Run it with `cargo bench --bench memory_store`. The aim is at most 1 microsecond per decision of the store on one core.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a failed benchmark is a failed measurement; criterion's macros write main"
)]

use std::{cell::Cell, hint::black_box, time::Duration};

use allotment::{
    Cost, Limit, Limiter, ManualClock, Outcome, Policy, Subject,
    testing::{RawAcquire, RawAsk, RawLedger, RawStore},
};
use criterion::{Criterion, criterion_group, criterion_main};
use tokio::runtime::{Builder, Runtime};

const USERS: usize = 10_000;
const PLENTY: u64 = 1 << 46;

/// Six counters: requests, tokens and images of the org and of the user.
fn limiter(org_images: u64) -> Limiter {
    let minute = Duration::from_secs(60);
    let org = Limit::new("org").requests(PLENTY).tokens(PLENTY).images(org_images).window(minute);
    let user = Limit::new("user").scope(["user"]).requests(PLENTY).tokens(PLENTY).images(PLENTY / 2).window(minute);
    Limiter::builder().policy(Policy::new().limit(org).limit(user)).build().unwrap()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn users() -> impl Fn() -> Subject {
    let subjects: Vec<_> = (0..USERS).map(|user| Subject::org("acme").user(format!("user-{user}"))).collect();
    let next = Cell::new(0);
    move || {
        let user = next.replace((next.get() + 1) % USERS);
        subjects[user].clone()
    }
}

fn cost() -> Cost {
    Cost::images(1).tokens(1_756)
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memory_store");

    let (limiter_with_room, user) = (limiter(PLENTY), users());
    group.bench_function("six_allowed", |bencher| {
        bencher.to_async(runtime()).iter_batched(
            || (user(), cost()),
            async |(subject, cost)| {
                black_box(matches!(limiter_with_room.try_acquire(&subject, cost).await, Ok(Outcome::Admitted(_))))
            },
            criterion::BatchSize::SmallInput,
        );
    });

    let full = limiter(1);
    drop(runtime().block_on(full.try_acquire(&Subject::org("acme").user("first"), cost())).unwrap());
    group.bench_function("six_denied", |bencher| {
        bencher.to_async(runtime()).iter_batched(
            || (user(), cost()),
            async |(subject, cost)| black_box(matches!(full.try_acquire(&subject, cost).await, Ok(Outcome::Denied(_)))),
            criterion::BatchSize::SmallInput,
        );
    });
    for (name, images) in [("store_allowed", PLENTY), ("store_denied", 1)] {
        let ask = |user, images| RawAsk {
            ledger: RawLedger { user, window_ms: 60_000 },
            amounts: [1, 1_756, 1],
            limits: [Some(PLENTY), Some(PLENTY), Some(images)],
        };
        let request = |user| RawAcquire {
            id: [0; 16],
            asked: vec![ask(None, images), ask(Some(format!("user-{user}")), PLENTY)],
            home: Some(1),
            max_wait_ms: 0,
            ..RawAcquire::default()
        };
        let requests: Vec<_> = (0..USERS).map(request).collect();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let clock = ManualClock::new();
                let store = RawStore::in_memory(clock.clone());
                let started_at = std::time::Instant::now();
                let admitted = store.decide_often("acme", &requests, times, &clock);
                let taken = started_at.elapsed();
                // one image per window of the clock's, where there is but one
                assert!(if images > 1 { admitted == times } else { admitted <= 1 + times / 1_000_000 });
                taken
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
