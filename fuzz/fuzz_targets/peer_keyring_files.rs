#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    pangolin_peer::fuzz::keyring_files(data, dir.path()).expect("files can be written");
});
