//! Counts what a request comes to by what is known of its model, and keeps what calls turned out to use.
//!
//! Invariant: what was learnt changes the totals of an estimate, never the figures of a rule. Lacks the counting itself: see `tokens`.

use std::{sync::Arc, time::SystemTime};

use crate::{
    cost::Cost,
    openai::{
        date::Date,
        error::ImageError,
        estimate::{Basis, Estimate, Priors, Weights, cost},
        learning::{Correction, Learning, Part, Sample},
        models::{Model, Models, retirement::Retirements},
        price::Tokens,
        request::{ImageRequest, Quality, Size},
        tokens::{self, Pixels},
        usage::Usage,
    },
    policy::Certainty,
    telemetry,
};

/// Estimates costs, and learns from what calls turn out to use. A clone shares what was learnt.
#[derive(Clone, Debug)]
pub struct Estimator {
    models: Models,
    weights: Weights,
    priors: Priors,
    learning: Arc<Learning>,
    retirements: Arc<Retirements>,
}

impl Estimator {
    /// An estimator that has learnt nothing.
    #[must_use]
    pub fn new(models: Models) -> Self {
        let (weights, priors) = (Weights::default(), Priors::default());
        Self { models, weights, priors, learning: Arc::default(), retirements: Arc::default() }
    }

    /// How images are counted. Default: those that are drawn.
    #[must_use]
    pub fn weights(mut self, weights: Weights) -> Self {
        self.weights = weights;
        self
    }

    /// What is taken for a size or quality that is left to the model. Default: the maximum.
    #[must_use]
    pub fn priors(mut self, priors: Priors) -> Self {
        self.priors = priors;
        self
    }

    /// What `request` will cost of `model`, whatever model the request names.
    ///
    /// # Errors
    ///
    /// [`ImageErrorKind::Invalid`](crate::openai::ImageErrorKind::Invalid) if the model cannot do what the request asks: see
    /// [`Model::refuses`].
    pub fn estimate(&self, model: &str, request: &ImageRequest) -> Result<Estimate, ImageError> {
        let model = self.models.get(model);
        if let Some(notice) = self.retirements.notice(&model, Date::of(SystemTime::now())) {
            telemetry::image_model_retires(&notice);
        }
        if let Some(why) = model.refuses(request) {
            return Err(ImageError::invalid(format!("{}: {why}", model.name())));
        }
        let facts = model.facts();
        let (size, quality, basis) = self.decided(&model, request);
        let n = u64::from(request.n);
        let inputs = request.inputs.iter().chain(&request.mask);
        let read = inputs
            .map(|input| facts.read(input.pixels.map(|(width, height)| Pixels { width, height }), request.fidelity));
        let edit_tokens = if request.is_edit() { facts.text.edit_tokens } else { 0 };
        let text_tokens = tokens::text(&request.prompt, facts.text.bytes_per_token).saturating_add(edit_tokens);
        let input_image_tokens = read.fold(0, u64::saturating_add);
        let output_tokens = facts.drawn(size, quality).saturating_mul(n);
        let partial_images = u64::from(request.partial_images).saturating_mul(n);
        let partial_tokens = facts.output.partial_image_tokens.saturating_mul(partial_images);

        let part = Part::Output { quality: request.quality, auto_size: request.size == Size::Auto };
        let corrected = |part, tokens| self.learning.correct(model.shared_name(), part, tokens);
        let billed = Tokens {
            text_in: text_tokens,
            image_in: corrected(Part::InputImages, input_image_tokens),
            image_out: corrected(part, output_tokens).saturating_add(partial_tokens),
        };
        let images_in = self.weights.inputs.saturating_mul(request.inputs.len() as u64);
        let images_in = images_in.saturating_add(if request.mask.is_some() { self.weights.mask } else { 0 });
        Ok(Estimate {
            text_tokens,
            input_image_tokens,
            output_tokens,
            partial_tokens,
            tokens: billed.text_in.saturating_add(billed.image_in).saturating_add(billed.image_out),
            images: self.weights.drawn.saturating_mul(n).saturating_add(images_in),
            spend_micros: facts.prices.as_ref().map(|prices| prices.spend_micros(billed)),
            basis,
            certainty: certainty(&model, request),
            billed,
            part,
            images_in,
        })
    }

    /// The cost that a call turned out to have, with so many images drawn. What the usage does not tell is as estimated: money too where it
    /// has nothing but a total.
    pub(in crate::openai) fn actual(&self, model: &str, estimate: &Estimate, usage: &Usage, images: usize) -> Cost {
        let images = self.weights.drawn.saturating_mul(images as u64).saturating_add(estimate.images_in);
        let tokens = usage.total_tokens.max(usage.input_tokens.saturating_add(usage.output_tokens));
        if tokens == 0 {
            return cost(estimate.tokens, images, estimate.spend_micros);
        }
        let model = self.models.get(model);
        let prices = model.facts().prices.as_ref().filter(|_| estimate.spend_micros.is_some());
        let priced = prices.filter(|_| usage.tells_apart()).map(|prices| prices.spend_micros_of(usage));
        cost(tokens, images, priced.or(estimate.spend_micros))
    }

    /// Takes note of what a call turned out to use.
    pub fn learn(&self, model: &str, estimate: &Estimate, usage: &Usage) {
        let model = self.models.get(model);
        let drawn = if usage.output_image_tokens > 0 { usage.output_image_tokens } else { usage.output_tokens };
        // upstream may send fewer partial images than were asked for, which says nothing of the others
        let partial = drawn.saturating_sub(estimate.output_tokens).min(estimate.partial_tokens);
        let samples = [
            (estimate.part, Sample { estimated: estimate.output_tokens, used: drawn - partial }),
            (Part::InputImages, Sample { estimated: estimate.input_image_tokens, used: usage.input_image_tokens }),
        ];
        for (part, sample) in samples {
            self.learning.learn(model.shared_name(), part, sample);
        }
    }

    /// What was learnt so far, and whether estimates go by it.
    #[must_use]
    pub fn corrections(&self) -> Vec<Correction> {
        self.learning.corrections()
    }

    /// The models that it goes by.
    #[must_use]
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Size and quality as asked, or by a prior that the model takes; `None` for what stays unknown.
    fn decided(&self, model: &Model, request: &ImageRequest) -> (Option<Pixels>, Option<Quality>, Basis) {
        let (size, quality) = (Pixels::of(request.size), Some(request.quality).filter(|asked| *asked != Quality::Auto));
        if size.is_some() && quality.is_some() {
            return (size, quality, Basis::Asked);
        }
        let prior_size =
            Pixels::of(self.priors.size).filter(|size| model.facts().accepts.sizes.refuse(*size).is_none());
        let size = size.or(prior_size);
        let quality = quality.or(Some(self.priors.quality).filter(|prior| model.qualities().contains(prior)));
        let basis = if size.is_some() && quality.is_some() { Basis::Prior } else { Basis::Maximum };
        (size, quality, basis)
    }
}

/// Of the least certain rule that images go by.
fn certainty(model: &Model, request: &ImageRequest) -> Certainty {
    let facts = model.facts();
    match (model.is_known(), request.is_edit()) {
        (false, _) => Certainty::Unverified,
        (true, true) => facts.output.certainty.max(facts.input.certainty),
        (true, false) => facts.output.certainty,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        openai::{estimate::SPEND, input::ImageInput},
        resource::Resource,
    };

    fn estimator() -> Estimator {
        Estimator::new(Models::embedded())
    }

    fn lighthouse() -> ImageRequest {
        ImageRequest::generate("a lighthouse").size(Size::SQUARE).quality(Quality::High)
    }

    /// A PNG of which there is only the head.
    fn png(width: u32, height: u32) -> ImageInput {
        let head = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", &width.to_be_bytes()[..], &height.to_be_bytes()].concat();
        ImageInput::bytes(head).unwrap()
    }

    fn usage(input: [u64; 2], output: u64) -> Usage {
        let [input_text_tokens, input_image_tokens] = input;
        let input_tokens = input_text_tokens + input_image_tokens;
        Usage {
            input_tokens,
            input_text_tokens,
            input_image_tokens,
            output_tokens: output,
            total_tokens: input_tokens + output,
            ..Usage::default()
        }
    }

    #[test]
    fn the_published_tables_are_reproduced() {
        use Quality::{High, Low, Medium};
        let first = [(Low, [272, 408, 400]), (Medium, [1056, 1584, 1568]), (High, [4160, 6240, 6208])];
        let second = [(Low, [196, 158, 158]), (Medium, [1756, 1372, 1372]), (High, [7024, 5488, 5488])];
        let models =
            ["gpt-image-1", "gpt-image-1-mini", "gpt-image-1.5", "chatgpt-image-latest"].map(|model| (model, first));
        for (model, table) in models.into_iter().chain([("gpt-image-2", second), ("gpt-image-2-2026-04-21", second)]) {
            for (quality, row) in table {
                for (size, tokens) in [Size::SQUARE, Size::PORTRAIT, Size::LANDSCAPE].into_iter().zip(row) {
                    let estimate = estimator().estimate(model, &lighthouse().size(size).quality(quality)).unwrap();
                    assert_eq!(
                        (estimate.output_tokens, estimate.basis),
                        (tokens, Basis::Asked),
                        "{model} {size} {quality}"
                    );
                    assert_eq!((estimate.text_tokens, estimate.tokens), (4, 4 + tokens));
                }
            }
        }
    }

    #[test]
    fn inputs_are_counted_by_their_size_and_fidelity() {
        use crate::openai::request::InputFidelity::{High, Low};
        let rows = [
            ("gpt-image-1", None, png(1024, 1024), 194),
            ("gpt-image-1", Some(Low), png(1024, 1536), 323),
            ("gpt-image-1", Some(High), png(1024, 1024), 194 + 4160),
            ("gpt-image-1.5", Some(High), png(1536, 1024), 323 + 6240),
            ("gpt-image-2", None, png(1024, 1024), 6563),
        ];
        for (model, fidelity, input, tokens) in rows {
            let mut request = lighthouse();
            request.inputs = vec![input.clone(), input.clone()];
            request.mask = Some(input);
            request.fidelity = fidelity;
            let estimate = estimator().estimate(model, &request).unwrap();
            assert_eq!((estimate.input_image_tokens, estimate.text_tokens), (3 * tokens, 4 + 32), "{model}");
        }
    }

    #[test]
    fn each_image_and_partial_image_counts() {
        let estimate = estimator().estimate("gpt-image-2", &lighthouse().n(4).partial_images(3)).unwrap();
        assert_eq!((estimate.output_tokens, estimate.partial_tokens), (4 * 7024, 4 * 300));
        let cost = estimate.cost();
        assert_eq!(cost.of(&Resource::Requests), 1);
        assert_eq!(cost.of(&Resource::Images), 4);
        assert_eq!(cost.of(&Resource::Tokens), 4 + 4 * 7024 + 1200);
        assert_eq!(cost.of(&Resource::Custom(SPEND.into())), 4 * 5 + (4 * 7024 + 1200) * 30);
    }

    #[test]
    fn images_count_by_their_weights() {
        let edit =
            || ImageRequest { n: 2, ..ImageRequest::edit("a", [png(8, 8), png(8, 8), png(8, 8)]).mask(png(8, 8)) };
        let rows = [
            (Weights::default(), 2, 1),
            (Weights::CONSERVATIVE, 2 + 3 + 1, 1 + 3 + 1),
            (Weights { drawn: 0, inputs: 2, mask: 5 }, 11, 11),
        ];
        for (weights, asked, one_drawn) in rows {
            let estimator = estimator().weights(weights);
            let estimate = estimator.estimate("gpt-image-2", &edit()).unwrap();
            let actual = estimator.actual("gpt-image-2", &estimate, &usage([1, 1], 1), 1);
            assert_eq!((estimate.images, actual.of(&Resource::Images)), (asked, one_drawn), "{weights:?}");
        }
    }

    /// The cost is not monotonic in the pixels, so the maximum is looked for among all sizes.
    #[test]
    fn what_is_left_to_the_model_is_the_most_that_any_size_costs() {
        let auto =
            |quality| estimator().estimate("gpt-image-2", &lighthouse().size(Size::Auto).quality(quality)).unwrap();
        for (quality, factor) in [(Quality::Low, 16), (Quality::Medium, 48), (Quality::High, 96)] {
            let edges = || (16..=3840_u32).step_by(16);
            let all = edges().flat_map(|width| edges().map(move |height| Pixels { width, height }));
            let allowed = all.filter(|Pixels { width, height }| {
                let area = u64::from(*width) * u64::from(*height);
                (655_360..=8_294_400).contains(&area) && width.max(height) <= &(3 * width.min(height))
            });
            let most = allowed.map(|pixels| tokens::patches(factor, pixels)).max().unwrap();
            assert_eq!((auto(quality).output_tokens, auto(quality).basis), (most, Basis::Maximum), "{quality}");
            assert!(most > tokens::patches(factor, Pixels { width: 3840, height: 2160 }));
        }
        assert_eq!(auto(Quality::Auto).output_tokens, auto(Quality::High).output_tokens);
        let table = estimator().estimate("gpt-image-1", &ImageRequest::generate("a")).unwrap();
        assert_eq!((table.output_tokens, table.basis), (6240, Basis::Maximum));
    }

    #[test]
    fn a_prior_stands_for_what_is_left_to_the_model() {
        let estimator = estimator().priors(Priors::new(Size::SQUARE, Quality::Medium));
        let auto = || ImageRequest::generate("a");
        let rows = [
            ("gpt-image-2", auto(), 1756, Basis::Prior),
            ("gpt-image-2", auto().quality(Quality::High), 7024, Basis::Prior),
            ("gpt-image-2", auto().size(Size::PORTRAIT), 1372, Basis::Prior),
            ("gpt-image-2", lighthouse(), 7024, Basis::Asked),
        ];
        for (model, request, tokens, basis) in rows {
            let estimate = estimator.estimate(model, &request).unwrap();
            assert_eq!((estimate.output_tokens, estimate.basis), (tokens, basis));
        }
        let beyond = self::estimator().priors(Priors::new(Size::pixels(2048, 2048), Quality::Max));
        let estimate = beyond.estimate("gpt-image-1", &auto()).unwrap();
        assert_eq!((estimate.output_tokens, estimate.basis), (6240, Basis::Maximum), "no prior that the model has");
    }

    #[test]
    fn a_model_that_is_not_known_goes_by_the_newest_and_says_so() {
        let unknown = estimator().estimate("gpt-image-9", &lighthouse().quality(Quality::Max)).unwrap();
        assert_eq!((unknown.output_tokens, unknown.certainty), (7024, Certainty::Unverified));
        let small = estimator().estimate("gpt-image-9", &lighthouse().size(Size::pixels(100, 100))).unwrap();
        assert!(small.output_tokens > 0, "it may take sizes that others do not");
        let known = |model| estimator().estimate(model, &lighthouse()).unwrap().certainty;
        assert_eq!([known("gpt-image-1"), known("gpt-image-2")], [Certainty::Official, Certainty::Reported]);
    }

    #[test]
    fn what_the_model_cannot_do_is_refused_by_name() {
        let error = estimator().estimate("gpt-image-2", &lighthouse().n(11)).unwrap_err();
        assert_eq!(error.to_string(), "gpt-image-2: n = 11: 1 to 10");
    }

    #[test]
    fn a_call_settles_to_its_usage() {
        let estimator = estimator();
        let estimate = estimator.estimate("gpt-image-2", &lighthouse().n(2)).unwrap();
        let cost = estimator.actual("gpt-image-2", &estimate, &usage([10, 0], 5000), 1);
        assert_eq!(cost, Cost::images(1).tokens(5010).amount(SPEND, 10 * 5 + 5000 * 30));
        let silent = estimator.actual("gpt-image-2", &estimate, &Usage::default(), 2);
        assert_eq!(silent, estimate.cost(), "upstream does not say");
        let partly = Usage { output_tokens: 5000, ..Usage::default() };
        assert_eq!(estimator.actual("gpt-image-2", &estimate, &partly, 1).of(&Resource::Tokens), 5000);
        let total = Usage { total_tokens: 5000, ..Usage::default() };
        let spent = estimator.actual("gpt-image-2", &estimate, &total, 2).named(&Resource::Custom(SPEND.into()));
        assert_eq!(spent, estimate.spend_micros, "a total cannot be priced");
        let absurd =
            Usage { total_tokens: u64::MAX, input_tokens: u64::MAX, output_tokens: u64::MAX, ..Usage::default() };
        estimator.actual("gpt-image-2", &estimate, &absurd, 1).validate().unwrap();
    }

    #[test]
    fn what_calls_use_corrects_later_estimates_of_their_kind() {
        let estimator = estimator();
        let auto = ImageRequest::generate("a lighthouse");
        let first = estimator.estimate("gpt-image-2", &auto).unwrap();
        for _ in 0..8 {
            estimator.clone().learn("gpt-image-2-2026-04-21", &first, &usage([4, 0], 1756));
        }
        let learnt = estimator.estimate("gpt-image-2", &auto).unwrap();
        assert_eq!(learnt.output_tokens, first.output_tokens, "the rule's own figure");
        assert!((1760..=1761).contains(&learnt.tokens), "{learnt:?}");
        assert!(learnt.spend_micros < first.spend_micros);
        assert_eq!(estimator.estimate("gpt-image-2", &lighthouse()).unwrap().tokens, 7028, "another kind");
        let [correction] = &estimator.corrections()[..] else { panic!("{:?}", estimator.corrections()) };
        let part = Part::Output { quality: Quality::Auto, auto_size: true };
        assert_eq!((&*correction.model, correction.part, correction.samples), ("gpt-image-2", part, 8));
    }

    #[test]
    fn partial_images_that_did_not_come_are_not_learnt_from() {
        let estimator = estimator();
        let request = lighthouse().quality(Quality::Low).partial_images(3);
        let estimate = estimator.estimate("gpt-image-2", &request).unwrap();
        for used in [196, 296, 396, 496] {
            (0..8).for_each(|_| estimator.learn("gpt-image-2", &estimate, &usage([4, 0], used)));
        }
        assert_eq!(estimator.corrections()[0].factor_ppm, 1_000_000);
    }

    #[test]
    fn inputs_without_a_rule_are_learnt_too() {
        let estimator = estimator();
        let mut request = lighthouse();
        request.inputs = vec![png(1024, 1024)];
        let estimate = estimator.estimate("gpt-image-2", &request).unwrap();
        (0..8).for_each(|_| estimator.learn("gpt-image-2", &estimate, &usage([36, 3000], 7024)));
        let learnt = estimator.estimate("gpt-image-2", &request).unwrap();
        assert!((36 + 3000 + 7024..=36 + 3001 + 7024).contains(&learnt.tokens), "{learnt:?}");
    }
}
