//! The public surface of the image client: every item is used here, so that a removal or a rename fails.

use std::time::Duration;

use allotment::{
    Cost, Limit, Limiter, Policy, Subject,
    openai::{
        AccessReport, AccessRules, Account, ApiKey, Background, Basis, BreakerState, Cache, Correction, Date, Estimate,
        Estimator, FailedRoute, Image, ImageCall, ImageClient, ImageClientBuilder, ImageError, ImageErrorKind,
        ImageEvent, ImageInput, ImageRequest, ImageStream, Images, InputFidelity, Missing, Model, Models, Moderation,
        OutputFormat, Part, Priors, Profile, Progress, Quality, Refusal, RefusalFigures, RefusalKind, RetryPolicy,
        Route, RouteModel, RoutePrice, RouteStatus, RoutesFile, Served, Size, Source, Strategy, Style, Usage, Weights,
    },
};

use crate::house::text;

/// Whatever the module exports is named in this file.
#[test]
fn every_public_item_is_used() {
    let (exported, here) = (text("src/openai.rs"), text("tests/it/api_openai.rs"));
    let exported = exported.split_once("pub use self::{").unwrap().1;
    let names = exported.split(|c: char| !c.is_alphanumeric()).filter(|name| name.starts_with(char::is_uppercase));
    let unused: Vec<_> = names.filter(|name| here.matches(*name).count() < 2).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

fn builder() -> ImageClientBuilder {
    let policy = Policy::new().limit(Limit::new("org").images(10).window(Duration::from_secs(60)));
    ImageClient::builder().limiter(Limiter::builder().in_memory().policy(policy).build().unwrap())
}

fn route() -> Route {
    Route::compatible("gone", "http://127.0.0.1:1/v1", ApiKey::new("key"))
}

#[tokio::test]
async fn a_client_is_built_with_all_its_settings() {
    let day = Duration::from_secs(86_400);
    let client = builder()
        .route(route().model(RouteModel::new("gpt-image-2").called("image")).price(RoutePrice::PerImage { micros: 9 }))
        .strategy(Strategy::Cheapest)
        .price_micros_max(1_000)
        .model("gpt-image-2")
        .models(Models::embedded())
        .estimator(Estimator::new(Models::embedded()))
        .retry(RetryPolicy::new().attempts_max(1).budget_percent(5).wait_max(day))
        .profile(Profile::production())
        .cache(Cache::memory(1 << 20, day).unwrap())
        .single_flight()
        .max_wait(Duration::ZERO)
        .upstream_minute(Duration::from_secs(60))
        .timeout(day)
        .connect_timeout(day)
        .idle_timeout(day)
        .answer_bytes_max(1 << 20)
        .build()
        .unwrap();
    let status: RouteStatus = client.probe().await.remove(0);
    assert_eq!((&*status.route, status.breaker), ("gone", BreakerState::Closed));
    assert!(client.estimator().corrections().is_empty() && client.routes().len() == 1);
    let alice = Subject::org("acme").user("alice");
    let error: ImageError = client.run(&alice, ImageRequest::generate("a lighthouse")).await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ImageErrorKind::Unreachable, true));
    assert!(error.refusal().is_none() && error.limiter().is_none() && error.access().is_none());
    assert!(error.retry_after().is_none());
    let call: ImageCall = client.call(&alice, ImageRequest::generate("a lighthouse")).max_wait(Duration::ZERO);
    let refused = call.priority("interactive").expected(Cost::images(1)).await.unwrap_err();
    assert_eq!((refused.kind(), refused.admitted_at_ms().is_some()), (ImageErrorKind::Unreachable, true));
    let mut stream: ImageStream = client.stream(&alice, ImageRequest::generate("a lighthouse"));
    let event: Option<Result<ImageEvent, ImageError>> = stream.next().await;
    assert!(matches!(event, Some(Err(_))));
}

#[test]
fn a_client_says_what_it_lacks() {
    let fault = |builder: ImageClientBuilder| builder.build().unwrap_err().to_string();
    assert!(fault(ImageClient::builder().route(route())).contains("limiter"));
    assert!(fault(builder()).contains("route"));
    assert!(fault(builder().route(route()).route(route())).contains("two of that name"));
}

#[test]
fn a_request_names_what_is_wanted() {
    let input = ImageInput::bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\x02\0\0\0".to_vec()).unwrap();
    let request = ImageRequest::edit("a hat", [input.clone()]).mask(input).model("gpt-image-2").n(2);
    let request = request.size(Size::SQUARE).quality(Quality::High).background(Background::Opaque);
    let request = request.format(OutputFormat::Jpeg).compression(80).moderation(Moderation::Low);
    let request = request.fidelity(InputFidelity::High).partial_images(1).end_user("u").extra("seed", 7);
    assert!(request.is_edit() && request.prompt() == "a hat");
    let model: Model = Models::embedded().get("gpt-image-2");
    assert!(model.refuses(&ImageRequest::generate("a lighthouse")).is_none());
    let sources: Vec<Source> = model.sources().collect();
    assert!(!sources.is_empty());
}

#[test]
fn a_cost_is_estimated() {
    let estimator = Estimator::new(Models::embedded()).weights(Weights::default()).priors(Priors::default());
    let request = ImageRequest::generate("a lighthouse").size(Size::SQUARE).quality(Quality::High);
    let estimate: Estimate = estimator.estimate("gpt-image-2", &request).unwrap();
    assert_eq!((estimate.output_tokens, estimate.images, estimate.basis), (7024, 1, Basis::Asked));
    let corrections: Vec<Correction> = estimator.corrections();
    assert!(corrections.iter().all(|correction| matches!(correction.part, Part::Output { .. })));
    assert_eq!(Usage::default().total_tokens, 0);
}

#[test]
fn an_account_is_checked() {
    let today: Date = "2026-11-26".parse().unwrap();
    let rules = AccessRules::preset("guide-2025-05").unwrap();
    let report: AccessReport = rules.check(&Account::default(), "gpt-image-1", today);
    let missing: &[Missing] = &report.missing;
    let next: &Option<Progress> = &report.next_tier;
    assert!(!report.is_allowed() && !missing.is_empty() && next.is_some());
}

/// Those are made by the client only.
#[test]
fn what_comes_back_can_be_read() {
    fn read(Images { images, usage, served, .. }: &Images) -> Option<(&Image, &Option<Usage>, &Served)> {
        Some((images.first()?, usage, served))
    }
    fn failed(served: &Served) -> Option<&FailedRoute> {
        served.failed.first()
    }
    fn figures(refusal: &Refusal) -> Option<&RefusalFigures> {
        refusal.figures.as_ref().filter(|_| refusal.kind == RefusalKind::RateLimited)
    }
    let _ = (read, failed, figures);
    let file = RoutesFile::from_toml("[[route]]\nname = \"a\"\n").unwrap();
    assert_eq!((file.routes()[0].style(), file.strategy()), (&Style::Images, Strategy::Priority));
}
