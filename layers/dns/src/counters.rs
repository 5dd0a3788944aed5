//! What the server has done since it was bound.

use std::sync::atomic::{AtomicU64, Ordering};

use domain::base::iana::OptRcode;

use crate::Answered;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the server has done since it was bound.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct DnsCounters {
            $($(#[$doc])* pub $name: u64,)*
            /// TCP connections open now.
            pub tcp_open: u64,
        }

        /// Counted by one thread for a while, so that threads do not fight over the shared counters.
        #[derive(Default)]
        pub(crate) struct Tally {
            $(pub(crate) $name: u64,)*
        }

        #[derive(Default)]
        pub(crate) struct Counters {
            $($name: AtomicU64,)*
            pub(crate) tcp_open: AtomicU64,
        }

        impl Counters {
            /// Adds a tally and empties it.
            pub(crate) fn add(&self, tally: &mut Tally) {
                $(if tally.$name != 0 {
                    self.$name.fetch_add(tally.$name, Ordering::Relaxed);
                    tally.$name = 0;
                })*
            }

            pub(crate) fn snapshot(&self) -> DnsCounters {
                DnsCounters {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    tcp_open: self.tcp_open.load(Ordering::Relaxed),
                }
            }
        }
    };
}

counters! {
    /// Datagrams received.
    udp_queries,
    /// Messages received by TCP.
    tcp_queries,
    /// Answers with data, and answers that a name has no data of the type.
    noerror,
    /// Answers that a name does not exist.
    nxdomain,
    /// Answers that something is wrong here: no state yet, a record set without wire form, no contact to the leader.
    servfail,
    /// Answers to questions about zones that are not ours.
    refused,
    /// Answers to malformed messages.
    formerr,
    /// Answers to operations and types that are not offered.
    notimp,
    /// Answers to clients of another EDNS version.
    badvers,
    /// Messages without answer: too short, too long, or replies.
    dropped,
    /// Answers by UDP that did not fit, so that the client comes back by TCP.
    truncated,
    /// Answers beyond the rate limit that were not sent.
    limited,
    /// Answers beyond the rate limit that were sent empty and truncated.
    slipped,
    /// Answers that the system did not take for sending.
    send_failures,
    /// TCP connections accepted.
    tcp_connections,
    /// TCP connections closed at once because of a limit.
    tcp_refused,
    /// TCP connections ended because of a time limit, the limit of queries, or what the client sent.
    tcp_cut,
}

impl Tally {
    /// Counts an answer by its code.
    pub(crate) fn answered(&mut self, answered: &Answered) {
        self.truncated += u64::from(answered.truncated);
        let counter = match answered.rcode {
            OptRcode::NOERROR => &mut self.noerror,
            OptRcode::NXDOMAIN => &mut self.nxdomain,
            OptRcode::REFUSED => &mut self.refused,
            OptRcode::FORMERR => &mut self.formerr,
            OptRcode::NOTIMP => &mut self.notimp,
            OptRcode::BADVERS => &mut self.badvers,
            // No other code is ever answered.
            _ => &mut self.servfail,
        };
        *counter += 1;
    }
}
