//! What operators look at: who there is, where limits stand, and why a call would be denied.
//!
//! Invariant: nothing is written and no keyspace is searched. Orgs and subjects come from lists that admissions keep; what a subject uses is
//! read by its keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{ActiveControl, Admin, Explanation, Inspection, LimitUse, OpenReservation, PartUse, UserUse};
use crate::{
    clock::wait_until,
    control::Controls,
    cost::Cost,
    decision::{Decision, Reason},
    error::Error,
    plan::{Part, Plan, Sight, Use},
    policy::Compiled,
    resource::Resource,
    store::inspection::{InspectRequest, Open, Owner},
    subject::Subject,
};

/// A subject of the list, and how it is limited.
struct Listed {
    subject: Subject,
    plan: Plan,
}

/// # Inspection
///
/// Orgs and users are listed from the first admission on, on Redis a second after it, until their longest window has passed after the last
/// one, and half a window more. All figures are those of the store; figures of the org are not hidden.
impl Admin {
    /// The orgs that have had an admission lately, sorted. A round trip per 1,000 of them.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn orgs(&self) -> Result<Vec<String>, Error> {
        self.limiter.store().orgs().await
    }

    /// The subjects of an org that have had an admission lately, sorted: user, model and those attributes that a limit, a weight or
    /// `require` names. A round trip per 1,000 of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for an org out of range; otherwise the store's.
    pub async fn subjects(&self, org: &str) -> Result<Vec<Subject>, Error> {
        Subject::org(org).validate()?;
        let listed = self.limiter.store().subjects(org).await?;
        Ok(listed.iter().filter_map(|key| key.subject(org)).collect())
    }

    /// The users of an org that use anything, each with its limits; who has used the largest part of a limit comes first. Round trips: one
    /// per 1,000 subjects, one per 256 ledgers and per 256 sets of slots of theirs, one for the pools, one for the controls, and those in
    /// which open reservations are looked for: see [`inspect`](Self::inspect).
    ///
    /// # Errors
    ///
    /// As [`subjects`](Self::subjects), and those of the policy.
    pub async fn users(&self, org: &str) -> Result<Vec<UserUse>, Error> {
        let (rules, listed) = self.listed(org).await?;
        let mut wanted = Wanted::default();
        listed.iter().for_each(|listed| wanted.add(listed.plan.inspect_request()));
        let mut sight = self.limiter.see(org, &wanted.request()).await?;
        self.limiter.see_open(org, &rules.0, None, &mut sight).await?;

        let mut users: BTreeMap<&str, UserUse> = BTreeMap::new();
        for Listed { subject, plan } in &listed {
            let Some(user) = subject.value("user") else { continue };
            let of_user = users.entry(user).or_insert_with(|| UserUse {
                user: user.to_owned(),
                limits: Vec::new(),
                open: sight.open(Some(user)).count(),
                oldest_open: sight.open(Some(user)).next().and_then(|open| age(open, sight.now)),
            });
            let uses = plan.uses(&sight).into_iter();
            for limit in uses.filter(|of| of.scope.iter().any(|name| &**name == "user")).map(limit_use(subject)) {
                if !of_user.limits.contains(&limit) {
                    of_user.limits.push(limit);
                }
            }
        }
        let is_idle = |user: &UserUse| {
            let idle = |limit: &LimitUse| limit.status.used == 0 && limit.booked == 0;
            !user.limits.is_empty() && user.limits.iter().all(idle) && user.open == 0
        };
        let mut users: Vec<_> = users.into_values().filter(|user| !is_idle(user)).collect();
        let fullest = |user: &UserUse| user.fullest().map_or(0.0, |(_, part)| part);
        users.sort_by(|a, b| fullest(b).total_cmp(&fullest(a)).then_with(|| a.user.cmp(&b.user)));
        Ok(users)
    }

    /// Who uses a limit, most first: each user's part of it; of calls under way how many there are. A part is known where a limit of the
    /// policy counts the same window by the same scope and the user, and where the limit is shared fairly; else nobody is named. Round
    /// trips: one per 1,000 subjects, one for the controls, one per 256 ledgers, or one per 1,000 leases.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a limit or resource that the policy of the org does not have; otherwise as
    /// [`users`](Self::users).
    pub async fn users_of(&self, org: &str, limit: &str, resource: impl Into<Resource>) -> Result<Vec<PartUse>, Error> {
        let resource = resource.into();
        Subject::org(org).validate()?;
        let _window = self.limiter.window_of(org, limit, Some(&resource)).await?;
        self.parts(org, limit, &resource, |_| true).await
    }

    /// Where every limit of a subject stands, what is booked and under way, which reservations nobody has settled, and the controls that
    /// hold it. Round trips: one, three after the controls have changed; and one per 64 seconds in which reservations are looked for that no
    /// ledger carries, or per 1,000 of them: those made within the longest window of the policy, at most ten minutes, and a minute more.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a subject out of range, or one that lacks what the policy requires; otherwise
    /// the store's.
    pub async fn inspect(&self, subject: &Subject) -> Result<Inspection, Error> {
        let looked = self.limiter.look(subject, Cost::new()).await?;
        let (plan, org) = (looked.plan(), looked.org());
        let mut sight = Sight::default();
        sight.add(&plan.inspect_request(), looked.seen.clone());
        let owner = Owner::of(subject.value("user"));
        self.limiter.see_open(org, &plan.policy(), Some(owner), &mut sight).await?;
        let reservation = |open: &Open| OpenReservation {
            id: uuid::Uuid::from_bytes(open.id.0).to_string(),
            at_ms: open.at,
            age: age(open, sight.now).unwrap_or_default(),
            cost: plan.cost_of(open),
        };
        Ok(Inspection {
            at_ms: sight.now,
            limits: plan.uses(&sight).into_iter().map(limit_use(subject)).collect(),
            open: sight.open(subject.value("user")).map(reservation).collect(),
            controls: active(plan, subject, sight.now),
        })
    }

    /// Why a call would be denied now, by which limit, until when, and who is using the quota; by the same decision as
    /// [`Limiter::try_acquire`](crate::Limiter::try_acquire) of this admin's limiter, its priority class included. Round trips: one, three
    /// after the controls have changed; for a denial as many more as [`users_of`](Self::users_of) makes.
    ///
    /// # Errors
    ///
    /// As [`inspect`](Self::inspect).
    pub async fn explain(&self, subject: &Subject, cost: Cost) -> Result<Explanation, Error> {
        let looked = self.limiter.look(subject, cost).await?;
        let (plan, decision) = (looked.plan(), looked.decision()?);
        let mut sight = Sight::default();
        sight.add(&plan.inspect_request(), looked.seen.clone());
        let users = match &decision {
            Decision::Denied(denial) if !matches!(denial.reason, Reason::Blocked { .. } | Reason::CoolDown) => {
                let together = |other: &Subject| plan.counts_together(&denial.limit, subject, other);
                let mut users = self.parts(looked.org(), &denial.limit, &denial.resource, together).await?;
                users.truncate(Explanation::USERS_MAX);
                users
            }
            Decision::Denied(_) | Decision::Allowed(_) => Vec::new(),
        };
        let limits = plan.uses(&sight).into_iter().map(limit_use(subject)).collect();
        let controls = active(plan, subject, sight.now);
        Ok(Explanation { at_ms: sight.now, decision, limits, users, controls })
    }

    /// The parts that users have of a limit, of those subjects that are wanted, most first.
    async fn parts(
        &self,
        org: &str,
        limit: &str,
        resource: &Resource,
        is_wanted: impl Fn(&Subject) -> bool,
    ) -> Result<Vec<PartUse>, Error> {
        let (_, listed) = self.listed(org).await?;
        if *resource == Resource::InFlight {
            return self.holders(org, limit, &listed, is_wanted).await;
        }
        let mut parts: BTreeMap<&str, BTreeSet<Part>> = BTreeMap::new();
        for Listed { subject, plan } in listed.iter().filter(|listed| is_wanted(&listed.subject)) {
            if let (Some(user), Some(part)) = (subject.value("user"), plan.part_of(limit, resource, subject)) {
                parts.entry(user).or_default().insert(part);
            }
        }
        let ledgers = parts.values().flatten().map(|part| (part.key.clone(), part.window_ms)).collect();
        let sight = self.limiter.see(org, &InspectRequest { ledgers, ..InspectRequest::default() }).await?;
        let part_use = |(user, parts): (&str, BTreeSet<Part>)| {
            let sums = parts.iter().map(|part| sight.part(part));
            let (used, booked) = sums.fold((0, 0), |(used, booked), part| (used + part.0, booked + part.1));
            PartUse { user: user.to_owned(), used, booked }
        };
        let mut users: Vec<_> = parts.into_iter().map(part_use).filter(|part| part.used + part.booked > 0).collect();
        users.sort_by(|a, b| (b.used, b.booked).cmp(&(a.used, a.booked)).then_with(|| a.user.cmp(&b.user)));
        Ok(users)
    }

    /// How many calls of each user are under way in a limit, most first; of users that are on the list.
    async fn holders(
        &self,
        org: &str,
        limit: &str,
        listed: &[Listed],
        is_wanted: impl Fn(&Subject) -> bool,
    ) -> Result<Vec<PartUse>, Error> {
        let (mut slots, mut users) = (BTreeSet::new(), BTreeMap::new());
        for Listed { subject, plan } in listed.iter().filter(|listed| is_wanted(&listed.subject)) {
            slots.extend(plan.slots_of(limit));
            users.extend(subject.value("user").map(|user| (Owner::of(Some(user)).0, user)));
        }
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for key in slots {
            let owners = self.limiter.store().holders(org, key).await?;
            for user in owners.iter().filter_map(|owner| users.get(&owner.0)) {
                *counts.entry(user).or_default() += 1;
            }
        }
        let part_use = |(user, used): (&str, u64)| PartUse { user: user.to_owned(), used, booked: 0 };
        let mut users: Vec<_> = counts.into_iter().map(part_use).collect();
        users.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.user.cmp(&b.user)));
        Ok(users)
    }

    /// The subjects on the list, and by which rules each is limited. Those that the policy does not take any more are left out.
    async fn listed(&self, org: &str) -> Result<((Arc<Compiled>, Arc<Controls>), Vec<Listed>), Error> {
        let subjects = self.subjects(org).await?;
        let rules = self.limiter.rules(&Arc::from(org)).await?;
        let planned = subjects.into_iter().filter_map(|subject| {
            let plan = self.limiter.plan_by(&rules, &subject).ok()?;
            Some(Listed { subject, plan })
        });
        let listed = planned.collect();
        Ok((rules, listed))
    }
}

/// What many looks want to see, each ledger and each set of slots once.
#[derive(Default)]
struct Wanted(InspectRequest);

impl Wanted {
    fn add(&mut self, request: InspectRequest) {
        self.0.ledgers.extend(request.ledgers);
        self.0.slots.extend(request.slots);
        self.0.pools.extend(request.pools);
    }

    fn request(mut self) -> InspectRequest {
        self.0.ledgers.sort_unstable();
        self.0.ledgers.dedup();
        self.0.slots.sort_unstable();
        self.0.slots.dedup();
        self.0.pools.sort_unstable();
        self.0.pools.dedup();
        self.0
    }
}

fn limit_use(subject: &Subject) -> impl Fn(Use) -> LimitUse {
    |Use { status, scope, booked }| {
        let values = scope.iter().filter_map(|name| Some((name.to_string(), subject.value(name)?.to_owned())));
        LimitUse { status, scope: values.collect(), booked }
    }
}

/// Since when a reservation counts; `None` while it waits in line.
fn age(open: &Open, now: u64) -> Option<std::time::Duration> {
    (open.at <= now).then(|| wait_until(now, open.at))
}

/// The controls that a plan goes by and that hold its subject.
fn active(plan: &Plan, subject: &Subject, now: u64) -> Vec<ActiveControl> {
    let until = |at: u64| wait_until(at, now);
    let live = plan.live_controls().of(subject);
    live.map(|live| ActiveControl { control: live.control.clone(), expires_after: live.expires_at.map(until) })
        .collect()
}
