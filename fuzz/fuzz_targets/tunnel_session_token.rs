#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pangolin_tunnel::fuzz::session_token(data));
