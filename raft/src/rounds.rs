//! Many askers, one answer: whoever asks while a round is under way is answered by the next one.
//!
//! A linearizable read needs a confirmation that was asked for after the read began. So an asker never takes the
//! answer of a round that had begun before, and all who wait when a round begins share it: a hundred readers cost
//! one exchange with a majority, not a hundred.
//!
//! Clients that were answered together ask again together, a few microseconds apart. A round that began with the first of
//! them would leave the others to the next one, so it looks a few times whether they are there.

use std::{future::Future, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How often a round looks for those of the last one before it begins without them. Each look lets everything else that is
/// ready run, and takes a few microseconds.
const LOOKS: usize = 64;

/// The answer of a round.
pub(crate) type Answer = Result<u64, String>;

/// Those who wait for the next round; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Rounds {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    askers: Vec<oneshot::Sender<Answer>>,
    /// A task runs rounds until nobody waits.
    runs: bool,
    /// Who shared the last round.
    last: usize,
}

impl Rounds {
    /// The answer of a round that begins after this call. `round` is what a round does; the task that does it lives
    /// as long as somebody waits, so an asker that goes away takes nothing from the others.
    pub(crate) async fn ask<F, R>(&self, round: F) -> Answer
    where
        F: Fn() -> R + Send + 'static,
        R: Future<Output = Answer> + Send + 'static,
    {
        let (asker, answer) = oneshot::channel();
        let begin = {
            let mut waiting = self.waiting.lock();
            waiting.askers.push(asker);
            !std::mem::replace(&mut waiting.runs, true)
        };
        if begin {
            tokio::spawn(run(self.waiting.clone(), round));
        }
        answer.await.unwrap_or_else(|_| Err("the node is stopping".into()))
    }
}

async fn run<F, R>(waiting: Arc<Mutex<Waiting>>, round: F)
where
    F: Fn() -> R,
    R: Future<Output = Answer>,
{
    loop {
        gather(&waiting).await;
        let askers = {
            let mut waiting = waiting.lock();
            let askers = std::mem::take(&mut waiting.askers);
            waiting.runs = !askers.is_empty();
            if waiting.runs {
                waiting.last = askers.len();
            }
            askers
        };
        if askers.is_empty() {
            return;
        }
        let answer = round().await;
        for asker in askers {
            // Whoever no longer waits needs no answer.
            let _ = asker.send(answer.clone());
        }
    }
}

/// Waits a moment for as many as shared the last round.
async fn gather(waiting: &Mutex<Waiting>) {
    for _ in 0..LOOKS {
        {
            let waiting = waiting.lock();
            if waiting.askers.is_empty() || waiting.askers.len() >= waiting.last {
                return;
            }
        }
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn those_who_wait_share_a_round_that_begins_after_they_came() {
        let rounds = Rounds::default();
        let begun = Arc::new(AtomicU64::new(0));
        let ask = || {
            let (rounds, begun) = (rounds.clone(), begun.clone());
            async move {
                let before = begun.load(Ordering::SeqCst);
                let answer = rounds
                    .ask(move || {
                        let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
                        async move {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            Ok(number)
                        }
                    })
                    .await
                    .expect("answered");
                assert!(answer > before, "a round that had begun before");
                answer
            }
        };
        let first = tokio::spawn(ask());
        while begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let late: Vec<_> = (0..100).map(|_| tokio::spawn(ask())).collect();
        assert_eq!(first.await.expect("ran"), 1);
        for asker in late {
            assert_eq!(asker.await.expect("ran"), 2);
        }
        assert_eq!(ask().await, 3);
    }

    #[tokio::test]
    async fn an_asker_that_goes_away_takes_nothing_from_the_others() {
        let rounds = Rounds::default();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(7)
        };
        let gone = tokio::time::timeout(Duration::from_millis(5), rounds.ask(slow)).await;
        assert!(gone.is_err());
        assert_eq!(rounds.ask(slow).await, Ok(7));
    }
}
