#![no_main]

use allotment::openai::parsers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| parsers::headers(input));
