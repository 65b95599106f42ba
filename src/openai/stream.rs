//! Images as they come: previews, each image, and all of them at the end.
//!
//! Invariant: nothing runs but while the caller waits for the next event, so a stream that is dropped leaves nothing behind. Its charge then
//! stays as estimated, unless the call had not been sent.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};

use crate::openai::{
    error::ImageError,
    response::{Image, Images},
};

/// What a stream brings next.
#[derive(Debug)]
#[non_exhaustive]
pub enum ImageEvent {
    /// An image in the making.
    #[non_exhaustive]
    Partial {
        /// How it looks so far.
        image: Image,
        /// Which of the images that were asked for: 0 is the first.
        index: u32,
        /// Which of its previews: 0 is the first.
        partial: u32,
    },
    /// An image that is complete, while others may still come.
    #[non_exhaustive]
    Image {
        /// The image.
        image: Image,
        /// Which of the images that were asked for: 0 is the first.
        index: u32,
    },
    /// All images, and how the call went. The last event: the call is settled.
    Completed(Images),
}

/// The events of one call: see [`ImageClient::stream`](crate::openai::ImageClient::stream).
#[must_use = "nothing is asked before the first event is waited for"]
pub struct ImageStream {
    call: Call,
    events: mpsc::Receiver<ImageEvent>,
    /// When the caller took the last event, until it waits for the next.
    taken_at: Option<Instant>,
    held_us: Arc<AtomicU64>,
}

type Serving = Pin<Box<dyn Future<Output = Result<Images, ImageError>> + Send>>;

enum Call {
    UnderWay(Serving),
    Ended(Option<Box<Result<Images, ImageError>>>),
}

impl ImageStream {
    /// The stream of a call that tells its events to what `serve` is given.
    pub(super) fn new(serve: impl FnOnce(Events) -> Serving) -> Self {
        // the call goes on when the caller has taken an event
        let (sender, events) = mpsc::channel(1);
        let held_us = Arc::<AtomicU64>::default();
        let told = Events { sender, has_told: AtomicBool::new(false), held_us: Arc::clone(&held_us) };
        Self { call: Call::UnderWay(serve(told)), events, taken_at: None, held_us }
    }

    /// The next event; `None` after the last one, or after an error.
    ///
    /// # Errors
    ///
    /// As [`ImageClient::run`](crate::openai::ImageClient::run). Images that came before stay with the caller.
    ///
    /// # Cancel safety
    ///
    /// No event is lost if the future is dropped: the next call goes on.
    pub async fn next(&mut self) -> Option<Result<ImageEvent, ImageError>> {
        if let Some(taken_at) = self.taken_at.take() {
            let held_us = u64::try_from(taken_at.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.held_us.fetch_add(held_us, Ordering::Relaxed);
        }
        loop {
            if let Ok(event) = self.events.try_recv() {
                self.taken_at = Some(Instant::now());
                return Some(Ok(event));
            }
            match &mut self.call {
                Call::UnderWay(call) => tokio::select! {
                    biased;
                    Some(event) = self.events.recv() => {
                        self.taken_at = Some(Instant::now());
                        return Some(Ok(event));
                    }
                    ended = call => self.call = Call::Ended(Some(Box::new(ended))),
                },
                Call::Ended(ended) => return ended.take().map(|ended| (*ended).map(ImageEvent::Completed)),
            }
        }
    }
}

impl fmt::Debug for ImageStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let under_way = matches!(self.call, Call::UnderWay(_));
        f.debug_struct("ImageStream").field("under_way", &under_way).finish_non_exhaustive()
    }
}

/// Where a call tells its events.
#[derive(Debug)]
pub(super) struct Events {
    sender: mpsc::Sender<ImageEvent>,
    has_told: AtomicBool,
    held_us: Arc<AtomicU64>,
}

impl Events {
    pub(super) async fn tell(&self, event: ImageEvent) {
        self.has_told.store(true, Ordering::Relaxed);
        // the stream owns both the call and the receiver
        drop(self.sender.send(event).await);
    }

    /// Whether the caller has seen any: then the call cannot be made again in its stead.
    pub(super) fn has_told(&self) -> bool {
        self.has_told.load(Ordering::Relaxed)
    }

    /// How long the caller has been busy with events so far, while the call stood still.
    pub(super) fn held_for(&self) -> Duration {
        Duration::from_micros(self.held_us.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::response::Content;

    fn partial(partial: u32) -> ImageEvent {
        ImageEvent::Partial { image: Image::new(Content::Url("http://a".into())), index: 0, partial }
    }

    #[tokio::test]
    async fn events_come_in_order_and_an_error_is_the_last() {
        let mut stream = ImageStream::new(|events| {
            Box::pin(async move {
                for at in 0..3 {
                    events.tell(partial(at)).await;
                }
                Err(ImageError::invalid("over"))
            })
        });
        for at in 0..3 {
            let Some(Ok(ImageEvent::Partial { partial, .. })) = stream.next().await else { panic!() };
            assert_eq!(partial, at);
        }
        assert!(matches!(stream.next().await, Some(Err(error)) if error.to_string() == "over"));
        assert!(stream.next().await.is_none() && stream.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_a_caller_takes_is_told_apart_from_that_of_the_call() {
        let mut stream = ImageStream::new(|events| {
            Box::pin(async move {
                for at in 0..3 {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    events.tell(partial(at)).await;
                }
                Err(ImageError::invalid(format!("{:?}", events.held_for())))
            })
        });
        for _ in 0..3 {
            assert!(matches!(stream.next().await, Some(Ok(_))));
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        assert!(matches!(stream.next().await, Some(Err(error)) if error.to_string() == "20s"));
    }
}
