//! Whether the store is fit for what a limiter needs, for those who start it and those who are on call.

use super::Limiter;
#[cfg(feature = "redis")]
use super::self_test::self_test;
#[cfg(feature = "redis")]
use crate::error::ErrorKind;
use crate::{
    diagnosis::{Diagnosis, Finding},
    error::Error,
    store::Store,
};

impl Limiter {
    /// Checks that the store answers and is set up so that nothing is lost: see the errors. Some twenty round trips per server.
    ///
    /// Each script is run once, on orgs whose names begin with `allotment-self-test`, so that a right that is missing shows now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) when Redis cannot be reached, or refuses this user a command;
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) when it would evict keys under memory pressure.
    pub async fn ready(&self) -> Result<(), Error> {
        match &*self.core.dispatch.store {
            Store::Memory(_) => Ok(()),
            #[cfg(feature = "redis")]
            Store::Redis(store) => {
                store.ready().await?;
                for orgs in store.self_test_orgs().await? {
                    self_test(self.store(), &orgs).await.map_err(|(script, error)| {
                        let advice = if is_late(&error) { "" } else { "; see the rights in docs/operations.md" };
                        Error::new(ErrorKind::Unavailable, format!("self-test of {script}: {error}{advice}"))
                            .with_source(error)
                    })?;
                }
                Ok(())
            }
        }
    }

    /// Looks at the store as an operator would: version, topology, persistence, eviction, clock, latency, rights, each with what to do. Some
    /// fifty round trips per server; a server that does not answer is a finding.
    pub async fn diagnose(&self) -> Diagnosis {
        match &*self.core.dispatch.store {
            Store::Memory(_) => {
                Diagnosis::new(vec![Finding::good("store", "embedded: ledgers are in this process, and end with it")])
            }
            #[cfg(feature = "redis")]
            Store::Redis(store) => {
                let mut findings = store.findings().await;
                if findings.iter().any(|finding| finding.check == "connection") {
                    return Diagnosis::new(findings);
                }
                match store.self_test_orgs().await {
                    Ok(orgs) => {
                        for orgs in orgs {
                            findings.push(match self_test(self.store(), &orgs).await {
                                Ok(()) => Finding::good("rights", "every script ran"),
                                Err((script, error)) if is_late(&error) => Finding::failure(
                                    "deadline",
                                    format!("{script}: {error}"),
                                    "see the latency: the server, or the way to it, is too slow",
                                ),
                                Err((script, error)) => Finding::failure(
                                    "rights",
                                    format!("{script}: {error}"),
                                    "give the user the rights in docs/operations.md",
                                ),
                            });
                        }
                    }
                    Err(error) => {
                        findings.push(Finding::failure("rights", error.to_string(), "see the findings above"))
                    }
                }
                findings.push(Finding::good("scripts", store.digests()));
                Diagnosis::new(findings)
            }
        }
    }

    /// Has every server of the store keep the scripts, for users who may run scripts by name but not send their text (`EVALSHA` without
    /// `EVAL`). To be repeated after a restart. Two round trips per server; nothing to do for the embedded store.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) when a server cannot be reached, or refuses `SCRIPT LOAD`.
    pub async fn load_scripts(&self) -> Result<(), Error> {
        match &*self.core.dispatch.store {
            Store::Memory(_) => Ok(()),
            #[cfg(feature = "redis")]
            Store::Redis(store) => store.load_scripts().await,
        }
    }
}

/// Nothing was answered, so no right was refused.
#[cfg(feature = "redis")]
fn is_late(error: &Error) -> bool {
    error.kind() == ErrorKind::Timeout
}
