//! Policy files that somebody has been at: refused by name, or a policy that holds together.

use std::time::Duration;

use allotment::{Cost, ErrorKind, Limiter, Policy, Subject};
use anyhow::Result;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{
    Budget,
    question::{AMOUNTS, PIECES},
};
use crate::found::Found;

/// Everything a file can say.
const WHOLE: &str = r#"
require = ["user"]
hide_org = true
margin = 0.05
[priority.batch]
headroom = 0.2
[[weight]]
weight = 3
when = { tier = "paid" }
[[limit]]
name = "org-images"
scope = ["org", "model"]
images = 250
window = "60s"
fair_share = true
[[limit]]
name = "user"
scope = ["org", "user"]
requests = 15
tokens = 500_000
images = 20
window = "1m"
margin = 0.1
smooth = "1s"
[[limit]]
name = "chat-ui"
scope = ["user"]
images = 1
window = "7m"
shadow = true
when = { tier = ["free", "trial"] }
[[limit]]
name = "spend"
custom = { spend_micros = 1_000_000 }
window = "1day"
[[limit]]
name = "under-way"
in_flight = 8
"#;
const WORDS: [&str; 20] = [
    "[[limit]]",
    "[limit]",
    "[[weight]]",
    "name = \"x\"",
    "requests = ",
    "in_flight = ",
    "window = \"",
    "0s",
    "1ns",
    "32days",
    "= nan",
    "= inf",
    "= -0.0",
    "= 1e400",
    "= 0x7fffffffffffffff",
    "= true",
    "= []",
    "= {}",
    "scope = [\"a.b\"]",
    "#",
];

pub(super) async fn mutated(found: &mut Found, seed: u64, budget: Budget) -> Result<()> {
    let mut random = StdRng::seed_from_u64(seed ^ 3);
    let mut files = vec![WHOLE.to_owned()];
    files.extend(Policy::presets().map(|preset| preset.policy().to_toml()));
    let (mut read, mut panics, mut refused, mut wrong) = (0, 0_u64, 0, Vec::new());
    while budget.goes_on(read) {
        let text = mutate(&mut random, &files);
        read += 1;
        let tried = text.clone();
        match tokio::spawn(async move { outcome(&tried).await }).await {
            Ok(Ok(())) => {}
            Ok(Err(None)) => refused += 1,
            Ok(Err(Some(fault))) => wrong.push(format!("{fault}: {text:?}")),
            Err(_) => panics += 1,
        }
    }
    found.calls += read;
    found.count(&format!("files: panics, in {read} files"), panics, 0, panics == 0);
    let measured = wrong.first().map_or_else(|| "0".to_owned(), |first| format!("{}: {first:.300}", wrong.len()));
    found.count("files: policies that do not read back, or do not work", measured, 0, wrong.is_empty());
    let taken = read - refused;
    let share = read / 50;
    found.count("files: refused", refused, format!("at least {share}"), refused >= share);
    found.count("files: taken", taken, format!("at least {share}"), taken >= share);
    Ok(())
}

/// `Err(None)`: it was refused, as files are.
async fn outcome(text: &str) -> Result<(), Option<String>> {
    let policy = match Policy::from_toml(text) {
        Ok(policy) => policy,
        Err(error) if error.kind() == ErrorKind::Invalid => return Err(None),
        Err(error) => return Err(Some(format!("refused by {:?}", error.kind()))),
    };
    let written = policy.to_toml();
    let read = Policy::from_toml(&written).map_err(|error| Some(format!("does not read back: {error}")))?;
    if read.to_toml() != written {
        return Err(Some("reads back as another".to_owned()));
    }
    let limiter =
        Limiter::builder().policy(policy).build().map_err(|error| Some(format!("does not build: {error}")))?;
    let subject = Subject::org("acme").user("alice").model("m").attribute("tier", "free");
    for cost in [Cost::images(1).tokens(1 << 47), Cost::new().amount("spend_micros", 1)] {
        let acquired = limiter.acquire(&subject, cost).max_wait(Duration::from_millis(1)).await;
        let kind = acquired.err().map(|error| error.kind());
        if !matches!(kind, None | Some(ErrorKind::Invalid | ErrorKind::Denied)) {
            return Err(Some(format!("a call ends with {kind:?}")));
        }
    }
    Ok(())
}

fn mutate(random: &mut StdRng, files: &[String]) -> String {
    let mut text: Vec<char> = files.choose(random).map(|file| file.chars().collect()).unwrap_or_default();
    for _ in 0..random.random_range(1..4) {
        let from = random.random_range(0..=text.len());
        let to = (from + random.random_range(0..20)).min(text.len());
        let inserted: Vec<char> = match random.random_range(0..7) {
            0 => Vec::new(),
            1 => text[from..to].repeat(2),
            2 => PIECES.choose(random).copied().unwrap_or_default().chars().collect(),
            3 => WORDS.choose(random).copied().unwrap_or_default().chars().collect(),
            4 => vec![random.random()],
            5 => {
                let digits: Vec<usize> = (0..text.len()).filter(|place| text[*place].is_ascii_digit()).collect();
                let Some(place) = digits.choose(random).copied() else { continue };
                let amount = AMOUNTS.choose(random).copied().unwrap_or_default().to_string();
                text.splice(place..=place, amount.chars());
                continue;
            }
            // a whole line of it once more, elsewhere
            _ => {
                let lines: Vec<&[char]> = text.split(|c| *c == '\n').collect();
                let line = lines.choose(random).map(|line| line.to_vec()).unwrap_or_default();
                let place = text[from..].iter().position(|c| *c == '\n').map_or(text.len(), |end| from + end);
                text.splice(place..place, ['\n'].into_iter().chain(line));
                continue;
            }
        };
        text.splice(from..to, inserted);
    }
    text.into_iter().collect()
}
