#![no_main]

use allotment::openai::parsers;

libfuzzer_sys::fuzz_target!(|input: &str| parsers::message(input));
