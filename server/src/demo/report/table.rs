//! The report for people.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, Color, LineStyle, Table, TableStyle};

use super::{LimitReport, Report, UserReport, Verdict};
use crate::demo::{
    options::Play,
    tally::Tally,
    upstream::{Enforcement, Headers},
};

/// A line under the header and nothing else: it reads well in a log too.
const LOOK: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// How many users have a row of their own.
const USERS_SHOWN: usize = 6;

/// The report as text, with a last line that says what it means.
pub(crate) fn table(report: &Report, play: &Play, tally: &Tally) -> String {
    let parts = [setting(play), summary(report, tally), limits(report), users(report)];
    format!("{}\n\n{}", parts.join("\n\n"), conclusion(report))
}

/// What was played, and on what.
pub(crate) fn setting(play: &Play) -> String {
    let scenario = &play.scenario;
    let enforcement = match play.terms.enforcement {
        Enforcement::Refill => "refilled continuously",
        Enforcement::Rolling => "in any 60 s",
        Enforcement::OneSecond => "and their share of each second",
        Enforcement::TenSeconds => "and their share of each 10 s",
    };
    let hidden = if play.terms.hidden_errors { "; refusals come with status 200" } else { "" };
    let headers = match play.terms.headers {
        Headers::Always => "",
        Headers::Refusals => "; it tells of its limits when it refuses",
        Headers::Never => "; it does not tell of its limits",
    };
    let each =
        if scenario.load.orgs() > 1 { format!(" for each of {} orgs", scenario.load.orgs()) } else { String::new() };
    let mut text =
        format!("Simulated API: {} images a minute{each}, {enforcement}{hidden}{headers}", play.terms.images);
    if play.terms.stranger > 0.0 {
        let _ = write!(text, "\nStranger: asks for {} of that", percent(play.terms.stranger));
    }
    let users =
        format!("{} users in {}", scenario.load.users(), counted(scenario.processes as u64, "process", "processes"));
    let _ = write!(text, "\nLoad: {users}, seed {}, {} times as fast", scenario.load.seed, scenario.speed);
    if scenario.estimate_factor > 1.0 {
        let _ = write!(text, ", estimates {} times what is used", scenario.estimate_factor);
    }
    let store = match &scenario.redis {
        _ if scenario.unlimited => "none (--unlimited): every call goes to the API at once".to_owned(),
        Some(url) => format!("Redis at {}", scenario.secrets().redact(url)),
        None => "embedded".to_owned(),
    };
    let _ = write!(text, "\nStore: {store}");
    text
}

/// What came of all calls.
pub(crate) fn summary(report: &Report, tally: &Tally) -> String {
    let mut table = plain();
    let share = |part: u64| format!("{part} ({})", percent(part as f64 / report.wanted.max(1) as f64));
    table.add_row(row("wanted", report.wanted));
    table.add_row(row("admitted", share(report.admitted)));
    table.add_row(row("denied", share(report.denied - tally.failed)));
    if tally.failed > 0 {
        table.add_row(row("failed", share(tally.failed)));
    }
    let waits = &report.wait_ms;
    let waited = format!("p50 {}, p99 {}, at most {}", seconds(waits.p50), seconds(waits.p99), seconds(waits.max));
    table.add_row(row("waited", waited));
    table.add_row(vec![
        Cell::new("refused upstream (429)"),
        match report.share_refused {
            Some(share) => Cell::new(format!("{} ({} of the admitted)", report.upstream_refused, percent(share))),
            None => judged(report.upstream_refused, report.upstream_refused > 0),
        },
    ]);
    let used = match report.quota_used {
        // A refilling API that nobody has used serves nearly twice its limit in the first minute.
        Some(used) if used > 1.0 => format!("{} (the API began unused)", percent(used)),
        Some(used) => percent(used),
        None => format!("- (measured from {} s on)", report.measured_after.as_secs()),
    };
    table.add_row(row("quota used", used));
    table.to_string()
}

/// The fullest window of each limit.
pub(crate) fn limits(report: &Report) -> String {
    let mut table = plain();
    table.set_header(["limit", "counts", "by", "amount", "margin", "window", "fullest window"]);
    for limit in &report.limits {
        let LimitReport { name, resource, amount, fullest_window, over, rule, .. } = limit;
        let smoothing = if rule.smoothing { " (smooth)" } else { "" };
        let share = if *amount > 0 { percent(*fullest_window as f64 / *amount as f64) } else { "-".to_owned() };
        let fullest = match (over, fullest_window > amount) {
            (true, _) => format!("{fullest_window} ({share}) OVER"),
            (false, true) => format!("{fullest_window} ({share}, alone)"),
            (false, false) => format!("{fullest_window} ({share})"),
        };
        table.add_row(vec![
            Cell::new(format!("{name}{smoothing}")),
            Cell::new(resource),
            Cell::new(rule.scope.join(", ")),
            Cell::new(amount).set_alignment(CellAlignment::Right),
            Cell::new(percent(rule.margin)).set_alignment(CellAlignment::Right),
            Cell::new(humantime::format_duration(rule.window)).set_alignment(CellAlignment::Right),
            judged(fullest, *over),
        ]);
    }
    table.to_string()
}

fn users(report: &Report) -> String {
    let mut table = plain();
    table.set_header(["user", "wanted", "admitted", "served", "share served"]);
    let mut users: Vec<&UserReport> = report.users.iter().collect();
    users.sort_by_key(|user| std::cmp::Reverse(user.wanted));
    let (shown, rest) = users.split_at(users.len().min(USERS_SHOWN));
    let mut rows: Vec<(String, [u64; 3])> =
        shown.iter().map(|user| (user.user.clone(), [user.wanted, user.admitted, user.served])).collect();
    if !rest.is_empty() {
        let sum = |figure: fn(&UserReport) -> u64| rest.iter().map(|user| figure(user)).sum();
        let figures = [sum(|user| user.wanted), sum(|user| user.admitted), sum(|user| user.served)];
        rows.push((counted(rest.len() as u64, "other user", "other users"), figures));
    }
    for (name, figures) in rows {
        let share = percent(figures[2] as f64 / figures[0].max(1) as f64);
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let mut cells = vec![Cell::new(name)];
        cells.extend(figures.map(|figure| right(figure.to_string())));
        cells.push(right(share));
        table.add_row(cells);
    }
    table.to_string()
}

/// What the verdict is.
pub(crate) fn conclusion(report: &Report) -> String {
    let over = report.limits.iter().filter(|limit| limit.over).count() as u64;
    let refused = counted(report.upstream_refused, "call", "calls");
    match report.verdict {
        Verdict::Kept => "No rolling window was over its limit, and the API refused no admitted call.".to_owned(),
        Verdict::Shared => format!(
            "No rolling window was over its limit. With a stranger on its pool the API refused {refused} that had been admitted."
        ),
        Verdict::Broken => format!(
            "BROKEN: {} had a window over the limit, and the API refused {refused} that had been admitted.",
            counted(over, "limit", "limits")
        ),
        Verdict::Unlimited => {
            format!("Without Allotment the API refused {refused}. Run it without --unlimited for contrast.")
        }
    }
}

/// A table without lines.
pub(crate) fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(LOOK);
    table
}

pub(crate) fn row(name: &str, value: impl Into<Cell>) -> Vec<Cell> {
    vec![Cell::new(name), value.into()]
}

/// A figure in red if it is bad.
pub(crate) fn judged(value: impl ToString, bad: bool) -> Cell {
    let cell = Cell::new(value);
    if bad { cell.fg(Color::Red) } else { cell }
}

pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn seconds(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1_000.0)
}

pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
