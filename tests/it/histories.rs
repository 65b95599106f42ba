//! Histories in which the scripts once went another way than the model: too rare to wait for among random ones.

use std::time::Duration;

use allotment::{
    ManualClock,
    testing::{RawAcquire, RawAsk, RawLedger, RawSettle, RawSettled, RawStore, RawVerdict},
};

use crate::support::{ClockedServer, Server};

/// Both stores at one time, asked the same: an org and its users, by the minute, with their reservations in the users' ledgers.
struct Both {
    server: ClockedServer,
    clock: ManualClock,
    redis: RawStore,
    memory: RawStore,
    made: u8,
}

impl Both {
    async fn new() -> Self {
        let (server, clock) = (Server::with_clock().await, ManualClock::new());
        let redis = RawStore::redis(&server.url(), Duration::from_secs(20)).unwrap();
        let memory = RawStore::in_memory(clock.clone());
        server.set_ms(clock.now_ms());
        Self { server, clock, redis, memory, made: 0 }
    }

    fn wait(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
        self.server.set_ms(self.clock.now_ms());
    }

    /// A request, not yet made, of `cost` under a limit of 250 for the org.
    fn request(&mut self, user: &str, cost: u64, user_limit: u64, max_wait_ms: u64) -> RawAcquire {
        self.made += 1;
        let mut id = [self.made; 16];
        id[..6].copy_from_slice(&self.clock.now_ms().to_be_bytes()[2..]);
        let asked = [(None, 250), (Some(user.to_owned()), user_limit)].map(|(user, limit)| RawAsk {
            ledger: RawLedger { user, window_ms: 60_000 },
            amounts: [cost, 0, 0],
            limits: [Some(limit), None, None],
        });
        RawAcquire { id, asked: asked.to_vec(), home: Some(1), max_wait_ms, ..RawAcquire::default() }
    }

    async fn acquire(&self, request: &RawAcquire) -> RawVerdict {
        let model = self.memory.acquire("o", std::slice::from_ref(request)).await.remove(0).unwrap();
        let lua = self.redis.acquire("o", std::slice::from_ref(request)).await.remove(0).unwrap();
        assert_eq!(lua, model, "{request:?}");
        model.verdict
    }

    async fn ask(&mut self, user: &str, cost: u64, user_limit: u64, max_wait_ms: u64) -> RawVerdict {
        let request = self.request(user, cost, user_limit, max_wait_ms);
        self.acquire(&request).await
    }

    async fn settle(&self, request: &RawAcquire, releases: bool) -> RawSettled {
        let actual = |asked: &RawAsk| if releases { [0; 3] } else { asked.amounts };
        let charges = request.asked.iter().map(|asked| (asked.ledger.clone(), asked.amounts, actual(asked))).collect();
        let settle = [RawSettle {
            id: request.id,
            charges,
            releases,
            made_at: None,
            home: request.home,
            ..RawSettle::default()
        }];
        let model = self.memory.settle("o", &settle).await.remove(0).unwrap();
        assert_eq!(self.redis.settle("o", &settle).await.remove(0).unwrap(), model, "{settle:?}");
        model
    }

    async fn reset(&self, request: &RawAcquire) {
        let users = [request.asked[1].ledger.clone()];
        self.memory.reset("o", &users).await.unwrap();
        self.redis.reset("o", &users).await.unwrap();
    }
}

/// Where the newest entry is older than a window before a booking, a time that joins it brings it into that booking's window.
#[tokio::test]
async fn what_joins_the_newest_entry_comes_into_the_windows_of_bookings() {
    let mut both = Both::new().await;
    for user in 0..34 {
        both.wait(1_500);
        let _admitted = both.ask(&format!("u{user}"), 1, 250, 0).await;
    }
    both.wait(2_400 - both.clock.now_ms() % 1_000);
    let _admitted = both.ask("a", 1, 250, 0).await;
    both.wait(100);
    let now = both.clock.now_ms();
    assert_eq!(now % 1_000, 500, "the grid of a second rounds a place up by half a second");
    let _admitted = both.ask("b", 1, 100, 0).await;
    let _admitted = both.ask("e", 100, 250, 0).await;
    both.wait(600);
    assert_eq!(both.ask("b", 100, 100, 600_000).await, RawVerdict::Admitted { at: now + 60_500 });
    both.wait(100);
    let _admitted = both.ask("c", 1, 250, 0).await;
    both.wait(100);
    let verdict = both.ask("d", 60, 250, 0).await;
    assert!(matches!(verdict, RawVerdict::Denied { .. }), "{verdict:?}: the booking's window would hold 262 of 250");
}

/// A reset makes a log of a user's ledger; its key must not expire before a tombstone that no ledger carries.
#[tokio::test]
async fn a_tombstone_binds_although_the_ledger_expires_and_is_made_anew() {
    let mut both = Both::new().await;
    let first = both.request("a", 1, 250, 0);
    let _admitted = both.acquire(&first).await;
    both.reset(&first).await;
    both.wait(70_000);
    let late = both.request("a", 1, 250, 0);
    assert_eq!(both.settle(&late, true).await, "absent", "released before it is made");
    both.wait(10_000);
    let _admitted = both.ask("a", 1, 250, 0).await;
    assert_eq!(both.acquire(&late).await, RawVerdict::Released);
}

/// A reset freezes the records of a user's ledger; one that moves up afterwards is as old as its new place.
#[tokio::test]
async fn a_reservation_that_moved_does_not_come_back_from_where_it_was_frozen() {
    let mut both = Both::new().await;
    let _admitted = both.ask("a", 1, 1, 0).await;
    let mut waiting = both.request("a", 1, 1, 600_000);
    let verdict = both.acquire(&waiting).await;
    assert!(matches!(verdict, RawVerdict::Admitted { at } if at > both.clock.now_ms()), "{verdict:?} is a booking");
    both.wait(1_000);
    both.reset(&waiting).await;
    waiting.moves_up = true;
    assert_eq!(both.acquire(&waiting).await, RawVerdict::Admitted { at: both.clock.now_ms() });
    both.wait(61_000);
    assert_eq!(both.settle(&waiting, false).await, "absent", "it is older than a window");
}
