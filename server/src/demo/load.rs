//! The traffic: who asks for how many images, and when.
//!
//! Invariant: a function of its settings and the seed alone, so that a run under limits, one without, and one spread over processes meet
//! the same calls. All times are unscaled.

use std::time::Duration;

use allotment::{
    Subject,
    openai::{ImageRequest, Quality, Size},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};

use super::upstream::{MINUTE, MODEL, POOL};

/// What the greedy users together want, in quotas.
const GREEDY_SHARE: f64 = 1.5;
/// What the light users together want, in quotas.
const LIGHT_SHARE: f64 = 0.7;
/// How long a greedy and a light user wait for a place. The line grows until the least patient turn away.
const GREEDY_PATIENCE: Duration = Duration::from_secs(10);
const LIGHT_PATIENCE: Duration = Duration::from_secs(45);
/// What users ask for: mostly medium quality, some low, few high.
const LOOKS: [Look; 8] = [LOW, MEDIUM, MEDIUM, MEDIUM, PORTRAIT, PORTRAIT, MEDIUM, HIGH];
const LOW: Look = Look { size: Size::SQUARE, quality: Quality::Low, tokens: 196 };
const MEDIUM: Look = Look { size: Size::SQUARE, quality: Quality::Medium, tokens: 1_756 };
const PORTRAIT: Look = Look { size: Size::PORTRAIT, quality: Quality::Medium, tokens: 1_372 };
const HIGH: Look = Look { size: Size::SQUARE, quality: Quality::High, tokens: 7_024 };
/// What all of them ask to be drawn, and the tokens of that.
const PROMPT: &str = "a lighthouse";
const PROMPT_TOKENS: u64 = 3;
/// Images of a call, where there are calls of several.
const BATCHES: [u64; 8] = [1, 1, 1, 1, 1, 2, 2, 4];

/// Users who behave alike.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Group {
    /// The users are named after it.
    pub(crate) kind: String,
    pub(crate) users: usize,
    /// Images a minute that each of them wants.
    pub(crate) per_minute: f64,
    /// From this time on they want so many times as much.
    pub(crate) surge: Option<(Duration, f64)>,
    /// How long they wait for a place.
    pub(crate) patience: Duration,
    /// Their attribute `tier`.
    pub(crate) tier: String,
    /// The priority class of their calls.
    pub(crate) class: String,
    /// Which of the orgs they belong to. Each has the quota to itself.
    pub(crate) org: usize,
}

/// What decides the traffic.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) groups: Vec<Group>,
    pub(crate) duration: Duration,
    pub(crate) seed: u64,
    /// The most images of one call.
    pub(crate) images_max: u64,
}

/// How an image is asked for, and the tokens that it then takes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Look {
    size: Size,
    quality: Quality,
    tokens: u64,
}

/// One call a user wants to make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Call {
    /// Since the start of the run.
    pub(crate) asked_after: Duration,
    pub(crate) images: u64,
    look: Look,
    /// How long the upstream takes to draw them.
    pub(crate) drawn_after: Duration,
    /// How long the user waits for a place.
    pub(crate) patience: Duration,
}

impl Call {
    /// What is sent.
    pub(crate) fn request(&self) -> ImageRequest {
        let n = u32::try_from(self.images).unwrap_or(ImageRequest::N_MAX);
        let request = ImageRequest::generate(PROMPT).model(MODEL).n(n);
        // The simulated API takes that long, by its own clock.
        let drawn_after_ms = self.drawn_after.as_millis() as u64;
        request.size(self.look.size).quality(self.look.quality).extra("draw_ms", drawn_after_ms)
    }

    /// What it will turn out to take.
    pub(crate) fn tokens(&self) -> u64 {
        self.images * self.look.tokens + PROMPT_TOKENS
    }
}

impl Group {
    /// Users of the first org who give up at once.
    pub(crate) fn new(kind: &str, users: usize, per_minute: f64) -> Self {
        Self {
            kind: kind.to_owned(),
            users,
            per_minute,
            surge: None,
            patience: Duration::ZERO,
            tier: "free".to_owned(),
            class: "interactive".to_owned(),
            org: 0,
        }
    }

    /// The greedy and the light users of the plain demo: a tenth are greedy, and together they want about twice the quota.
    pub(crate) fn of_demo(users: usize, quota: u64) -> Vec<Self> {
        let greedy = users.div_ceil(10);
        let each = |share: f64, sharers: usize| quota as f64 * share / sharers.max(1) as f64;
        vec![
            Self {
                patience: GREEDY_PATIENCE,
                tier: "pro".to_owned(),
                ..Self::new("greedy", greedy, each(GREEDY_SHARE, greedy))
            },
            Self { patience: LIGHT_PATIENCE, ..Self::new("light", users - greedy, each(LIGHT_SHARE, users - greedy)) },
        ]
    }

    /// When the next call comes, if one of mean pace would come `pauses` mean pauses after `from_s`.
    fn next_s(&self, from_s: f64, pauses: f64, images_mean: f64) -> f64 {
        let per_second = self.per_minute / images_mean / MINUTE.as_secs_f64();
        let next_s = from_s + pauses / per_second;
        match self.surge {
            Some((at, times)) if next_s > at.as_secs_f64() => {
                let before_s = (at.as_secs_f64() - from_s).max(0.0);
                from_s + before_s + (pauses - before_s * per_second) / (per_second * times)
            }
            _ => next_s,
        }
    }
}

impl Load {
    /// How many users there are, those of all orgs.
    pub(crate) fn users(&self) -> usize {
        self.groups.iter().map(|group| group.users).sum()
    }

    /// How many orgs there are.
    pub(crate) fn orgs(&self) -> usize {
        self.groups.iter().map(|group| group.org + 1).max().unwrap_or(1)
    }

    /// Who a user is: the place of the group, and that of the user in it.
    fn place(&self, user: usize) -> (usize, usize) {
        let mut rest = user;
        for (index, group) in self.groups.iter().enumerate() {
            if rest < group.users {
                return (index, rest);
            }
            rest -= group.users;
        }
        (self.groups.len() - 1, rest)
    }

    /// The group of a user.
    pub(crate) fn group(&self, user: usize) -> &Group {
        &self.groups[self.place(user).0]
    }

    /// The name of a user, which says what kind of user it is.
    pub(crate) fn name(&self, user: usize) -> String {
        let (group, index) = self.place(user);
        let group = &self.groups[group];
        let width = group.users.to_string().len();
        format!("{}-{:0width$}", group.kind, index + 1)
    }

    /// The subject of a user; `org` is the name of the first org.
    pub(crate) fn subject(&self, org: &str, user: usize) -> Subject {
        let group = self.group(user);
        let org = if group.org == 0 { org.to_owned() } else { format!("{org}-{}", group.org) };
        Subject::org(org).user(self.name(user)).model(POOL).attribute("tier", group.tier.as_str())
    }

    /// The calls of a user in the order of their times.
    pub(crate) fn calls_of(&self, user: usize) -> impl Iterator<Item = Call> + Send + use<> {
        let (place, index) = self.place(user);
        let group = self.groups[place].clone();
        let earlier = self.groups[..place].iter().filter(|earlier| earlier.org == group.org);
        // The users of another org want the same.
        let number = earlier.map(|earlier| earlier.users).sum::<usize>() + index;
        let batches = BATCHES.map(|images| images.min(self.images_max));
        let images_mean = batches.iter().sum::<u64>() as f64 / batches.len() as f64;
        let duration = self.duration;
        // One generator per user: how users are dealt to processes does not change what they want.
        let mut rng = StdRng::seed_from_u64(self.seed ^ (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut asked_s = 0.0;
        std::iter::from_fn(move || {
            asked_s = group.next_s(asked_s, -(1.0 - rng.random::<f64>()).ln(), images_mean);
            let asked_after = Duration::try_from_secs_f64(asked_s).ok().filter(|asked| *asked < duration)?;
            let images = batches.choose(&mut rng).copied().unwrap_or(1);
            let look = LOOKS.choose(&mut rng).copied().unwrap_or(MEDIUM);
            let drawn_after = Duration::from_millis(rng.random_range(100..=500));
            Some(Call { asked_after, images, look, drawn_after, patience: group.patience })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load() -> Load {
        Load { groups: Group::of_demo(40, 250), duration: Duration::from_secs(600), seed: 1, images_max: 4 }
    }

    fn images(load: &Load, users: impl Iterator<Item = usize>) -> u64 {
        users.flat_map(|user| load.calls_of(user)).map(|call| call.images).sum()
    }

    #[test]
    fn the_same_seed_gives_the_same_calls_and_another_gives_others() {
        let calls = |seed| Load { seed, ..load() }.calls_of(3).collect::<Vec<_>>();
        assert_eq!(calls(1), calls(1));
        assert_ne!(calls(1), calls(2));
    }

    #[test]
    fn calls_come_in_order_and_within_the_run() {
        let calls: Vec<_> = load().calls_of(0).collect();
        assert!(calls.is_sorted_by_key(|call| call.asked_after));
        assert!(calls.iter().all(|call| call.asked_after < load().duration && (1..=4).contains(&call.images)));
    }

    #[test]
    fn more_is_wanted_than_the_quota_mostly_by_few() {
        let quota = 250 * 10;
        let all = images(&load(), 0..40) as f64 / f64::from(quota);
        let greedy = images(&load(), 0..4) as f64 / f64::from(quota);
        assert!((2.0..2.4).contains(&all), "{all}");
        assert!((1.35..1.65).contains(&greedy), "{greedy}");
    }

    #[test]
    fn names_are_of_one_length_and_tell_the_kind() {
        assert_eq!(load().name(0), "greedy-1");
        assert_eq!(load().name(4), "light-01");
        assert_eq!(load().name(39), "light-36");
        assert_eq!(Load { groups: Group::of_demo(1, 250), ..load() }.name(0), "greedy-1");
    }

    #[test]
    fn the_users_of_another_org_want_the_same() {
        let group = |org| Group { org, ..Group::new("light", 2, 60.0) };
        let load = Load { groups: vec![group(0), group(1)], images_max: 1, ..load() };
        assert_eq!((load.users(), load.orgs(), load.name(3)), (4, 2, "light-2".to_owned()));
        assert_eq!(load.calls_of(1).collect::<Vec<_>>(), load.calls_of(3).collect::<Vec<_>>());
        assert_ne!(load.subject("a", 1).value("org"), load.subject("a", 3).value("org"));
    }

    #[test]
    fn a_surge_multiplies_what_is_wanted_from_its_time_on() {
        let surge = Some((Duration::from_secs(300), 10.0));
        let load = Load { groups: vec![Group { surge, ..Group::new("user", 1, 120.0) }], images_max: 1, ..load() };
        let calls: Vec<_> = load.calls_of(0).collect();
        assert!(calls.is_sorted_by_key(|call| call.asked_after));
        let before = calls.iter().filter(|call| call.asked_after < Duration::from_secs(300)).count();
        let after = calls.len() - before;
        assert!((500..700).contains(&before) && (5_700..6_300).contains(&after), "{before}, {after}");
    }
}
