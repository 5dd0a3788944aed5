//! A wire that delays, loses and reorders frames: for kernels without netem. It stands between the cable of a host and
//! the bridge, on a thread of its own, and passes on what it reads when its time has come.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{self, Read, Write},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{chance::Chance, host::Network, kernel};

/// Largest frame with its header: the kernel hands over what it has not segmented yet in one piece.
const FRAME_MAX: usize = 64 * 1024 + 256;
/// Most frames that are on their way at a time; what comes beyond is lost, as in a queue that is full.
pub(crate) const UNDERWAY_MAX: usize = 16_384;
/// Frames that are read from one end before the other one gets its turn.
const BURST: usize = 64;
/// Longest that the thread sleeps: how soon it sees that it is to end.
const NAP: Duration = Duration::from_millis(50);

/// How bad the wire is. The same in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Every frame takes at least this long.
    pub delay: Duration,
    /// And up to this much longer, each for itself: a jitter above the distance between frames reorders them.
    pub jitter: Duration,
    /// Share of the frames that are lost, between 0 and 1.
    pub loss: f64,
    /// Share of the frames that overtake: they are passed on at once.
    pub overtaking: f64,
}

/// What a wire has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Frames that were passed on.
    pub frames: u64,
    /// Of these, those that were held back.
    pub delayed: u64,
    /// Of these, those that overtook others.
    pub overtook: u64,
    /// Frames that were lost.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Counters {
    frames: AtomicU64,
    delayed: AtomicU64,
    overtook: AtomicU64,
    lost: AtomicU64,
    end: AtomicBool,
    quality: Mutex<Quality>,
}

/// The wire. It is gone when this is dropped.
#[derive(Debug)]
pub struct Wire {
    counters: Arc<Counters>,
    thread: Option<JoinHandle<()>>,
}

impl Wire {
    /// Lays a wire between the interface `cable` and a new interface `end`, both in `network`. It is a good one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn lay(network: &Network, cable: &str, end: &str) -> Result<Self> {
        let (cable, end) = (cable.to_owned(), end.to_owned());
        let (link, tap) = network.within(move || {
            let link = kernel::raw_link(&cable).with_context(|| format!("a raw socket on {cable}"))?;
            let tap = kernel::tap(&end).with_context(|| format!("the interface {end}"))?;
            Ok((link, tap))
        })?;
        let counters = Arc::<Counters>::default();
        let pump = Pump { ends: [link, tap].map(std::fs::File::from), counters: Arc::clone(&counters) };
        let thread = std::thread::Builder::new().name("wire".to_owned()).spawn(move || pump.run())?;
        Ok(Self { counters, thread: Some(thread) })
    }

    /// How bad it is from now on.
    pub fn be(&self, quality: Quality) {
        *self.counters.quality.lock().unwrap_or_else(PoisonError::into_inner) = quality;
    }

    /// What it has done so far.
    #[must_use]
    pub fn passed(&self) -> Passed {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { frames, delayed, overtook, lost, .. } = &*self.counters;
        Passed { frames: read(frames), delayed: read(delayed), overtook: read(overtook), lost: read(lost) }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.counters.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it had to say is in the counters.
            let _ = thread.join();
        }
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lost,
    Overtakes,
    After(Duration),
}

fn fate(quality: &Quality, chance: &mut Chance) -> Fate {
    if chance.happens(quality.loss) {
        return Fate::Lost;
    }
    if chance.happens(quality.overtaking) {
        return Fate::Overtakes;
    }
    Fate::After(quality.delay + quality.jitter.mul_f64(chance.share()))
}

/// A frame on its way: when it is due, its number (frames that are due at once keep their order), which end it goes to.
type Underway = Reverse<(Instant, u64, usize, Vec<u8>)>;

struct Pump {
    ends: [std::fs::File; 2],
    counters: Arc<Counters>,
}

impl Pump {
    fn run(self) {
        let mut chance = Chance::new(u64::from(std::process::id()));
        let mut underway = BinaryHeap::<Underway>::new();
        let mut buffer = vec![0; FRAME_MAX];
        let mut number = 0;
        while !self.counters.end.load(Ordering::Relaxed) {
            let now = Instant::now();
            while underway.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
                if let Some(Reverse((_, _, to, frame))) = underway.pop() {
                    self.pass(to, &frame);
                }
            }
            let next = underway.peek().map(|Reverse((due, ..))| due.saturating_duration_since(now));
            let nap = next.unwrap_or(NAP).min(NAP);
            let readable = self.wait(nap);
            let quality = *self.counters.quality.lock().unwrap_or_else(PoisonError::into_inner);
            for (from, _) in readable.into_iter().enumerate().filter(|(_, readable)| *readable) {
                for _ in 0..BURST {
                    let Some(length) = read(&self.ends[from], &mut buffer) else { break };
                    let frame = &buffer[..length];
                    let to = 1 - from;
                    match fate(&quality, &mut chance) {
                        Fate::Lost => self.count(|c| &c.lost),
                        _ if underway.len() >= UNDERWAY_MAX => self.count(|c| &c.lost),
                        Fate::Overtakes => {
                            if !underway.is_empty() {
                                self.count(|c| &c.overtook);
                            }
                            self.pass(to, frame);
                        }
                        Fate::After(Duration::ZERO) => self.pass(to, frame),
                        Fate::After(time) => {
                            self.count(|c| &c.delayed);
                            number += 1;
                            underway.push(Reverse((Instant::now() + time, number, to, frame.to_vec())));
                        }
                    }
                }
            }
        }
    }

    fn count(&self, which: impl Fn(&Counters) -> &AtomicU64) {
        which(&self.counters).fetch_add(1, Ordering::Relaxed);
    }

    fn pass(&self, to: usize, frame: &[u8]) {
        // An end that takes no more, or is down, loses the frame: that is what wires do.
        // It takes a frame as a whole or not at all.
        match (&self.ends[to]).write_all(frame) {
            Ok(()) => self.count(|c| &c.frames),
            Err(_) => self.count(|c| &c.lost),
        }
    }

    /// Waits until a frame can be read, at most this long, and says from which ends.
    fn wait(&self, nap: Duration) -> [bool; 2] {
        let [one, other] = &self.ends;
        kernel::wait_readable([one.as_fd(), other.as_fd()], nap).unwrap_or_default()
    }
}

/// The next frame; none if there is none now.
fn read(mut end: &std::fs::File, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match end.read(buffer) {
            Ok(length) => return Some(length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_wire_passes_everything_on_at_once_and_a_bad_one_as_it_is_told() {
        let mut chance = Chance::new(7);
        assert_eq!(fate(&Quality::default(), &mut chance), Fate::After(Duration::ZERO));
        let bad = Quality {
            delay: Duration::from_millis(40),
            jitter: Duration::from_millis(20),
            loss: 0.3,
            overtaking: 0.2,
        };
        let (mut lost, mut overtook) = (0, 0);
        for _ in 0..10_000 {
            match fate(&bad, &mut chance) {
                Fate::Lost => lost += 1,
                Fate::Overtakes => overtook += 1,
                Fate::After(time) => assert!(time >= bad.delay && time <= bad.delay + bad.jitter, "{time:?}"),
            }
        }
        assert!((2800..3200).contains(&lost), "{lost}");
        assert!((1200..1600).contains(&overtook), "{overtook}");
    }
}
