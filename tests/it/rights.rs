//! What the documented Redis user may do: all that a limiter needs, and nothing beside.

use std::time::Duration;

use allotment::{ErrorKind, Limit, Limiter, Policy, Severity};
use redis::aio::MultiplexedConnection;

use crate::{
    house::text,
    support::{Server, raw},
};

/// The rules of the user in `docs/operations.md`, by the name of the code block's first line.
fn documented(title: &str) -> Vec<String> {
    let operations = text("docs/operations.md");
    let block = operations.split("```").find(|block| block.lines().nth(1).is_some_and(|line| line.contains(title)));
    let block = block.unwrap_or_else(|| panic!("docs/operations.md has no block {title:?}"));
    let rule = block.lines().find(|line| line.starts_with("user ")).unwrap();
    // the user's name comes first; the password is the test's
    rule.split_whitespace()
        .skip(2)
        .map(|part| if part.starts_with('>') { ">secret".to_owned() } else { part.to_owned() })
        .collect()
}

async fn give(admin: &mut MultiplexedConnection, user: &str, rules: &[String]) {
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg(user).arg("reset").arg(rules);
    command.exec_async(admin).await.unwrap_or_else(|error| panic!("{rules:?}: {error}"));
}

fn limiter(server: &Server, user: &str) -> Limiter {
    limiter_at(server, user, "")
}

fn limiter_at(server: &Server, user: &str, database: &str) -> Limiter {
    Limiter::builder()
        .redis(format!("redis://{user}:secret@127.0.0.1:{}/{database}", server.port()))
        .policy(Policy::new().limit(Limit::new("org").requests(10)))
        .deadline(Duration::from_secs(20))
        .build()
        .unwrap()
}

#[tokio::test]
async fn the_documented_user_may_do_all_that_is_needed() {
    let server = Server::start().await;
    let mut admin = raw(&server).await;
    give(&mut admin, "app", &documented("# the application")).await;
    let limiter = limiter(&server, "app");
    limiter.ready().await.unwrap();
    let elsewhere = limiter_at(&server, "app", "3");
    elsewhere.ready().await.unwrap();
    let diagnosis = limiter.diagnose().await;
    let failures: Vec<_> = diagnosis.findings.iter().filter(|finding| finding.severity == Severity::Failure).collect();
    assert_eq!(failures, Vec::<&allotment::Finding>::new());
}

#[tokio::test]
async fn each_right_that_the_documented_user_lacks_is_found_before_anything_depends_on_it() {
    let server = Server::start().await;
    let mut admin = raw(&server).await;
    let rules = documented("# the application");
    let (mut tried, mut unnoticed) = (0, Vec::new());
    // what only clusters, sentinels and the client's greeting use
    let elsewhere = [
        "+select",
        "+asking",
        "+cluster|slots",
        "+cluster|info",
        "+role",
        "+ping",
        "+hello",
        "+client|setinfo",
        "+client|setname",
    ];
    for right in rules.iter().filter(|rule| rule.starts_with('+') && !elsewhere.contains(&rule.as_str())) {
        let without: Vec<_> = rules.iter().filter(|rule| *rule != right).cloned().collect();
        give(&mut admin, "app", &without).await;
        // a script that the server knows needs no `EVAL`
        redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut admin).await.unwrap();
        let refused = limiter(&server, "app").ready().await;
        if refused.err().map(|error| error.kind()) != Some(ErrorKind::Unavailable) {
            unnoticed.push(right);
        }
        tried += 1;
    }
    assert_eq!(unnoticed, Vec::<&String>::new());
    assert!(tried > 20, "{tried}");
}

#[tokio::test]
async fn a_user_who_may_run_scripts_by_name_only_needs_somebody_to_load_them() {
    let server = Server::start().await;
    let mut admin = raw(&server).await;
    give(&mut admin, "app", &documented("# the application, hardened")).await;
    give(&mut admin, "loader", &documented("# who loads the scripts")).await;
    let hardened = limiter(&server, "app");
    let refused = hardened.ready().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains("not loaded"), "{refused}");
    limiter(&server, "loader").load_scripts().await.unwrap();
    hardened.ready().await.unwrap();
    let refused = hardened.load_scripts().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "who may not send text cannot load it");
}
