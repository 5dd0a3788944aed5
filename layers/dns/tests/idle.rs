//! A server that nobody asks costs nothing. Alone in its program, so that the CPU time is its own.

mod zone;

use std::{thread, time::Duration};

use pangolin_dns::{DnsConfig, DnsServer};
use tokio_util::sync::CancellationToken;

/// CPU time of this process in clock ticks, 10 ms each: fields 14 and 15 of proc(5) stat.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("proc");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().expect("ticks")).sum()
}

#[test]
fn an_idle_server_uses_no_cpu() {
    let config = DnsConfig {
        listen: zone::loopback(&["127.0.0.1", "127.0.0.1"]),
        udp_threads: 8,
        ..DnsConfig::default()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (server, task) = DnsServer::bind(config).expect("free addresses");
    server.apply(zone::at(1), &zone::plan(1), &zone::no_keys).expect("a plan");
    let shutdown = CancellationToken::new();
    let task = runtime.spawn(task.run(shutdown.clone()));
    thread::sleep(Duration::from_millis(200));
    let before = ticks();
    thread::sleep(Duration::from_millis(800));
    let used = ticks() - before;
    assert!(used <= 1, "{used} ticks in 0.8 s");
    shutdown.cancel();
    runtime.block_on(task).expect("no panic").expect("a clean end");
}
