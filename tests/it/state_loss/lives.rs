//! What marks a loss lasts: beside an older release, for as long as what was lost would count, and for who waited through it.

use super::*;

const DAY_MS: u64 = 86_400_000;

fn daily(amount: u64) -> Policy {
    Policy::new().limit(Limit::new("org").images(amount).window(Duration::from_millis(DAY_MS)))
}

async fn head(scene: &mut Scene) -> Vec<u8> {
    redis::cmd("GET").arg(HEAD).query_async(&mut scene.conn).await.unwrap()
}

async fn write_head(scene: &mut Scene, head: &[u8], life_ms: u64) {
    redis::cmd("SET").arg(HEAD).arg(head).arg("PX").arg(life_ms).exec_async(&mut scene.conn).await.unwrap();
}

async fn reason(limiter: &Limiter) -> Reason {
    ask(limiter, 1).await.unwrap_err().reason
}

/// It knows of no losses: of the flags it keeps what it knows, and the epoch as it is.
async fn older_release_writes_the_head(scene: &mut Scene) {
    scene.advance_ms(1_000);
    let mut head = head(scene).await;
    head[26] %= 4;
    head[6..12].copy_from_slice(&scene.now_ms.to_le_bytes()[..6]);
    write_head(scene, &head, 600_000).await;
}

#[tokio::test]
async fn a_loss_is_marked_once_though_an_older_release_writes_the_head() {
    let (mut scene, reports) = (Scene::new().await, Reports::default());
    let _guard = metrics::set_default_local_recorder(&reports);
    let policy = images(10);
    let fleet = [(); 3].map(|()| scene.limiter(&policy, StateLoss::Closed));
    for limiter in &fleet {
        assert!(is_admitted(limiter, 1).await);
    }
    scene.lose().await;
    for limiter in &fleet {
        assert_eq!(reason(limiter).await, Reason::StateLost);
        older_release_writes_the_head(&mut scene).await;
    }
    for limiter in &fleet {
        assert_eq!(reason(limiter).await, Reason::StateLost);
    }
    let newcomer = scene.limiter(&policy, StateLoss::Closed);
    assert_eq!(reason(&newcomer).await, Reason::StateLost);
    assert_eq!(reports.count(), 1);
    scene.advance_ms(MINUTE_MS as i64 - 3_000);
    for limiter in fleet.iter().chain([&newcomer]) {
        assert!(is_admitted(limiter, 1).await);
    }
    assert_eq!(reports.count(), 1);
}

#[tokio::test]
async fn an_epoch_that_an_older_release_made_is_no_mark() {
    // what it reads like: a time to come, and one of long ago
    for epoch in [[0xff; 8], [0, 0, 0, 0, 0, 0x81, 7, 7]] {
        let (mut scene, reports) = (Scene::new().await, Reports::default());
        let _guard = metrics::set_default_local_recorder(&reports);
        let policy = images(10);
        let knows = scene.limiter(&policy, StateLoss::Closed);
        assert!(is_admitted(&knows, 1).await);
        let mut made = head(&mut scene).await;
        made[18..26].copy_from_slice(&epoch);
        scene.lose().await;
        write_head(&mut scene, &made, 75_000).await;
        assert!(is_admitted(&scene.limiter(&policy, StateLoss::Closed), 1).await);
        assert_eq!(reason(&knows).await, Reason::StateLost);
        assert_eq!(reason(&scene.limiter(&policy, StateLoss::Closed)).await, Reason::StateLost);
        assert_eq!(reports.count(), 1);
    }
}

#[tokio::test]
async fn a_loss_is_remembered_while_what_was_lost_would_count() {
    let mut scene = Scene::new().await;
    let policy = daily(10);
    let (minute, day) = (scene.limiter(&images(10), StateLoss::Closed), scene.limiter(&policy, StateLoss::Closed));
    assert!(is_admitted(&day, 1).await && is_admitted(&minute, 1).await);
    scene.lose().await;
    // the call that marks the loss asks for no more than a minute
    assert_eq!(reason(&minute).await, Reason::StateLost);
    scene.advance_ms(20 * MINUTE_MS as i64);
    for limiter in [&scene.limiter(&policy, StateLoss::Closed), &day] {
        let denial = ask(limiter, 1).await.unwrap_err();
        assert_eq!(denial.reason, Reason::StateLost);
        assert_eq!(denial.retry, Retry::After(Duration::from_millis(DAY_MS - 20 * MINUTE_MS)));
    }
    scene.advance_ms((DAY_MS - 20 * MINUTE_MS) as i64);
    assert!(is_admitted(&day, 1).await);
}

#[tokio::test]
async fn a_loss_is_remembered_for_the_longest_lease() {
    let mut scene = Scene::new().await;
    let policy = Policy::new().limit(Limit::new("calls").in_flight(2));
    let limiter = |scene: &Scene| {
        let builder = Limiter::builder().redis(scene.server.url()).policy(policy.clone());
        let builder = builder.deadline(Duration::from_secs(20)).lease(Duration::from_secs(600));
        builder.state_loss(StateLoss::Closed).build().unwrap()
    };
    let knows = limiter(&scene);
    assert!(is_admitted(&knows, 1).await);
    scene.lose().await;
    assert_eq!(reason(&knows).await, Reason::StateLost);
    scene.advance_ms(599_999);
    assert_eq!(reason(&limiter(&scene)).await, Reason::StateLost);
    scene.advance_ms(1);
    assert!(is_admitted(&limiter(&scene), 1).await);
}

#[tokio::test]
async fn who_waited_through_a_second_loss_is_held_by_it() {
    let mut scene = Scene::new().await;
    // one in a hundred seconds grows of the day's
    let policy = daily(864).limit(Limit::new("pace").images(1).window(Duration::from_secs(30)));
    let limiter = scene.limiter(&policy, StateLoss::Ramp);
    assert!(is_admitted(&limiter, 1).await);
    scene.lose().await;
    assert!(!is_admitted(&limiter, 1).await);
    scene.advance_ms(300_000);
    assert!(is_admitted(&limiter, 1).await);
    // so that it asks each 64th of half a minute, not of a day
    scene.advance_ms(10_000);
    let waiting = tokio::spawn({
        let limiter = limiter.clone();
        async move { limiter.acquire(&acme(), Cost::images(1)).max_wait(Duration::from_secs(60)).await }
    });
    let mut booked = 0;
    while booked == 0 {
        let seen = Admin::new(&limiter, "test").unwrap().inspect(&acme()).await.unwrap();
        booked = seen.limits.iter().map(|limit| limit.booked).sum();
    }
    scene.lose().await;
    assert!(!is_admitted(&limiter, 1).await);
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.denial().unwrap().reason, Reason::StateLost);
}
