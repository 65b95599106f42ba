//! How a reply of the scripts is read. `lua/acquire.lua`, `lua/settle.lua` and `lua/README.md` have the layouts.

use crate::{
    calendar::{Held, fair::Standing},
    error::{Error, ErrorKind},
    store::{
        AcquireRequest, Answer, LedgerState, Settled, Verdict,
        governed::{AuditEntry, StoredControls},
        member::Membership,
        redis::continuity::{Epoch, Known},
    },
};

mod stored;

pub(crate) use self::stored::{inspected, open};

/// Bytes taken from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, size: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) =
            self.0.split_at_checked(size).ok_or_else(|| unreadable("an answer of the script is too short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, size: usize) -> Result<u64, Error> {
        Ok(self.bytes(size)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// A length and as many bytes.
    fn text(&mut self) -> Result<String, Error> {
        let size = usize::try_from(self.number(4)?).unwrap_or(usize::MAX);
        String::from_utf8(self.bytes(size)?.to_vec()).map_err(|_| unreadable("a text of an answer is none"))
    }

    fn amounts(&mut self, size: usize) -> Result<[u64; 3], Error> {
        Ok([self.number(size)?, self.number(size)?, self.number(size)?])
    }
}

/// What an answer says of the life of the org's data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    pub(super) now: u64,
    /// When its head expires, by the org's time.
    pub(super) alive_until: u64,
    pub(super) epoch: Epoch,
    /// It began after a loss of data that was noticed.
    pub(super) after_loss: bool,
    /// It is not the one that the call was made for.
    pub(super) lost: bool,
    /// This process has noticed that first.
    pub(super) marked: bool,
}

/// The head is the one that the call was made for.
const AS_KNOWN: u64 = 8;

/// The answers, and what they say of the life of the data.
type Acquired = (Life, Vec<Result<Answer, Error>>);

pub(super) fn acquired(bytes: &[u8], requests: &[AcquireRequest], known: &Known) -> Result<Acquired, Error> {
    let mut reader = Reader(bytes);
    let (now, state) = (reader.number(6)?, reader.number(1)?);
    let (alive_until, epoch, after_loss) = if state == AS_KNOWN {
        (known.alive_until, known.epoch, known.after_loss)
    } else {
        (reader.number(6)?, Epoch { born_at: reader.number(6)?, salt: reader.number(2)? }, state & 1 > 0)
    };
    let life = Life { now, alive_until, epoch, after_loss, lost: state & 2 > 0, marked: state & 4 > 0 };
    let answers = if life.lost {
        requests.iter().map(|_| Ok(Answer::lost(now))).collect()
    } else {
        requests.iter().map(|request| answer(&mut reader, now, request)).collect::<Result<_, Error>>()?
    };
    Ok((life, answers))
}

fn answer(reader: &mut Reader<'_>, now: u64, request: &AcquireRequest) -> Result<Result<Answer, Error>, Error> {
    let asked = request.ledgers.len();
    let (code, at, setter) = (reader.number(1)?, reader.number(6)?, reader.number(1)?);
    let (mut short, mut ledgers) = (Vec::with_capacity(asked), Vec::with_capacity(asked));
    for _ in 0..asked {
        let places = reader.number(1)?;
        short.push([places & 1 > 0, places & 2 > 0, places & 4 > 0]);
        ledgers.push(LedgerState { used: reader.amounts(7)?, last_at: reader.number(6)? });
    }
    let standing = |_| Ok(Standing { heavy: reader.number(1)? > 0, share: reader.number(6)? });
    let standings = request.fair.iter().map(standing).collect::<Result<_, Error>>()?;
    let (mut token, mut in_flight) = (0, Vec::new());
    if !request.slots.is_empty() {
        token = reader.number(7)?;
        in_flight = request.slots.iter().map(|_| reader.number(4)).collect::<Result<_, Error>>()?;
    }
    let verdict = match code {
        1 => Verdict::Admitted { at },
        2 => Verdict::Denied { at, setter: usize::try_from(setter).unwrap_or(0).saturating_sub(1), short },
        3 => Verdict::Released,
        4 => Verdict::Mismatch,
        5 => return Ok(Err(unreadable("a key of this request holds what this version cannot read"))),
        6 => return Ok(Err(Error::invalid("an amount is out of range: 0 to 2^47"))),
        7 => Verdict::Full { slots: usize::try_from(setter).unwrap_or(0).saturating_sub(1), at },
        8 => Verdict::Stale,
        _ => return Err(unreadable("an answer of the script has an unknown code")),
    };
    Ok(Ok(Answer { verdict, now, ledgers, standings, token, in_flight, after_silence: false }))
}

pub(crate) fn settled(bytes: &[u8], requests: usize) -> Result<Vec<Result<Settled, Error>>, Error> {
    let mut reader = Reader(bytes);
    let settled = |code| match code {
        1 => Ok(Ok(Settled::Now)),
        2 => Ok(Ok(Settled::Before)),
        3 => Ok(Ok(Settled::Absent)),
        5 => Ok(Err(unreadable("a key of this reservation holds what this version cannot read"))),
        6 => Ok(Err(Error::invalid("an amount is out of range: 0 to 2^47"))),
        7 => Ok(Ok(Settled::LeaseLost)),
        _ => Err(unreadable("an answer of the script has an unknown code")),
    };
    (0..requests).map(|_| settled(reader.number(1)?)).collect()
}

pub(crate) fn governed(bytes: &[u8]) -> Result<bool, Error> {
    let mut reader = Reader(bytes);
    let _version = reader.number(6)?;
    Ok(reader.number(1)? > 0)
}

pub(crate) fn controls(bytes: &[u8]) -> Result<StoredControls, Error> {
    let mut reader = Reader(bytes);
    let (now, version, count) = (reader.number(6)?, reader.number(6)?, reader.number(2)?);
    let control = |reader: &mut Reader<'_>| {
        let expires_at = Some(reader.number(6)?).filter(|at| *at > 0);
        Ok((reader.text()?, expires_at))
    };
    let controls = (0..count).map(|_| control(&mut reader)).collect::<Result<_, Error>>()?;
    let count = reader.number(2)?;
    let entry = |reader: &mut Reader<'_>| {
        let at = reader.text()?.parse().map_err(|_| unreadable("an entry of the audit trail has no time"))?;
        Ok(AuditEntry { at, by: reader.text()?, what: reader.text()?, old: reader.text()?, new: reader.text()? })
    };
    let audit = (0..count).map(|_| entry(&mut reader)).collect::<Result<_, Error>>()?;
    Ok(StoredControls { now, version, controls, audit })
}

pub(crate) fn observed(bytes: &[u8]) -> Result<Option<Held>, Error> {
    let mut reader = Reader(bytes);
    let (code, before, now) = (reader.number(1)?, reader.number(6)?, reader.number(6)?);
    match code {
        1 => Ok(Some(Held { before, now })),
        2 => Ok(None),
        6 => Err(Error::invalid("an amount is out of range: 0 to 2^47")),
        _ => Err(unreadable("an answer of the script has an unknown code")),
    }
}

pub(crate) fn renewed(bytes: &[u8], leases: usize) -> Result<Vec<bool>, Error> {
    let mut reader = Reader(bytes);
    (0..leases).map(|_| Ok(reader.number(1)? > 0)).collect()
}

pub(crate) fn membership(bytes: &[u8]) -> Result<Membership, Error> {
    let mut reader = Reader(bytes);
    Ok(Membership { joined_at: reader.number(6)?, members: reader.number(4)?, unaware: reader.number(4)? })
}

fn unreadable(message: &str) -> Error {
    Error::new(ErrorKind::Protocol, message)
}
