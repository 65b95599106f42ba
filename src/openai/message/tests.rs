use proptest::prelude::*;

use super::*;

fn ms(ms: u64) -> Option<Duration> {
    Some(Duration::from_millis(ms))
}

/// A reading of these figures: limit, used, requested.
fn reading(resource: Resource, figures: [Option<u64>; 3], wait: Option<Duration>) -> Reading {
    let [limit, used, requested] = figures;
    let resource = Some(resource);
    Reading { is_of_a_limit: true, resource, window: Some(MINUTE), limit, used, requested, wait, ..Reading::default() }
}

fn of(model: &str, reading: Reading) -> Reading {
    Reading { model: Some(model.into()), ..reading }
}

#[test]
fn every_form_of_the_grammar_is_read() {
    let rows = [
        (
            "Rate limit reached for gpt-image-2-codex (for limit gpt-image) in organization org-abc on input-images per min: \
             Limit 4000, Used 4000, Requested 1. Please try again in 15ms. Visit https://platform.openai.com/account/rate-limits \
             to learn more.",
            Reading {
                pool: Some("gpt-image".into()),
                ..of("gpt-image-2-codex", reading(Resource::Images, [Some(4_000), Some(4_000), Some(1)], ms(15)))
            },
        ),
        (
            "Rate limit reached for gpt-4-vision in organization org-abc on tokens per min (TPM): Limit 10,000, Used 6,701, \
             Requested 4,497. Please try again in 7.188s.",
            of("gpt-4-vision", reading(Resource::Tokens, [Some(10_000), Some(6_701), Some(4_497)], ms(7_188))),
        ),
        (
            "Rate limit reached for gpt-4o in organization org-abc on requests per day (RPD): Limit 200, Used 200, Requested 1. \
             Please try again in 7m12s.",
            Reading {
                window: Some(DAY),
                ..of("gpt-4o", reading(Resource::Requests, [Some(200), Some(200), Some(1)], ms(432_000)))
            },
        ),
        (
            "Rate limit reached for gpt-image-1 in organization org-abc on input-images per min: Limit 5, Requested 10.",
            of("gpt-image-1", reading(Resource::Images, [Some(5), None, Some(10)], None)),
        ),
        (
            "Request too large for gpt-4o in organization org-abc on tokens per min (TPM): Limit 30000, Requested 45000. The \
             input or output tokens must be reduced in order to run successfully.",
            of("gpt-4o", reading(Resource::Tokens, [Some(30_000), None, Some(45_000)], None)),
        ),
        (
            "Rate limit reached for gpt-image-1 in organization org-abc on input-images per min: Limit 0, Requested 1.",
            of("gpt-image-1", reading(Resource::Images, [Some(0), None, Some(1)], None)),
        ),
        (
            "Rate limit exceeded for images per minute in organization org-abc. Limit: 0/1min. Current: 1/1min.",
            reading(Resource::Images, [Some(0), Some(1), None], None),
        ),
        (
            "Rate limit reached for default-images in organization org-abc on requests per min. Limit: 60.000000 / min. Current: \
             80.500000 / min. Contact support@openai.com if you continue to have issues.",
            of("default-images", reading(Resource::Requests, [Some(60), Some(81), None], None)),
        ),
        (
            "You've exceeded the rate limit, please slow down and try again after 51.84 seconds.",
            Reading { is_of_a_limit: true, wait: ms(51_840), ..Reading::default() },
        ),
        (
            "You've exceeded the rate limit, please slow down and try again after 0.0 seconds",
            Reading { is_of_a_limit: true, wait: ms(0), ..Reading::default() },
        ),
        ("You have exceeded the 5 request/min rate limit", reading(Resource::Requests, [Some(5), None, None], None)),
        ("Please try again after 7 minutes.", Reading { wait: ms(420_000), ..Reading::default() }),
        (
            "Rate limit exceeded for gpt-image-1 requests per minute (RPM). Limit: 6, current: 7",
            of("gpt-image-1", reading(Resource::Requests, [Some(6), Some(7), None], None)),
        ),
        (
            "Token limit exceeded for gpt-image-1 per minute (TPM). Limit: 250000, current: 250183",
            of("gpt-image-1", reading(Resource::Tokens, [Some(250_000), Some(250_183), None], None)),
        ),
        (
            "Requests to the ImageGenerations_Create Operation under Azure OpenAI API version 2025-04-01-preview have exceeded \
             token rate limit of your current OpenAI S0 pricing tier. Please retry after 37 seconds.",
            Reading { is_of_a_limit: true, resource: Some(Resource::Tokens), wait: ms(37_000), ..Reading::default() },
        ),
        ("Rate limit reached for requests", Reading { is_of_a_limit: true, ..Reading::default() }),
        (
            "Limit: 5/10min, used=4.0",
            Reading { limit: Some(5), used: Some(4), window: ms(600_000), ..Reading::default() },
        ),
    ];
    for (text, expected) in rows {
        assert_eq!(read(text), expected, "{text}");
    }
}

#[test]
fn names_and_other_words_are_no_figures() {
    for text in [
        "",
        "Billing hard limit has been reached",
        "The model is limited, currently used by 5",
        "on limit -5",
        "(for limit 4000)",
        "limit 4o-images",
        "unlimited 5, reused 4, unrequested 3",
        "Limit: none",
    ] {
        let found = read(text);
        assert_eq!([found.limit, found.used, found.requested], [None; 3], "{text}");
    }
    for text in
        ["Rate limit reached for your organization", "Rate limit reached for [masked]", "rate limit reached for "]
    {
        assert_eq!(read(text).model, None, "{text}");
    }
}

#[test]
fn an_abbreviation_tells_what_is_counted_where_no_words_do() {
    let rows = [
        ("RPM", Resource::Requests, MINUTE),
        ("TPM", Resource::Tokens, MINUTE),
        ("IPM", Resource::Images, MINUTE),
        ("RPD", Resource::Requests, DAY),
        ("TPD", Resource::Tokens, DAY),
    ];
    for (abbreviation, resource, window) in rows {
        let found = read(&format!("Limit exceeded for gpt-image-1 ({abbreviation}). Limit: 6, current: 7"));
        assert_eq!((found.resource, found.window), (Some(resource), Some(window)), "{abbreviation}");
    }
}

#[test]
fn what_is_counted_may_be_told_by_the_type_of_the_error() {
    let found = read("Limit 5, Used 5, Requested 1");
    assert_eq!(found.figures(None), None);
    assert_eq!(found.figures(Some("rate_limit_error")), None);
    let figures = found.figures(Some("input-images")).unwrap();
    assert_eq!((figures.resource, figures.limit, figures.window), (Resource::Images, 5, MINUTE));
    // the words of the message are closer to the figures
    let figures = read("on tokens per day: Limit 5").figures(Some("requests")).unwrap();
    assert_eq!((figures.resource, figures.window), (Resource::Tokens, DAY));
}

#[test]
fn amounts_round_to_the_safe_side_and_never_overflow() {
    let found = read("Limit: 59.9, Used 59.1, Requested 99999999999999999999999.5");
    assert_eq!([found.limit, found.used, found.requested], [Some(59), Some(60), Some(u64::MAX)]);
}

prop_compose! {
    fn readings()(
        model in prop::option::of("[a-z]{1,9}-[a-z0-9.]{0,9}[a-z0-9]"),
        pool in prop::option::of("[a-z0-9][a-z0-9-]{0,20}"),
        resource in prop_oneof![Just(Resource::Requests), Just(Resource::Tokens), Just(Resource::Images)],
        window in prop_oneof![Just(MINUTE), Just(DAY)],
        limit in any::<u64>(),
        used in any::<Option<u64>>(),
        requested in any::<Option<u64>>(),
        wait in prop::option::of((0_u64..10_000_000).prop_map(Duration::from_millis)),
    ) -> Reading {
        Reading { is_of_a_limit: true, model, pool, resource: Some(resource), window: Some(window), limit: Some(limit), used, requested, wait }
    }
}

/// The message that upstream would say it with.
fn written(reading: &Reading) -> String {
    let mut text = "Rate limit reached".to_owned();
    let mut push = |part: Option<String>| text.push_str(&part.unwrap_or_default());
    push(reading.model.as_ref().map(|model| format!(" for {model}")));
    push(reading.pool.as_ref().map(|pool| format!(" (for limit {pool})")));
    let word = match reading.resource {
        Some(Resource::Tokens) => "tokens",
        Some(Resource::Images) => "input-images",
        _ => "requests",
    };
    let per = if reading.window == Some(DAY) { "day" } else { "min" };
    push(Some(format!(" in organization org-7 on {word} per {per}")));
    push(reading.limit.map(|limit| format!(": Limit {limit}")));
    push(reading.used.map(|used| format!(", Used {used}")));
    push(reading.requested.map(|requested| format!(", Requested {requested}")));
    push(reading.wait.map(|wait| match wait.as_millis() {
        ms @ ..1_000 => format!(". Please try again in {ms}ms"),
        ms => format!(". Please try again in {}m{}.{:03}s", ms / 60_000, ms / 1_000 % 60, ms % 1_000),
    }));
    text + ". Visit https://platform.openai.com/account/rate-limits to learn more."
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(reading in readings()) {
        prop_assert_eq!(read(&written(&reading)), reading);
    }

    #[test]
    fn no_text_is_too_strange(
        text in ".*",
        words in prop::collection::vec(
            "limit|used|requested|current|rate limit|for|\\(for limit|try again in|per|/|min|tokens|rpm|[0-9,.]{1,9}|é|[ :=.,]", 0..40,
        ),
    ) {
        for text in [text, words.join(" "), words.concat()] {
            let found = read(&text);
            let names = [&found.model, &found.pool].into_iter().flatten();
            prop_assert!(names.into_iter().all(|name| name.len() <= NAME_BYTES_MAX && text.contains(name.as_str())));
        }
    }
}
