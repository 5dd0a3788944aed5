//! The requests that have been answered: a repeat gets the first answer and is not done twice.

use std::time::Duration;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::{
    id::{ClientId, RequestId, Revision},
    outcome::Outcome,
    time::Timestamp,
};

/// How long an answer is remembered, in log time.
pub const REQUEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// How many answers are remembered; beyond it the oldest go first.
pub const REQUESTS_MAX: usize = 65_536;

/// Answers by request, and the order in which they are forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Requests {
    answers: OrdMap<RequestId, (Timestamp, Revision, Outcome)>,
    by_age: OrdSet<(Timestamp, RequestId)>,
    /// Highest forgotten serial of clients that are still remembered.
    forgotten: OrdMap<ClientId, u64>,
}

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    pub(super) fn recall(&self, request: RequestId) -> Option<(Revision, Outcome)> {
        self.answers.get(&request).map(|(_, revision, outcome)| (*revision, outcome.clone()))
    }

    /// Whether the answer has been forgotten while later ones of the same client are still known.
    pub(super) fn has_forgotten(&self, request: RequestId) -> bool {
        self.forgotten.get(&request.client).is_some_and(|serial| request.serial <= *serial)
    }

    pub(super) fn remember(
        &mut self,
        request: RequestId,
        now: Timestamp,
        revision: Revision,
        outcome: Outcome,
    ) {
        self.answers.insert(request, (now, revision, outcome));
        self.by_age.insert((now, request));
        while let Some((at, oldest)) = self.by_age.get_min().copied() {
            if self.answers.len() <= REQUESTS_MAX && now.since(at) <= REQUEST_LIFETIME {
                break;
            }
            self.forget(at, oldest);
        }
    }

    fn forget(&mut self, at: Timestamp, request: RequestId) {
        self.by_age.remove(&(at, request));
        self.answers.remove(&request);
        let first = RequestId { client: request.client, serial: 0 };
        let last = RequestId { client: request.client, serial: u64::MAX };
        if self.answers.range(first..=last).next().is_some() {
            let highest = self.forgotten.get(&request.client).copied().unwrap_or(0).max(request.serial);
            self.forgotten.insert(request.client, highest);
        } else {
            self.forgotten.remove(&request.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(client: u8, serial: u64) -> RequestId {
        RequestId { client: ClientId([client; 16]), serial }
    }

    #[test]
    fn answers_are_forgotten_after_their_time_and_the_client_is_told() {
        let mut requests = Requests::default();
        let late = Timestamp(1) + REQUEST_LIFETIME;
        requests.remember(request(1, 1), Timestamp(0), Revision::default(), Outcome::Done(None));
        requests.remember(request(1, 2), Timestamp(1), Revision::default(), Outcome::Done(None));
        requests.remember(request(2, 1), late, Revision::default(), Outcome::Done(None));
        assert_eq!(requests.recall(request(1, 1)), None);
        assert!(requests.has_forgotten(request(1, 1)));
        assert!(requests.recall(request(1, 2)).is_some());
    }

    #[test]
    fn nothing_is_kept_of_a_client_that_is_forgotten_altogether() {
        let mut requests = Requests::default();
        requests.remember(request(1, 1), Timestamp(0), Revision::default(), Outcome::Done(None));
        let late = Timestamp(1) + REQUEST_LIFETIME;
        requests.remember(request(2, 1), late, Revision::default(), Outcome::Done(None));
        assert_eq!(requests.len(), 1);
        assert!(requests.forgotten.is_empty());
    }
}
