//! An address that clients keep, and the server behind it that changes.

use std::net::Ipv4Addr;

use anyhow::Result;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// Forwards to one port of this host; dropping it closes its own.
pub(crate) struct Way {
    port: u16,
    leads_to: watch::Sender<u16>,
    _acceptor: JoinSet<()>,
}

impl Way {
    pub(crate) async fn to(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (own, (leads_to, seen)) = (listener.local_addr()?.port(), watch::channel(port));
        let mut acceptor = JoinSet::new();
        acceptor.spawn(async move {
            let mut wires = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                wires.spawn(carry(client, seen.clone()));
            }
        });
        Ok(Self { port: own, leads_to, _acceptor: acceptor })
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Connections are cut, and new ones lead there.
    pub(crate) fn lead_to(&self, port: u16) {
        self.leads_to.send_replace(port);
    }
}

async fn carry(mut client: TcpStream, mut leads_to: watch::Receiver<u16>) {
    let port = *leads_to.borrow_and_update();
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    tokio::select! {
        _over = copy_bidirectional(&mut client, &mut server) => {}
        _elsewhere = leads_to.changed() => {}
    }
}
