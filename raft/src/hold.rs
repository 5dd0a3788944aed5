//! A commit travels with the entries that follow it.
//!
//! openraft tells followers of a commit as soon as it is one, with a message that carries nothing else, and one message
//! at a time: the next entry waits for its answer. A client that writes again at once would wait for it, too. So such a
//! message is held for a moment, and not sent at all where entries follow: they carry the commit.
//!
//! What openraft counts is not touched: the answer to the entries covers the message before them, with the time at which
//! the entries were handed out.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, sleep};

/// Whether a message carries nothing but a commit.
pub(crate) trait Bare {
    /// Nothing else.
    fn is_bare(&self) -> bool;
}

/// The messages of `input`, without bare ones that are followed by another one within `patience`. One that is bare and all
/// there is, is a heartbeat: it goes after `delay`.
pub(crate) fn hold<M: Bare + Send + 'static>(
    input: impl Stream<Item = M> + Send + Unpin + 'static,
    patience: Duration,
    delay: Duration,
) -> impl Stream<Item = M> + Send + Unpin + 'static {
    // One for all messages: a timer that is put off costs no system call, a new one that is the next to go off does.
    let timer = Box::pin(sleep(patience));
    let held = stream::unfold((input.fuse(), timer, true), move |(mut input, mut timer, first)| async move {
        let mut message = input.next().await?;
        if message.is_bare() {
            timer.as_mut().reset(Instant::now() + patience);
        }
        while message.is_bare() {
            let next = tokio::select! {
                biased;
                next = input.next() => next,
                () = &mut timer => break,
            };
            match next {
                Some(later) => message = later,
                None => {
                    if first && !delay.is_zero() {
                        sleep(delay).await;
                    }
                    break;
                }
            }
        }
        Some((message, (input, timer, false)))
    });
    Box::pin(held)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::{sync::mpsc, time::sleep};

    use super::*;

    const DELAY: Duration = Duration::from_millis(20);

    /// Its number, and whether it is bare.
    #[derive(Debug, PartialEq, Eq)]
    struct Message(u32, bool);

    impl Bare for Message {
        fn is_bare(&self) -> bool {
            self.1
        }
    }

    fn held(patience: Duration) -> (mpsc::UnboundedSender<Message>, impl Stream<Item = Message> + Unpin) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        (sender, hold(stream::poll_fn(move |context| receiver.poll_recv(context)), patience, DELAY))
    }

    #[tokio::test]
    async fn a_commit_goes_alone_only_where_nothing_follows() {
        let (sender, mut sent) = held(Duration::from_secs(60));
        let send = |message| sender.send(message).expect("it is read");
        let (entries, commit) = (|number| Message(number, false), |number| Message(number, true));

        send(entries(1));
        assert_eq!(sent.next().await, Some(entries(1)), "entries do not wait");
        send(commit(2));
        send(commit(3));
        send(entries(4));
        assert_eq!(sent.next().await, Some(entries(4)), "it carries the commits before it");
        send(commit(5));
        let later = async {
            sleep(Duration::from_millis(5)).await;
            send(entries(6));
        };
        let (got, ()) = tokio::join!(sent.next(), later);
        assert_eq!(got, Some(entries(6)));
        send(commit(7));
        drop(sender);
        assert_eq!(sent.next().await, Some(commit(7)), "what is held at the end is sent");
        assert_eq!(sent.next().await, None);

        let (sender, mut sent) = held(Duration::from_millis(1));
        sender.send(commit(8)).expect("it is read");
        assert_eq!(sent.next().await, Some(commit(8)), "nothing follows in time");
    }

    #[tokio::test]
    async fn a_heartbeat_goes_after_its_delay_and_nothing_else_does() {
        let all = |messages: Vec<Message>| {
            let (sender, sent) = held(Duration::from_millis(1));
            messages.into_iter().for_each(|message| sender.send(message).expect("it is read"));
            sent
        };
        let began = Instant::now();
        assert_eq!(all(vec![Message(1, true)]).next().await, Some(Message(1, true)));
        assert!(began.elapsed() >= DELAY);
        let mut sent = all(vec![Message(1, false), Message(2, true)]);
        assert_eq!(sent.next().now_or_never(), Some(Some(Message(1, false))));
        assert_eq!(sent.next().now_or_never(), Some(Some(Message(2, true))), "the end of entries");
    }
}
