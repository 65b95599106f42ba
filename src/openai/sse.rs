//! Server-sent events, as they come in pieces.
//!
//! Invariant: each byte is looked at once and copied once, however the stream is cut, and no event takes more memory than it may.
//!
//! The crate eventsource-stream (0.2.3) keeps a line that is not complete and reads all of it again with every piece. A partial image is one
//! line of several megabytes: in pieces of 16 KiB one of 1 MiB
//! took it 0.08 s, and one of 8 MiB 4.1 s: quadratic. It also has no bound on an event, and drops one whose empty line is missing.
//!
//! Lacks the fields `id` and `retry`: a stream of images cannot be resumed.
//!
//! # Source
//!
//! WHATWG HTML, section 9.2.6, "Interpreting an event stream".

use std::{collections::VecDeque, mem};

use bytes::{Bytes, BytesMut};

const BOM: &[u8] = "\u{feff}".as_bytes();
/// The longest name of a field that means something, after a byte order mark. What is longer means nothing.
const FIELD_BYTES_MAX: usize = BOM.len() + "event".len();

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// `message` unless it says otherwise.
    pub(super) name: String,
    pub(super) data: Bytes,
}

/// Takes pieces of a stream and gives events.
#[derive(Debug)]
pub(super) struct Parser {
    bytes_max: usize,
    place: Place,
    /// The name of the field of this line, as far as it came.
    field: Vec<u8>,
    /// No line has ended yet: a byte order mark may stand here.
    is_first_line: bool,
    /// The last byte was `\r`: a `\n` after it ends the same line.
    after_return: bool,
    name: Vec<u8>,
    data: BytesMut,
    has_data: bool,
    complete: VecDeque<Event>,
}

/// An event was longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// Where in a line the stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the name of the field.
    Field,
    /// After the colon: one space is not part of the value.
    BeforeValue(Value),
    Value(Value),
}

/// What the value of a field is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Data,
    Name,
    Ignored,
}

impl Parser {
    /// `bytes_max`: what the name and data of one event may take.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            place: Place::Field,
            field: Vec::with_capacity(FIELD_BYTES_MAX),
            is_first_line: true,
            after_return: false,
            name: Vec::new(),
            data: BytesMut::new(),
            has_data: false,
            complete: VecDeque::new(),
        }
    }

    /// Takes the next piece.
    ///
    /// # Errors
    ///
    /// [`TooLong`] when an event is longer than it may be. The stream cannot be read on; events that were complete before can be taken.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), TooLong> {
        let mut rest = piece;
        while let Some(&first) = rest.first() {
            if mem::take(&mut self.after_return) && first == b'\n' {
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
            self.take_part(line)?;
            if let Some(ending) = after.first() {
                self.after_return = *ending == b'\r';
                self.end_line()?;
            }
            rest = after.get(1..).unwrap_or_default();
        }
        Ok(())
    }

    /// The next event that is complete.
    pub(super) fn next(&mut self) -> Option<Event> {
        self.complete.pop_front()
    }

    /// The stream has ended: what is left, if it is an event without its empty line.
    ///
    /// Take the events that are complete with [`Parser::next`] before. The data may have been cut short.
    pub(super) fn finish(&mut self) -> Option<Event> {
        self.end_line().ok()?;
        self.end_event();
        self.complete.pop_back()
    }

    /// Takes a part of a line, without its end.
    fn take_part(&mut self, part: &[u8]) -> Result<(), TooLong> {
        let mut part = part;
        if self.place == Place::Field {
            let colon = part.iter().position(|byte| *byte == b':');
            let (field, after) = part.split_at(colon.unwrap_or(part.len()));
            // one byte more than has a meaning, so that a longer name is not taken for a shorter one
            let room = (FIELD_BYTES_MAX + 1).saturating_sub(self.field.len());
            self.field.extend(field.iter().take(room));
            if after.is_empty() {
                return Ok(());
            }
            let value = self.value_of_field();
            self.begin_value(value)?;
            part = after.get(1..).unwrap_or_default();
        }
        if let (Place::BeforeValue(value), Some(first)) = (self.place, part.first()) {
            self.place = Place::Value(value);
            part = part.get(usize::from(*first == b' ')..).unwrap_or_default();
        }
        match self.place {
            Place::Value(Value::Data) => {
                self.make_room(part.len())?;
                self.data.extend_from_slice(part);
            }
            Place::Value(Value::Name) => {
                self.make_room(part.len())?;
                self.name.extend_from_slice(part);
            }
            _ => {}
        }
        Ok(())
    }

    fn value_of_field(&self) -> Value {
        match self.plain_field() {
            b"data" => Value::Data,
            b"event" => Value::Name,
            _ => Value::Ignored,
        }
    }

    /// The name of the field without a byte order mark before it.
    fn plain_field(&self) -> &[u8] {
        let plain = self.field.strip_prefix(BOM).filter(|_| self.is_first_line);
        plain.unwrap_or(&self.field)
    }

    fn begin_value(&mut self, value: Value) -> Result<(), TooLong> {
        match value {
            Value::Data if mem::replace(&mut self.has_data, true) => {
                self.make_room(1)?;
                self.data.extend_from_slice(b"\n");
            }
            Value::Name => self.name.clear(),
            Value::Data | Value::Ignored => {}
        }
        self.place = Place::BeforeValue(value);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), TooLong> {
        if self.place == Place::Field {
            if self.plain_field().is_empty() {
                self.end_event();
            } else {
                // a field without a colon has an empty value
                let value = self.value_of_field();
                self.begin_value(value)?;
            }
        }
        self.place = Place::Field;
        self.field.clear();
        self.is_first_line = false;
        Ok(())
    }

    fn end_event(&mut self) {
        let name = mem::take(&mut self.name);
        let data = mem::take(&mut self.data).freeze();
        if mem::take(&mut self.has_data) {
            let name = if name.is_empty() { "message".into() } else { String::from_utf8_lossy(&name).into_owned() };
            self.complete.push_back(Event { name, data });
        }
    }

    fn make_room(&self, bytes: usize) -> Result<(), TooLong> {
        let taken = self.name.len() + self.data.len();
        if bytes > self.bytes_max.saturating_sub(taken) { Err(TooLong) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The events of a stream that comes in these pieces, as name and data.
    fn events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<(String, String)> {
        let mut parser = Parser::new(1 << 20);
        let mut found = Vec::new();
        for piece in pieces {
            parser.push(piece).unwrap();
            found.extend(std::iter::from_fn(|| parser.next()));
        }
        found.extend(parser.finish());
        found.into_iter().map(|event| (event.name, String::from_utf8_lossy(&event.data).into_owned())).collect()
    }

    #[test]
    fn every_form_of_the_standard_is_read() {
        let forms: &[(&str, &[(&str, &str)])] = &[
            ("", &[]),
            ("data: one\n\n", &[("message", "one")]),
            ("data:one\n\n", &[("message", "one")]),
            ("data:  one\n\n", &[("message", " one")]),
            ("event: add\ndata: one\n\n", &[("add", "one")]),
            ("data: one\nevent: add\n\ndata: two\n\n", &[("add", "one"), ("message", "two")]),
            ("event: add\nevent: remove\ndata: one\n\n", &[("remove", "one")]),
            ("data: one\r\n\r\ndata: two\r\n\r\n", &[("message", "one"), ("message", "two")]),
            ("event: add\r\ndata: one\r\ndata: two\r\n\r\n", &[("add", "one\ntwo")]),
            ("data: one\r\rdata: two\r\r", &[("message", "one"), ("message", "two")]),
            ("data: one\n\r\ndata: two\r\n\n", &[("message", "one"), ("message", "two")]),
            ("\u{feff}data: one\n\n", &[("message", "one")]),
            ("\u{feff}\n\ndata: one\n\n", &[("message", "one")]),
            ("data: one\n\n\u{feff}data: two\n\n", &[("message", "one")]),
            (": a comment\ndata: one\n: another\n\n", &[("message", "one")]),
            ("data: one\ndata: two\n\n", &[("message", "one\ntwo")]),
            ("data\ndata\n\n", &[("message", "\n")]),
            ("data\n\n", &[("message", "")]),
            ("data:\n\n", &[("message", "")]),
            ("id: 7\nretry: 5\nother: 1\ndataset: x\ndat: x\ndata: one\n\n", &[("message", "one")]),
            ("event: empty\n\ndata: one\n\n", &[("message", "one")]),
            ("data: {\"a\": \"b: c\"}\n\n", &[("message", "{\"a\": \"b: c\"}")]),
            // without its empty line, or its last line's end
            ("data: one\n\ndata: two\n", &[("message", "one"), ("message", "two")]),
            ("data: one\n\ndata: two", &[("message", "one"), ("message", "two")]),
            ("data: one\n\n: goodbye", &[("message", "one")]),
        ];
        for (stream, expected) in forms {
            let expected: Vec<_> =
                expected.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned())).collect();
            assert_eq!(events([stream.as_bytes()]), expected, "{stream:?}");
            assert_eq!(events(stream.as_bytes().chunks(1)), expected, "{stream:?}, byte by byte");
        }
    }

    #[test]
    fn an_event_that_is_too_long_is_refused_as_soon_as_it_is() {
        for stream in ["data: 12345678", "data: 1234\ndata: 567", "event: 1234\ndata: 5678", "event: 12345678"] {
            let mut parser = Parser::new(7);
            assert_eq!(parser.push(stream.as_bytes()), Err(TooLong), "{stream:?}");
        }
        let mut parser = Parser::new(7);
        parser.push(b"data: 1234567\n\n: a comment takes no room\ndata: 1234567\n\n").unwrap();
        assert_eq!(parser.push(b"data: 1\n\ndata: 12345678"), Err(TooLong));
        assert_eq!(std::iter::from_fn(|| parser.next()).count(), 3);
    }

    #[test]
    fn lines_that_mean_nothing_are_not_kept() {
        let mut parser = Parser::new(7);
        for _ in 0..1_000 {
            parser.push(&[b'x'; 1_000]).unwrap();
        }
        assert!(parser.field.capacity() < 64 && parser.data.capacity() == 0);
    }

    #[test]
    fn data_is_where_the_stream_was_written_to() {
        let mut parser = Parser::new(1 << 20);
        parser.push(b"data: 123").unwrap();
        parser.data.reserve(100);
        let at = parser.data.as_ptr();
        parser.push(b"456\n\n").unwrap();
        assert_eq!(parser.next().unwrap().data.as_ptr(), at);
    }

    fn line() -> impl Strategy<Value = String> {
        let start = prop_oneof!["data: ", "data:", "event: ", ": ", "", "\u{feff}data: ", "id:", "data"];
        (start, "[a-c :\u{feff}é]{0,6}", prop_oneof!["\n", "\r", "\r\n"])
            .prop_map(|(start, value, ending)| start + &value + &ending)
    }

    proptest! {
        #[test]
        fn a_stream_gives_the_same_events_wherever_it_is_cut(
            lines in prop::collection::vec(prop_oneof![line(), Just("\n".into()), Just("\r\n".into())], 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let stream = lines.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
            prop_assert_eq!(events(pieces), events([stream.as_slice()]));
        }

        #[test]
        fn what_is_written_is_read_back(
            sent in prop::collection::vec(("[a-z_.]{1,9}", prop::collection::vec("[^\r\n]{0,9}", 1..4)), 0..6),
            end in prop_oneof!["\n", "\r", "\r\n"],
        ) {
            let lines = |data: &Vec<String>| data.iter().map(|line| format!("data: {line}{end}")).collect::<String>();
            let stream = |(name, data)| format!("event: {name}{end}{}{end}", lines(data));
            let stream: String = sent.iter().map(|(name, data)| stream((name, data))).collect();
            let sent: Vec<_> = sent.iter().map(|(name, data)| (name.clone(), data.join("\n"))).collect();
            prop_assert_eq!(events([stream.as_bytes()]), sent);
        }

        #[test]
        fn no_bytes_are_too_strange(pieces in prop::collection::vec(any::<Vec<u8>>(), 0..9)) {
            events(pieces.iter().map(Vec::as_slice));
        }
    }
}
