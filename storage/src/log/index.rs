//! What the records of a log add up to: where it stands, and where each entry is.

use std::collections::VecDeque;

use super::{Entry, LogId, LogState, record::Record};

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Term of the entry.
    pub(super) term: u64,
    /// Where its record begins, counted from the beginning of the log.
    pub(super) at: u64,
    /// Bytes of the record.
    pub(super) len: usize,
}

/// Where a log stands, and its entries. Follows the records one by one: those that are written, and those that are
/// found at a start.
#[derive(Debug, Default)]
pub(super) struct Index {
    state: LogState,
    /// Index of the first entry in `places`.
    first: u64,
    /// Entries below this one stood in files that are gone.
    gone: u64,
    places: VecDeque<Place>,
}

impl Index {
    pub(super) fn state(&self) -> LogState {
        self.state
    }

    /// Begins with the first record of the oldest file: what it says stands in files that are gone.
    pub(super) fn begin(state: LogState) -> Self {
        Self { state, first: state.next_index(), gone: state.next_index(), places: VecDeque::new() }
    }

    /// Takes a record that stands there. The error says why it cannot follow the others; nothing has changed then.
    pub(super) fn take(&mut self, record: &Record, at: u64, len: usize) -> Result<(), String> {
        match record {
            Record::Opened(state) if *state == self.state => Ok(()),
            Record::Opened(state) => Err(format!(
                "a file begins where the log stands at {state:?}, but it stands at {:?}",
                self.state
            )),
            Record::Append(entry) => self.append(entry, at, len),
            Record::Truncate(keep) => {
                self.truncate(*keep);
                Ok(())
            }
            Record::Purge(id) => {
                self.purge(*id);
                Ok(())
            }
            Record::Vote(vote) => {
                self.state.vote = Some(*vote);
                Ok(())
            }
            Record::Committed(id) => {
                self.state.committed = Some(*id);
                Ok(())
            }
        }
    }

    fn append(&mut self, entry: &Entry, at: u64, len: usize) -> Result<(), String> {
        let id = entry.id;
        // The first entry of all says where the log begins.
        if let Some(last) = self.state.last {
            if id.index != last.index + 1 {
                return Err(format!("entry {id} stands where entry {} belongs", last.index + 1));
            }
            if id.term < last.term {
                return Err(format!("entry {id} follows one of term {}", last.term));
            }
        }
        if self.places.is_empty() {
            self.first = id.index;
        }
        self.places.push_back(Place { term: id.term, at, len });
        self.state.last = Some(id);
        Ok(())
    }

    fn truncate(&mut self, keep: Option<LogId>) {
        let next = keep.map_or(0, |id| id.index + 1).max(self.state.first_index());
        let kept = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.places.truncate(kept);
        if self.places.is_empty() {
            self.first = self.first.min(next);
        }
        self.gone = self.gone.min(next);
        self.state.last = if next == self.state.first_index() { self.state.purged } else { keep };
    }

    fn purge(&mut self, id: LogId) {
        if self.state.purged.is_none_or(|purged| purged.index < id.index) {
            self.state.purged = Some(id);
        }
        while self.first < self.state.first_index() && self.places.pop_front().is_some() {
            self.first += 1;
        }
        if self.state.next_index() <= id.index {
            self.state.last = Some(id);
        }
        if self.places.is_empty() {
            self.first = self.state.next_index();
        }
    }

    /// Id of the entry under an index that is there, or of the last one that was purged.
    pub(super) fn id(&self, index: u64) -> Option<LogId> {
        match self.place(index) {
            Some(place) => Some(LogId { term: place.term, index }),
            None => self.state.purged.filter(|id| id.index == index),
        }
    }

    /// Where the entry under this index is.
    pub(super) fn place(&self, index: u64) -> Option<Place> {
        let nth = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.places.get(nth).copied()
    }

    /// Where the oldest entry is.
    pub(super) fn oldest(&self) -> Option<Place> {
        self.places.front().copied()
    }

    /// Whether all records together, each intact, make up a log. The error says what does not fit.
    pub(super) fn check(&self) -> Result<(), String> {
        let LogState { vote, committed, last, .. } = self.state;
        let first = self.state.first_index();
        if self.gone > first {
            return Err(format!("the log has a gap: entries {first} to {} are missing", self.gone - 1));
        }
        if let (Some(committed), Some(last)) = (committed, last)
            && committed.index > last.index
        {
            return Err(format!("the log ends at {last}, but {committed} was committed"));
        }
        let voted = vote.map_or(0, |vote| vote.term);
        match last {
            Some(last) if last.term > voted => {
                Err(format!("the log ends at {last}, but the last vote is of term {voted}"))
            }
            _ => Ok(()),
        }
    }
}
