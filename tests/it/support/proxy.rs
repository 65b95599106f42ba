//! A TCP proxy on loopback that fails on request: the network between a limiter and its Redis, in the test's hand.
//!
//! Faults are per chunk, as the kernel hands bytes over: a reply may share its chunk with others.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// What is wrong with the network. Applies to open connections as well, from the next chunk on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Nothing: all passes at once.
    Nothing,
    /// Each chunk waits: requests for `up`, replies for `down`.
    Delay { up: Duration, down: Duration },
    /// The server executes, its reply is dropped, and the client's connection is reset.
    LoseReplies,
    /// As [`Fault::LoseReplies`] for this share of the reply chunks (0.1 loses every tenth), the rest passes. The
    /// same seed loses the same ones of a sequence.
    LoseRepliesAtRandom { share: f64, seed: u64 },
    /// Connections stay open and nothing moves; what was sent meanwhile passes when the fault ends.
    BlackHole,
    /// Open connections are reset and new ones refused, as by a host whose server is gone.
    Refuse,
}

/// The proxy; dropping it closes its port and connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    wires: Arc<Wires>,
    /// Whether the port is open. Ends with the acceptor, so that nobody waits for one that failed.
    listening: watch::Receiver<bool>,
    /// Aborts the acceptor, and with it the connections, on drop.
    _acceptor: JoinSet<()>,
}

impl Proxy {
    /// Forwards a port of its own to `target_port` on 127.0.0.1.
    pub(crate) async fn start(target_port: u16) -> Self {
        let listener = TcpListener::bind(loopback(0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let wires = Arc::new(Wires::new());
        let mut acceptor = JoinSet::new();
        let (announce, listening) = watch::channel(true);
        acceptor.spawn(accept(listener, target_port, Arc::clone(&wires), announce));
        Self { port, wires, listening, _acceptor: acceptor }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Replaces the fault. When this returns, new connections meet the new one.
    pub(crate) async fn set(&self, fault: Fault) {
        if let Fault::LoseRepliesAtRandom { seed, .. } = fault {
            *self.wires.dice.lock() = seed;
        }
        self.wires.fault.send_replace(fault);
        let listens = fault != Fault::Refuse;
        self.listening.clone().wait_for(|listening| *listening == listens).await.unwrap();
    }

    /// Resets every connection that has carried something. New ones are served as before.
    pub(crate) fn reset_now(&self) {
        self.wires.resets.send_modify(|resets| *resets += 1);
    }

    /// How many reply chunks were dropped so far: a test that injects faults asserts that it met some.
    pub(crate) fn lost_replies(&self) -> u64 {
        self.wires.lost_replies.load(Ordering::Relaxed)
    }
}

/// What the connections and their proxy share.
#[derive(Debug)]
struct Wires {
    fault: watch::Sender<Fault>,
    /// Counts the calls of [`Proxy::reset_now`].
    resets: watch::Sender<u64>,
    dice: Mutex<u64>,
    lost_replies: AtomicU64,
}

impl Wires {
    fn new() -> Self {
        Self {
            fault: watch::Sender::new(Fault::Nothing),
            resets: watch::Sender::new(0),
            dice: Mutex::new(0),
            lost_replies: AtomicU64::new(0),
        }
    }

    /// Waits until the fault is one that `wanted` accepts.
    async fn fault_that(&self, wanted: impl FnMut(&Fault) -> bool) -> Fault {
        *self.fault.subscribe().wait_for(wanted).await.expect("the sender is borrowed here")
    }

    /// Resolves when open connections are to be reset.
    async fn cut(&self) {
        let mut resets = self.resets.subscribe();
        tokio::select! {
            _ = resets.changed() => {}
            _ = self.fault_that(|fault| *fault == Fault::Refuse) => {}
        }
    }

    /// Whether the next reply chunk is lost.
    fn loses_reply(&self, fault: Fault) -> bool {
        let lost = match fault {
            Fault::LoseReplies => true,
            Fault::LoseRepliesAtRandom { share, .. } => roll(&mut self.dice.lock()) < share,
            _ => false,
        };
        self.lost_replies.fetch_add(u64::from(lost), Ordering::Relaxed);
        lost
    }
}

async fn accept(mut listener: TcpListener, target_port: u16, wires: Arc<Wires>, listening: watch::Sender<bool>) {
    let address = listener.local_addr().unwrap();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted.unwrap();
                connections.spawn(relay(client, target_port, Arc::clone(&wires)));
            }
            _ = wires.fault_that(|fault| *fault == Fault::Refuse) => {
                drop(listener);
                // Bound and not listening: the kernel refuses connections and gives the port to nobody else.
                let reserved = TcpSocket::new_v4().unwrap();
                reserved.set_reuseaddr(true).unwrap();
                reserved.bind(address).unwrap();
                listening.send_replace(false);
                wires.fault_that(|fault| *fault != Fault::Refuse).await;
                listener = reserved.listen(1024).unwrap();
                listening.send_replace(true);
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Up,
    Down,
}

/// How a connection ended.
enum End {
    Closed,
    Cut,
}

async fn relay(mut client: TcpStream, target_port: u16, wires: Arc<Wires>) {
    let end = match TcpStream::connect(loopback(target_port)).await {
        Ok(mut server) => {
            let _ = client.set_nodelay(true);
            let _ = server.set_nodelay(true);
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            tokio::select! {
                end = carry(Way::Up, from_client, to_server, &wires) => end,
                end = carry(Way::Down, from_server, to_client, &wires) => end,
                () = wires.cut() => End::Cut,
            }
        }
        Err(_) => End::Cut,
    };
    if matches!(end, End::Cut) {
        // Closing then sends a reset instead of an orderly end.
        let _ = client.set_zero_linger();
    }
}

async fn carry(way: Way, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, wires: &Wires) -> End {
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut chunk).await else { return End::Closed };
        let fault = wires.fault_that(|fault| *fault != Fault::BlackHole).await;
        if let Fault::Delay { up, down } = fault {
            // the fault itself
            tokio::time::sleep(if way == Way::Up { up } else { down }).await;
        }
        if way == Way::Down && wires.loses_reply(fault) {
            return End::Cut;
        }
        if to.write_all(&chunk[..length]).await.is_err() {
            return End::Closed;
        }
    }
}

/// The next number of SplitMix64, as a share: at least 0, below 1.
fn roll(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}
