//! Ctrl-C, and the exit status after it.

use tokio::sync::mpsc;

/// The exit status after Ctrl-C, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// Hears of every Ctrl-C and every polite request to end. Listens all the time: one that came between two waits would be lost.
pub(crate) fn interruptions() -> mpsc::UnboundedReceiver<()> {
    let (heard, interruptions) = mpsc::unbounded_channel();
    #[cfg(unix)]
    if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        let heard = heard.clone();
        tokio::spawn(async move { while terminate.recv().await.is_some() && heard.send(()).is_ok() {} });
    }
    tokio::spawn(async move { while tokio::signal::ctrl_c().await.is_ok() && heard.send(()).is_ok() {} });
    interruptions
}
