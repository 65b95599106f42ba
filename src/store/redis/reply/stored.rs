//! How what is stored is read: ledgers, pools, slots and records as they are. `lua/README.md` has the layouts.

use super::{Reader, unreadable};
use crate::{
    calendar::{Amounts, Entry, fair::Pool},
    error::Error,
    store::{
        ReservationId,
        inspection::{Contents, InspectRequest, Inspected, Open, SlotsSeen},
        loss::Loss,
    },
};

/// The id of nobody: of a debt, or of a charge whose record is kept elsewhere.
const NOBODY: [u8; 16] = [0; 16];
/// The state of a record that nobody has settled.
const OPEN: u64 = 0;
/// The size of a record that a ledger carries.
const RECORD_SIZE: u64 = 34;

pub(crate) fn inspected(bytes: &[u8], request: &InspectRequest) -> Result<Inspected, Error> {
    let mut reader = Reader(bytes);
    let (clock, version, lost_at) = (reader.number(6)?, reader.number(6)?, reader.number(6)?);
    let raw = request.ledgers.iter().map(|_| stored(&mut reader)).collect::<Result<Vec<_>, Error>>()?;
    // as a decision does: a clock that stepped back is held by what has been seen
    let now = raw.iter().map(|ledger| seen_at(ledger)).max().unwrap_or(0).max(clock);
    let mut ledgers = Vec::with_capacity(request.ledgers.len());
    for ((_, window_ms), raw) in request.ledgers.iter().zip(raw) {
        let mut contents = ledger(raw)?;
        contents.entries.retain(|entry| entry.at + window_ms > now);
        contents.open.retain(|open| open.at + window_ms > now);
        ledgers.push(contents);
    }
    let pools = request.pools.iter().map(|_| pool(stored(&mut reader)?)).collect::<Result<_, Error>>()?;
    let set = |_| Ok(SlotsSeen { live: reader.number(4)?, first_at: reader.number(6)? });
    let slots = request.slots.iter().map(set).collect::<Result<_, Error>>()?;
    let loss = (lost_at > 0).then_some(Loss { at: lost_at, now });
    Ok(Inspected { now, version, loss, ledgers, pools, slots })
}

/// How many hashes were read, and what is open there.
pub(crate) fn open(bytes: &[u8]) -> Result<(usize, Vec<Open>), Error> {
    let mut reader = Reader(bytes);
    let hashes = usize::try_from(reader.number(2)?).unwrap_or(usize::MAX);
    let mut open = Vec::new();
    while !reader.0.is_empty() {
        let id = id(&mut reader)?;
        open.push(Open { id, at: reader.number(6)?, amounts: reader.amounts(6)? });
    }
    Ok((hashes, open))
}

/// A length and as many bytes.
fn stored<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Error> {
    let size = usize::try_from(reader.number(4)?).unwrap_or(usize::MAX);
    reader.bytes(size)
}

fn id(reader: &mut Reader<'_>) -> Result<ReservationId, Error> {
    let mut id = NOBODY;
    id.copy_from_slice(reader.bytes(16)?);
    Ok(ReservationId(id))
}

/// When a ledger was written: the six bytes before its kind, whatever that is.
fn seen_at(stored: &[u8]) -> u64 {
    let bytes = stored.len().checked_sub(7).map(|from| &stored[from..from + 6]);
    bytes.into_iter().flatten().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// A ledger as stored: times ascending and distinct, none of nothing; and the reservations that it carries.
fn ledger(stored: &[u8]) -> Result<Contents, Error> {
    let mut contents = Contents::default();
    let Some(kind) = stored.last() else { return Ok(contents) };
    let tail = |size| stored.len().checked_sub(size).ok_or_else(|| unreadable("a ledger is too short"));
    match kind {
        b'Q' => {
            let mut reader = Reader(&stored[..tail(26)?]);
            while !reader.0.is_empty() {
                let (at, amounts) = record(&mut reader, &mut contents.open)?;
                put(&mut contents.entries, Entry { at, amounts });
            }
        }
        b'L' => {
            let mut cold = Reader(&stored[tail(147)?..]);
            let (_reset, _born, _expires, _frozen_until) =
                (cold.number(6)?, cold.number(6)?, cold.number(6)?, cold.number(6)?);
            let (frozen, past, booked) = (cold.number(1)?, cold.number(2)?, cold.number(2)?);
            let (_line, _sums) = (cold.bytes(44)?, cold.bytes(21)?);
            let newest = Entry { at: cold.number(6)?, amounts: cold.amounts(6)? };
            let mut reader = Reader(&stored[..tail(147)?]);
            let mut records = Reader(reader.bytes(usize::try_from(frozen * RECORD_SIZE).unwrap_or(usize::MAX))?);
            while !records.0.is_empty() {
                let _charged = record(&mut records, &mut contents.open)?;
            }
            for index in 1..=past + booked {
                let entry = Entry { at: reader.number(6)?, amounts: reader.amounts(6)? };
                put(&mut contents.entries, if index == past { newest } else { entry });
            }
        }
        _ => return Err(unreadable("a ledger has an unknown format")),
    }
    Ok(contents)
}

/// One record: its time and amounts. It is open if it is somebody's and not settled.
fn record(reader: &mut Reader<'_>, open: &mut Vec<Open>) -> Result<(u64, Amounts), Error> {
    let (id, stamp, amounts) = (id(reader)?, reader.number(6)?, reader.amounts(4)?);
    if stamp % 4 == OPEN && id.0 != NOBODY {
        open.push(Open { id, at: stamp / 4, amounts });
    }
    Ok((stamp / 4, amounts))
}

fn put(entries: &mut Vec<Entry>, entry: Entry) {
    match entries.last_mut() {
        _ if entry.amounts == [0; 3] => {}
        Some(last) if last.at == entry.at => {
            for (sum, amount) in last.amounts.iter_mut().zip(entry.amounts) {
                *sum += amount;
            }
        }
        _ => entries.push(entry),
    }
}

/// The state of a pool that is shared fairly.
fn pool(stored: &[u8]) -> Result<Pool, Error> {
    if stored.is_empty() {
        return Ok(Pool::default());
    }
    let mut reader = Reader(stored);
    let level = f64::from_bits(reader.number(8)?);
    let (next_at, marks) = (reader.number(6)?, reader.number(1)?);
    let weights = [reader.number(6)?, reader.number(6)?];
    if reader.number(1)? != 1 {
        return Err(unreadable("a pool has an unknown format"));
    }
    let level = (level > 0.0).then_some(level);
    Ok(Pool::restore(level, next_at, (marks % 2 == 1, marks > 1), weights))
}
