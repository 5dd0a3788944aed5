#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    pangolin_node::fuzz::state_files(data, dir.path()).expect("files can be written");
});
