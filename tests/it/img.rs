#![allow(clippy::panic, clippy::unwrap_used, unreachable_pub)]
mod image_client;
mod support {
    pub(crate) async fn eventually<T>(what: &str, mut question: impl AsyncFnMut() -> Option<T>) -> T {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        loop {
            if let Some(answer) = question().await {
                return answer;
            }
            assert!(std::time::Instant::now() < until, "not within: {what}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}
