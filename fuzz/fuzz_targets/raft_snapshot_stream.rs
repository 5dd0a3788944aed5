#![no_main]

use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};

/// Timeouts need a clock.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _entered = RUNTIME.enter();
    pangolin_raft::fuzz::snapshot_stream(data);
});
