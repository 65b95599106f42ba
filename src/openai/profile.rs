//! How good images need to be in one place: previews in development, full quality in production.
//!
//! Invariant: pure; a profile never raises what was asked for. Lacks waiting: the client asks how long full quality would take.

use std::time::Duration;

use serde::Deserialize;

use crate::{
    limit::Period,
    openai::{
        models::Model,
        request::{ImageRequest, Quality},
    },
};

/// How good images need to be.
///
/// ```
/// use std::time::Duration;
/// use allotment::openai::{ImageRequest, Profile, Quality};
///
/// let asked = ImageRequest::generate("a lighthouse").quality(Quality::High);
/// assert_eq!(Profile::production().apply(&asked), asked);
/// assert_eq!(Profile::development().apply(&asked), asked.clone().quality(Quality::Low));
///
/// let profile = Profile::production().lower_when_wait_exceeds(Duration::from_secs(20)).lowest(Quality::Medium);
/// # drop(profile);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    name: String,
    quality_max: Option<Quality>,
    lower_when_wait_exceeds: Option<Period>,
    #[serde(default = "low")]
    lowest: Quality,
}

fn low() -> Quality {
    Quality::Low
}

impl Profile {
    /// Images as they are asked for.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), quality_max: None, lower_when_wait_exceeds: None, lowest: low() }
    }

    /// Previews: all images at low quality.
    #[must_use]
    pub fn development() -> Self {
        Self::new("development").quality_max(Quality::Low)
    }

    /// Images as they are asked for.
    #[must_use]
    pub fn production() -> Self {
        Self::new("production")
    }

    /// Draws nothing better than this. What is left to the model is drawn so, too. Default: as it is asked for.
    #[must_use]
    pub fn quality_max(mut self, quality: Quality) -> Self {
        self.quality_max = Some(quality).filter(|quality| *quality != Quality::Auto);
        self
    }

    /// Draws a lower quality when the wait for the full one would be longer than this. Default: waits.
    #[must_use]
    pub fn lower_when_wait_exceeds(mut self, wait: Duration) -> Self {
        self.lower_when_wait_exceeds = Some(Period(wait));
        self
    }

    /// Lowers no further than this. Default: low.
    #[must_use]
    pub fn lowest(mut self, quality: Quality) -> Self {
        self.lowest = quality;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The wait beyond which a lower quality is to be tried.
    #[must_use]
    pub fn wait_max(&self) -> Option<Duration> {
        self.lower_when_wait_exceeds.map(|wait| wait.0)
    }

    /// The request as the profile has it drawn.
    pub fn apply(&self, request: &ImageRequest) -> ImageRequest {
        match self.quality_max {
            Some(most) if request.quality == Quality::Auto || request.quality > most => request.clone().quality(most),
            _ => request.clone(),
        }
    }

    /// The request at the next lower quality that `model` has, if there is one and the profile goes so low. What is left to the model
    /// counts as its best.
    #[must_use]
    pub fn lowered(&self, request: &ImageRequest, model: &Model) -> Option<ImageRequest> {
        let best = || model.qualities().iter().copied().max();
        let asked = Some(request.quality).filter(|asked| *asked != Quality::Auto).or_else(best)?;
        let lower =
            model.qualities().iter().copied().filter(|quality| *quality < asked && *quality >= self.lowest).max()?;
        Some(request.clone().quality(lower))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::models::Models;

    fn asked(quality: Quality) -> ImageRequest {
        ImageRequest::generate("a lighthouse").quality(quality)
    }

    #[test]
    fn a_profile_lowers_and_never_raises() {
        use Quality::{Auto, High, Low, Max, Medium};
        let rows = [(Auto, Medium), (Low, Low), (Medium, Medium), (High, Medium), (Max, Medium)];
        for (quality, drawn) in rows {
            assert_eq!(Profile::new("staging").quality_max(Medium).apply(&asked(quality)), asked(drawn));
            assert_eq!(Profile::production().apply(&asked(quality)), asked(quality));
        }
    }

    #[test]
    fn the_next_lower_quality_is_one_that_the_model_has() {
        use Quality::{Auto, High, Low, Max, Medium, XHigh};
        let rows = [
            ("gpt-image-2", High, Some(Medium)),
            ("gpt-image-2", Auto, Some(Medium)),
            ("gpt-image-2", Max, Some(High)),
            ("gpt-image-2", Medium, Some(Low)),
            ("gpt-image-2", Low, None),
            ("gpt-image-2.6-flare", Max, Some(XHigh)),
            ("gpt-image-2.6-flare", Auto, Some(XHigh)),
        ];
        for (model, quality, lower) in rows {
            let model = Models::embedded().get(model);
            assert_eq!(Profile::production().lowered(&asked(quality), &model), lower.map(asked), "{quality}");
        }
        let model = Models::embedded().get("gpt-image-2");
        assert_eq!(Profile::production().lowest(Medium).lowered(&asked(Medium), &model), None);
    }

    #[test]
    fn a_profile_is_read_from_a_file() {
        let text = "name = \"web\"\nquality_max = \"high\"\nlower_when_wait_exceeds = \"20s\"\nlowest = \"medium\"\n";
        let profile: Profile = toml::from_str(text).unwrap();
        assert_eq!((profile.name(), profile.wait_max()), ("web", Some(Duration::from_secs(20))));
        let built = Profile::new("web").quality_max(Quality::High).lowest(Quality::Medium);
        assert_eq!(profile, built.lower_when_wait_exceeds(Duration::from_secs(20)));
        assert!(toml::from_str::<Profile>("name = \"web\"\nquality = \"high\"\n").is_err());
    }
}
