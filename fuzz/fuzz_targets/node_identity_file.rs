#![no_main]

use std::sync::LazyLock;

use tempfile::TempDir;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a directory"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    pangolin_node::fuzz::identity_file(data, DIR.path()).expect("the file can be written");
});
