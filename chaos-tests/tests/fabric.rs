//! The network of the test bed does what faults ask of it. Needs root.

#![expect(clippy::print_stdout, reason = "a test that cannot run here says so")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use pangolin_chaos::{
    testbed::{
        filter::Rule,
        network::{self, Fabric},
    },
    wire::Quality,
};

const PATIENCE: Duration = Duration::from_secs(20);
/// Large enough for frames that the kernel has not segmented yet.
const LARGE: usize = 3_000_000;

/// Two hosts, and an echo on the second one.
fn two_hosts() -> (Fabric, SocketAddr) {
    let fabric = Fabric::new(&["one".to_owned(), "two".to_owned()]).expect("a fabric");
    let at = SocketAddr::new(fabric.plugs[1].address, 7);
    let listener = fabric.plugs[1].network.within(move || Ok(TcpListener::bind(at)?)).expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (fabric, at)
}

fn connect(fabric: &Fabric, at: SocketAddr, patience: Duration) -> anyhow::Result<TcpStream> {
    let network = fabric.plugs[0].network.clone();
    network.within(move || {
        let stream = TcpStream::connect_timeout(&at, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(stream)
    })
}

/// How long so many bytes take to and fro.
fn echo(stream: &mut TcpStream, length: usize) -> Duration {
    let sent: Vec<u8> = (0..length).map(|byte| (byte % 251) as u8).collect();
    let mut back = vec![0; length];
    let began = Instant::now();
    let mut writer = stream.try_clone().expect("a second handle");
    let copy = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy));
    stream.read_exact(&mut back).expect("all of it");
    writing.join().expect("no panic").expect("written");
    assert!(back == sent, "it comes back as something else");
    began.elapsed()
}

#[test]
fn what_is_blocked_is_dropped_and_counted_in_the_direction_that_was_asked_for() {
    if let Some(reason) = network::missing() {
        println!("skipped: {reason}");
        return;
    }
    let (fabric, at) = two_hosts();
    let mut stream = connect(&fabric, at, PATIENCE).expect("connected");
    echo(&mut stream, 100);

    let (one, two) = (fabric.plugs[0].address, fabric.plugs[1].address);
    fabric.block("f1", &[Rule::all([two], [one])]).expect("blocked");
    assert_eq!(fabric.dropped("f1").expect("counted"), 0);
    connect(&fabric, at, Duration::from_millis(500)).expect_err("no answer comes back");
    assert!(fabric.dropped("f1").expect("counted") > 0);

    fabric.unblock("f1").expect("unblocked");
    fabric.dropped("f1").expect_err("there is no such table any more");
    echo(&mut stream, 100);
}

#[test]
fn a_wire_delays_and_loses_and_harms_nothing_that_it_passes_on() {
    if let Some(reason) = network::missing() {
        println!("skipped: {reason}");
        return;
    }
    let (fabric, at) = two_hosts();
    let mut stream = connect(&fabric, at, PATIENCE).expect("connected");
    echo(&mut stream, LARGE);

    let wire = fabric.wire(1).expect("a wire");
    // The connection goes on through it, with frames of any size.
    echo(&mut stream, LARGE);
    assert!(wire.passed().frames > 0 && wire.passed().delayed == 0, "{:?}", wire.passed());

    let delay = Duration::from_millis(40);
    wire.be(Quality { delay, ..Quality::default() });
    let took = echo(&mut stream, 1);
    assert!(took >= delay * 2, "{took:?}");
    assert!(wire.passed().delayed > 0);

    wire.be(Quality { delay: Duration::from_millis(2), jitter: delay / 4, overtaking: 0.3, loss: 0.05 });
    echo(&mut stream, 100_000);
    let passed = wire.passed();
    assert!(passed.lost > 0 && passed.overtook > 0, "{passed:?}");

    drop(wire);
    fabric.unwire(1).expect("plugged in again");
    echo(&mut stream, LARGE);
}
