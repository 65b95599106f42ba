//! A connection that is made in the background, and replaced when it breaks or stops answering.
//!
//! Invariant: no caller waits longer than it has time, and an attempt to connect outlives the callers that wait for it. A connection on
//! which [`SILENT_MAX`] calls in a row and [`SILENCE`] have passed without an answer is dropped: the flow may be dead, and nobody would
//! ever say so. A command is never repeated here.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection};
use tokio::{runtime::Handle, sync::watch};

use crate::{
    error::{Error, ErrorKind},
    store::redis::{
        address::IN_FLIGHT_MAX,
        failure::{Failure, Then},
    },
};

/// How long one attempt to connect may take.
pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// An attempt that has taken this long has lost its runtime, or it stands still: another is begun.
const ABANDONED: Duration = Duration::from_secs(5);
/// The pause between two attempts that fail.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_millis(500);
const SILENT_MAX: u32 = 2;

/// Makes a connection, and finds out before where to.
pub(super) type Connect =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<MultiplexedConnection, Failure>> + Send>> + Send + Sync>;

/// One connection, whichever it is by now.
pub(super) struct Link {
    connect: Connect,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    current: Current,
    /// Of the connection: a report on an earlier one says nothing about this one.
    number: u64,
    silent: u32,
    answered: Option<Instant>,
}

#[derive(Default)]
enum Current {
    #[default]
    None,
    /// Since then.
    Connecting(watch::Receiver<()>, Instant),
    Live(MultiplexedConnection),
    Failed(Failure, Instant),
}

impl Link {
    pub(super) fn new(connect: Connect) -> Self {
        Self { connect, state: Arc::default() }
    }

    /// The connection and its number. Waits while it is made.
    pub(super) async fn connection(&self) -> Result<(MultiplexedConnection, u64), Failure> {
        loop {
            let mut made = {
                let mut state = self.state.lock();
                match &state.current {
                    Current::Live(connection) => return Ok((connection.clone(), state.number)),
                    Current::Failed(failure, at) if at.elapsed() < ATTEMPT_PAUSE => {
                        let then = if failure.then == Then::GiveUp { Then::GiveUp } else { Then::Repeat };
                        return Err(Failure::new(failure.error.copy(), then));
                    }
                    Current::Connecting(made, began) if began.elapsed() < ABANDONED => made.clone(),
                    Current::None | Current::Failed(..) | Current::Connecting(..) => self.begin(&mut state)?,
                }
            };
            // an error says that the attempt is over, also with its runtime
            if made.changed().await.is_err() {
                let mut state = self.state.lock();
                if matches!(&state.current, Current::Connecting(other, _) if other.same_channel(&made)) {
                    state.current = Current::None;
                }
            }
        }
    }

    fn begin(&self, state: &mut State) -> Result<watch::Receiver<()>, Failure> {
        let runtime = Handle::try_current()
            .map_err(|_| Failure::new(Error::new(ErrorKind::Unavailable, "there is no Tokio runtime"), Then::GiveUp))?;
        let (over, made) = watch::channel(());
        state.current = Current::Connecting(made.clone(), Instant::now());
        state.number += 1;
        let (attempt, shared, number) = ((self.connect)(), Arc::clone(&self.state), state.number);
        runtime.spawn(async move {
            let outcome = attempt.await;
            let mut state = shared.lock();
            if state.number == number {
                (state.silent, state.answered) = (0, Some(Instant::now()));
                state.current = match outcome {
                    Ok(connection) => Current::Live(connection),
                    Err(failure) => Current::Failed(failure, Instant::now()),
                };
            }
            drop(over);
        });
        Ok(made)
    }

    /// An answer came on the connection of this number.
    pub(super) fn answered(&self, number: u64) {
        let mut state = self.state.lock();
        if state.number == number {
            (state.silent, state.answered) = (0, Some(Instant::now()));
        }
    }

    /// A call on it got none in time.
    pub(super) fn silent(&self, number: u64) {
        let mut state = self.state.lock();
        if state.number == number {
            state.silent += 1;
            if state.silent >= SILENT_MAX && state.answered.is_none_or(|at| at.elapsed() >= SILENCE) {
                state.current = Current::None;
            }
        }
    }

    /// It is of no use any more.
    pub(super) fn broken(&self, number: u64) {
        let mut state = self.state.lock();
        if state.number == number && matches!(state.current, Current::Live(_)) {
            state.current = Current::None;
        }
    }
}

/// Connects to a server: the client's own waits are bounded by those of the callers.
pub(super) async fn connect(client: &Client) -> Result<MultiplexedConnection, Failure> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_WITHIN))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(1_024)
        .set_concurrency_limit(IN_FLIGHT_MAX);
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    // the client's own timeout does not cover all of it
    match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(Failure::silence()),
    }
}
