//! What a run found: medians over its rounds, as JSON and as tables.
//!
//! Invariant: a ratio is to the floor of the same round, and the median is taken of ratios; a quiet round never meets a noisy floor.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{
    baseline::FLOOR,
    memory::Memory,
    probe::{Measured, Server},
};

/// One round: what each case and baseline measured, in the order they ran.
pub(super) type Round = Vec<(&'static str, Measured)>;

/// The report of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    server: Server,
    floor_us: f64,
    rows: Vec<Row>,
    memory: Option<Memory>,
}

/// One case or baseline: medians over the rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    case: &'static str,
    /// Decisions per script call; nothing if no script was called.
    batch: Option<f64>,
    /// CPU time of the server per decision, in microseconds.
    redis_us: f64,
    /// That time, in floors.
    ratio: f64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Report {
    /// The report of `rounds`; nothing if there are none, or they hold no floor.
    pub(super) fn new(server: Server, memory: Option<Memory>, rounds: &[Round]) -> Option<Self> {
        let mut floors = Vec::with_capacity(rounds.len());
        for round in rounds {
            floors.push(redis_us(&round.iter().find(|(case, _)| *case == FLOOR)?.1));
        }
        let row = |(place, &(case, _)): (usize, &(&'static str, Measured))| {
            let slices: Vec<&Measured> = rounds.iter().filter_map(|round| Some(&round.get(place)?.1)).collect();
            Row::new(case, &slices, &floors)
        };
        let rows = rounds.first()?.iter().enumerate().map(row).collect();
        Some(Self { server, floor_us: rounded(median(floors), 3), rows, memory })
    }
}

impl Row {
    fn new(case: &'static str, slices: &[&Measured], floors: &[f64]) -> Self {
        let over_rounds =
            |figure: &dyn Fn(&Measured) -> f64| median(slices.iter().map(|slice| figure(slice)).collect());
        let batches: Vec<f64> =
            slices.iter().filter(|slice| slice.script_calls > 0).map(|slice| batch(slice)).collect();
        let ratios = slices.iter().zip(floors).map(|(slice, floor)| redis_us(slice) / floor).collect();
        Self {
            case,
            batch: (!batches.is_empty()).then(|| rounded(median(batches), 2)),
            redis_us: rounded(over_rounds(&redis_us), 3),
            ratio: rounded(median(ratios), 3),
            per_second: rounded(over_rounds(&|slice| slice.decisions as f64 / slice.elapsed.as_secs_f64()), 0),
            p50_us: rounded(over_rounds(&|slice| slice.p50_us), 1),
            p99_us: rounded(over_rounds(&|slice| slice.p99_us), 1),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} {}; the floor takes {:.2} us of its CPU",
            self.server.engine, self.server.version, self.floor_us
        )?;
        let mut table = table(&["case", "batch", "Redis us", "ratio", "per second", "p50 us", "p99 us"]);
        for row in &self.rows {
            table.add_row([
                row.case.to_owned(),
                row.batch.map_or_else(|| "-".to_owned(), |batch| format!("{batch:.1}")),
                format!("{:.2}", row.redis_us),
                format!("{:.2}", row.ratio),
                format!("{:.0}", row.per_second),
                format!("{:.0}", row.p50_us),
                format!("{:.0}", row.p99_us),
            ]);
        }
        writeln!(f, "{table}")?;
        let Some(memory) = self.memory else { return Ok(()) };
        let mut table = self::table(&["memory in Redis", "bytes"]);
        table.add_row(["user with one call in the window".to_owned(), memory.user_one_call.to_string()]);
        table.add_row(["user with ten calls in the window".to_owned(), memory.user_ten_calls.to_string()]);
        table.add_row(["busiest ledger".to_owned(), memory.busiest_ledger.to_string()]);
        writeln!(f, "{table}")
    }
}

/// A table whose columns after the first hold numbers.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(header.iter().copied());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// CPU time of the server per decision, in microseconds.
fn redis_us(slice: &Measured) -> f64 {
    slice.cpu_us / slice.decisions as f64
}

/// Decisions per script call, counted by the server.
fn batch(slice: &Measured) -> f64 {
    slice.decisions as f64 / slice.script_calls as f64
}

/// The middle of `figures`; of an even number the mean of the two middle ones. 0 of none.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => figures[middle],
        _ => f64::midpoint(figures[middle - 1], figures[middle]),
    }
}

fn rounded(figure: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (figure * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn server() -> Server {
        Server { engine: "redis".to_owned(), version: "7.0.15".to_owned() }
    }

    /// A slice of 1,000 decisions in 10 ms.
    fn slice(cpu_us: f64, script_calls: u64) -> Measured {
        let elapsed = Duration::from_millis(10);
        Measured { decisions: 1000, script_calls, cpu_us, elapsed, p50_us: 900.04, p99_us: 1500.0 }
    }

    fn round(floor_us: f64, case_us: f64) -> Round {
        vec![("ping", slice(350.0, 0)), (FLOOR, slice(floor_us, 1000)), ("six_coalesced", slice(case_us, 16))]
    }

    #[test]
    fn the_median_is_the_middle_figure_or_the_mean_of_the_two() {
        assert_eq!(median(vec![3.0, 1.0, 100.0]), 3.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 100.0]), 3.0);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn a_ratio_is_to_the_floor_of_its_own_round() {
        // Ratios 2, 1 and 3; medians divided by each other would give 8 / 5.
        let rounds = [round(4000.0, 8000.0), round(8000.0, 8000.0), round(5000.0, 15_000.0)];
        let report = Report::new(server(), None, &rounds).unwrap();
        assert_eq!(report.rows[2].ratio, 2.0);
        assert_eq!(report.rows[2].redis_us, 8.0);
        assert_eq!(report.floor_us, 5.0);
    }

    #[test]
    fn the_json_has_the_documented_shape() {
        let memory = Memory { user_one_call: 220, user_ten_calls: 540, busiest_ledger: 3000 };
        let report = Report::new(server(), Some(memory), &[round(4000.0, 5000.0)]).unwrap();
        let row = |case: &str, batch: serde_json::Value, redis_us: f64, ratio: f64| {
            json!({ "case": case, "batch": batch, "redis_us": redis_us, "ratio": ratio,
                    "per_second": 100_000.0, "p50_us": 900.0, "p99_us": 1500.0 })
        };
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            json!({
                "server": { "engine": "redis", "version": "7.0.15" },
                "floor_us": 4.0,
                "rows": [
                    row("ping", json!(null), 0.35, 0.088),
                    row("floor", json!(1.0), 4.0, 1.0),
                    row("six_coalesced", json!(62.5), 5.0, 1.25),
                ],
                "memory": { "user_one_call": 220, "user_ten_calls": 540, "busiest_ledger": 3000 },
            })
        );
    }

    #[test]
    fn tables_show_every_row_and_the_memory_if_measured() {
        let report = Report::new(server(), None, &[round(4000.0, 5000.0)]).unwrap();
        let text = report.to_string();
        assert!(text.contains("redis 7.0.15; the floor takes 4.00 us"), "{text}");
        assert!(text.contains("six_coalesced") && text.contains("62.5") && text.contains("1.25"), "{text}");
        assert!(!text.contains("memory"), "{text}");
    }

    #[test]
    fn without_a_floor_there_is_no_report() {
        assert_eq!(Report::new(server(), None, &[]), None);
        assert_eq!(Report::new(server(), None, &[vec![("ping", slice(350.0, 0))]]), None);
    }
}
