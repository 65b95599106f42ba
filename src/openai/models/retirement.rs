//! Says of a model that is asked for that upstream has shut it down, or soon will.
//!
//! Invariant: once per model, so that a log is not filled. Time is a value: the day is given.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

use crate::openai::{date::Date, models::Model};

/// So many days before it is shut down a model is spoken of.
const DAYS_BEFORE: u64 = 30;

/// The models that were spoken of.
#[derive(Debug, Default)]
pub(in crate::openai) struct Retirements(Mutex<BTreeSet<Arc<str>>>);

impl Retirements {
    /// What to say of a model on this day; `None` where it stays, or was spoken of before.
    pub(in crate::openai) fn notice(&self, model: &Model, today: Date) -> Option<String> {
        let day = model.retires_on().filter(|day| day.days_since(today) <= DAYS_BEFORE)?;
        if !self.0.lock().insert(model.shared_name().clone()) {
            return None;
        }
        let verb = if day <= today { "was" } else { "will be" };
        let instead = model.replacement().map(|replacement| format!("; instead there is {replacement}"));
        Some(format!("{} {verb} shut down on {day}{}", model.name(), instead.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::models::Models;

    #[test]
    fn a_model_that_goes_is_spoken_of_once() {
        let (retirements, models) = (Retirements::default(), Models::embedded());
        let notice = |model: &str, today: &str| retirements.notice(&models.get(model), today.parse().unwrap());
        let instead = "gpt-image-2.6-sunburst or gpt-image-2.6-flare";
        assert_eq!(notice("gpt-image-1.5", "2026-10-31"), None, "31 days before");
        let soon = notice("gpt-image-1.5", "2026-11-01").unwrap();
        assert_eq!(soon, format!("gpt-image-1.5 will be shut down on 2026-12-01; instead there is {instead}"));
        assert_eq!(notice("openai/gpt-image-1.5", "2027-01-01"), None, "it was spoken of");
        let gone = notice("gpt-image-1", "2026-10-23").unwrap();
        assert_eq!(gone, format!("gpt-image-1 was shut down on 2026-10-23; instead there is {instead}"));
        for stays in ["gpt-image-2", "flux"] {
            assert_eq!(notice(stays, "2030-01-01"), None, "{stays}");
        }
    }
}
