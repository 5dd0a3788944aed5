#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pangolin_peer::fuzz::recovery_key(data));
