//! Figures, ids and URLs at the edge: refused by name or stored as they are, never a panic, and no secret shown.

use std::{collections::BTreeSet, time::Duration};

use allotment::{Cost, Error, ErrorKind, Limit, Limiter, Outcome, Policy, Resource, Subject};

use crate::support::{Server, Stage, connect, random_org};

const MAX: u64 = Cost::AMOUNT_MAX;

async fn used(limiter: &Limiter, subject: &Subject, resource: &Resource) -> u64 {
    let decision = limiter.peek(subject, Cost::new().requests(0)).await.unwrap();
    let limits = match &decision {
        allotment::Decision::Allowed(limits) => limits,
        allotment::Decision::Denied(denial) => &denial.limits,
    };
    limits.iter().find(|limit| limit.resource == *resource).unwrap().used
}

fn refused(error: &Error, naming: &str) {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.to_string().contains(naming), "{error} does not name {naming}");
}

#[tokio::test]
async fn an_amount_up_to_2_to_the_47_is_counted_exactly_and_one_more_is_refused_by_name() {
    for stage in Stage::both().await {
        let limit = Limit::new("user").scope(["user"]).requests(MAX).tokens(MAX).images(MAX).amount("spend", MAX);
        let limiter = stage.limiter(Policy::new().limit(limit));
        for resource in ["requests", "tokens", "images", "spend"].map(Resource::from) {
            let subject = Subject::org(random_org()).user("alice");
            let cost = |amount| Cost::new().requests(0).amount(resource.clone(), amount);
            for amount in [0, 1, MAX - 1] {
                let outcome = limiter.try_acquire(&subject, cost(amount)).await.unwrap();
                match outcome {
                    Outcome::Admitted(permit) if amount <= 1 => drop(permit),
                    Outcome::Admitted(permit) => permit.commit(cost(MAX)).await.unwrap(),
                    Outcome::Denied(denial) => panic!("{amount}: {denial}"),
                }
            }
            assert_eq!(used(&limiter, &subject, &resource).await, MAX + 1, "{} {resource}", stage.name());
            for amount in [MAX + 1, 1 << 53, (1 << 53) + 1, u64::MAX >> 1, u64::MAX] {
                refused(&limiter.try_acquire(&subject, cost(amount)).await.unwrap_err(), resource.name());
                refused(&limiter.acquire(&subject, cost(amount)).await.unwrap_err(), resource.name());
                refused(&limiter.peek(&subject, cost(amount)).await.unwrap_err(), resource.name());
                let other = Subject::org(random_org()).user("bob");
                let Outcome::Admitted(permit) = limiter.try_acquire(&other, cost(1)).await.unwrap() else {
                    panic!("the first of a new org")
                };
                refused(&permit.commit(cost(amount)).await.unwrap_err(), resource.name());
                assert_eq!(used(&limiter, &other, &resource).await, 1, "a refused commit keeps the estimate");
            }
            assert_eq!(used(&limiter, &subject, &resource).await, MAX + 1, "{} {resource}", stage.name());
        }
    }
}

#[tokio::test]
async fn a_total_beyond_what_is_exact_saturates_and_never_admits() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(Policy::new().limit(Limit::new("user").scope(["user"]).requests(MAX).tokens(MAX)));
        let subject = Subject::org(random_org()).user("alice");
        let nothing = || Cost::new().tokens(0);
        let mut permits = Vec::new();
        for _ in 0..80 {
            // far enough apart for entries of their own, which saturate one by one
            stage.advance_ms(480);
            let Outcome::Admitted(permit) = limiter.try_acquire(&subject, nothing()).await.unwrap() else {
                panic!("nothing but requests was asked")
            };
            permits.push(permit);
        }
        for permit in permits {
            permit.commit(Cost::new().tokens(MAX)).await.unwrap();
        }
        let held = used(&limiter, &subject, &Resource::Tokens).await;
        assert!(held >= 1 << 53, "{}: {held}", stage.name());
        assert!(matches!(limiter.try_acquire(&subject, Cost::new().tokens(1)).await.unwrap(), Outcome::Denied(_)));
        stage.advance_ms(60_000);
        assert_eq!(used(&limiter, &subject, &Resource::Tokens).await, 0, "{}", stage.name());
        assert!(matches!(limiter.try_acquire(&subject, Cost::new().tokens(MAX)).await.unwrap(), Outcome::Admitted(_)));
    }
}

#[test]
fn a_policy_file_with_a_figure_out_of_range_is_refused_by_the_name_of_its_key() {
    let with = |figure: &str| Policy::from_toml(&format!("[[limit]]\nname = \"a\"\nrequests = {figure}\n"));
    let refused =
        ["-1", "nan", "inf", "1e400", "\" 5\"", "5.0", "true", "[5]", "140737488355329", "9007199254740993", "-0.0"];
    for figure in refused.into_iter().chain(["18446744073709551616", "0x1000000000000000"]) {
        let error = with(figure).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{figure}");
        let message = error.to_string();
        assert!(message.contains("requests") || message.contains("line 3"), "{figure}: {message}");
    }
    for (figure, amount) in [("0x10", 16), ("1_000", 1_000), ("140737488355328", MAX), ("0o17", 15)] {
        assert_eq!(with(figure).unwrap().limits()[0].amount_of(&Resource::Requests), Some(amount), "{figure}");
    }
}

/// Ids that a careless spelling would confuse, cut short or choke on.
fn ids() -> Vec<String> {
    let odd = [
        "a",
        "A",
        "a ",
        " a",
        "ä",
        "a\u{308}",
        "日本",
        "🦀",
        "{",
        "}",
        "{}",
        "}{",
        "a}b",
        "a{b",
        ":",
        "a:b",
        "a::b",
        "a%3ab",
        "a%",
        "%",
        "%%",
        "%25",
        "%7b",
        "\r",
        "\n",
        "\r\n",
        "a\r\nDEL x\r\n",
        "\0",
        "a\0",
        "\0a",
        "\u{7f}",
        "\u{85}",
        "\u{200b}",
        "*",
        "?",
        "[a]",
        "\\",
        "\"",
        "'",
        "l:60000",
        "u:a",
        "h",
        "r:0",
        "u:a:m:b",
        "\u{feff}a",
        "../a",
        "<img onerror>",
    ];
    let long = ["x".repeat(256), "x".repeat(255), "é".repeat(128), "{".repeat(256), "\0".repeat(256)];
    odd.into_iter().map(ToOwned::to_owned).chain(long).collect()
}

#[tokio::test]
async fn ids_are_stored_injectively_whatever_bytes_they_hold() {
    let ids = ids();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    for stage in Stage::both().await {
        let policy = Policy::new()
            .limit(Limit::new("user").scope(["user"]).requests(1))
            .limit(Limit::new("model").scope(["model"]).images(1))
            .limit(Limit::new("tenant").scope(["tenant"]).tokens(1));
        let limiter = stage.limiter(policy);
        let org = random_org();
        let as_org = |id: &str| Subject::org(format!("{}{id}", &org[org.len() - 1..])).user("a");
        for make in [
            &(|id: &str| Subject::org(org.as_str()).user(id)) as &dyn Fn(&str) -> Subject,
            &|id| Subject::org(org.as_str()).model(id),
            &|id| Subject::org(org.as_str()).attribute("tenant", id),
        ] {
            for expected in [true, false] {
                for id in &ids {
                    let outcome = limiter.try_acquire(&make(id), Cost::images(1).tokens(1)).await.unwrap();
                    assert_eq!(
                        matches!(outcome, Outcome::Admitted(_)),
                        expected,
                        "{} {id:?}: {outcome:?}",
                        stage.name()
                    );
                }
            }
        }
        for id in ids.iter().filter(|id| id.len() < 256) {
            let outcome = limiter.try_acquire(&as_org(id), Cost::new()).await.unwrap();
            assert!(matches!(outcome, Outcome::Admitted(_)), "{} org {id:?}: {outcome:?}", stage.name());
        }
        for id in ids.iter().filter(|id| id.len() < 256) {
            let outcome = limiter.try_acquire(&as_org(id), Cost::new()).await.unwrap();
            assert!(matches!(outcome, Outcome::Denied(_)), "{} org {id:?}: {outcome:?}", stage.name());
        }
    }
}

#[tokio::test]
async fn an_id_of_no_bytes_or_more_than_256_is_refused_by_name() {
    for stage in Stage::both().await {
        let limiter = stage.limiter(Policy::new().limit(Limit::new("org").requests(1)));
        for id in [String::new(), "x".repeat(257), format!("{}a", "é".repeat(128)), "\0".repeat(10_000)] {
            let subjects = [
                ("org", Subject::org(id.as_str())),
                ("user", Subject::org("o").user(id.as_str())),
                ("model", Subject::org("o").model(id.as_str())),
                ("tenant", Subject::org("o").attribute("tenant", id.as_str())),
            ];
            for (name, subject) in subjects {
                let error = limiter.try_acquire(&subject, Cost::new()).await.unwrap_err();
                refused(&error, name);
                assert!(error.to_string().len() < 400, "a message stays short: {error}");
            }
        }
        for name in ["", "Tenant", "a b", "user", "org", "a:b", "é", &"x".repeat(33)] {
            let subject = Subject::org("o").attribute(name, "x");
            refused(&limiter.try_acquire(&subject, Cost::new()).await.unwrap_err(), "attribute");
        }
    }
}

const SECRET: &str = "hunter2-SECRET";

/// Everything an error can be made to say.
fn shown(error: &Error) -> String {
    let mut said = format!("{error} {error:?} {error:#?}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        said.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    said
}

#[tokio::test]
async fn a_password_in_a_redis_url_is_shown_nowhere() {
    let server = Server::start().await;
    let mut conn = connect(&server.url()).await.unwrap();
    let set = redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("another").exec_async(&mut conn).await;
    set.unwrap();
    let port = server.port();
    let urls = [
        format!("redis://:{SECRET}@127.0.0.1:{port}/"),
        format!("redis://someone:{SECRET}@127.0.0.1:{port}/"),
        format!("redis://:{SECRET}@127.0.0.1:1/"),
        format!("redis://:{SECRET}@no-such-host.invalid:6379/"),
        format!("rediss://:{SECRET}@127.0.0.1:{port}/"),
        format!("redis://:{SECRET}@127.0.0.1:{port}/not-a-database"),
        format!("redis://:{SECRET}@127.0.0.1:99999/"),
        format!("redis://:{SECRET}@/"),
        format!("redis://:{SECRET}@[::1/"),
        format!("http://:{SECRET}@127.0.0.1/"),
        format!("redis://:{SECRET}@127.0.0.1:{port}/?protocol={SECRET}"),
        format!("redis+unix:///no/such/socket?pass={SECRET}"),
        SECRET.to_string(),
        format!("redis:{SECRET}"),
    ];
    let policy = Policy::new().limit(Limit::new("org").requests(1));
    for url in urls {
        let builder =
            Limiter::builder().redis(url.as_str()).policy(policy.clone()).deadline(Duration::from_millis(300));
        assert!(!format!("{builder:?} {builder:#?}").contains(SECRET), "{builder:?}");
        match builder.build() {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
                assert!(!shown(&error).contains(SECRET), "{}", shown(&error));
            }
            Ok(limiter) => {
                assert!(!format!("{limiter:?} {limiter:#?}").contains(SECRET), "{limiter:?}");
                let subject = Subject::org("o");
                let failures = [
                    limiter.ready().await.err(),
                    limiter.try_acquire(&subject, Cost::new()).await.err(),
                    limiter.acquire(&subject, Cost::new()).await.err(),
                    limiter.peek(&subject, Cost::new()).await.err(),
                ];
                for error in failures {
                    let error = error.unwrap_or_else(|| panic!("{url} has no Redis that answers"));
                    assert!(!shown(&error).contains(SECRET), "{url}: {}", shown(&error));
                }
            }
        }
    }
}
