//! A Redis for one test.

use allotment_fixtures::{Server, Settings};
use tokio::runtime::Runtime;

/// A server of this test, with a password.
pub(crate) struct Redis {
    /// None once it is being dropped.
    server: Option<Server>,
    runtime: Runtime,
}

impl Redis {
    pub(crate) const PASSWORD: &str = "hunter2-secret";

    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(Server::start_with(Settings::new().password(Self::PASSWORD)));
        Self { server: Some(server), runtime }
    }

    pub(crate) fn url(&self) -> String {
        self.server.as_ref().map(Server::url).unwrap_or_default()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // A container is removed by asking for it.
        let _context = self.runtime.enter();
        self.server = None;
    }
}
