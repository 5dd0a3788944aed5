//! The newest entries in memory: what followers that keep up, and `apply`, read.

use std::collections::BTreeMap;

use super::Entry;

/// Bytes of entries kept in memory; older ones are read from disk.
const CACHE_BYTES: usize = 2 * 1024 * 1024;
/// Entries kept in memory: small ones have an overhead of their own.
const CACHE_ENTRIES: usize = 4096;

/// A run of entries without a gap, up to the last one of the log.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: BTreeMap<u64, Entry>,
    bytes: usize,
}

impl Cache {
    pub(crate) fn push(&mut self, entry: Entry) {
        self.bytes += entry.body.len();
        self.entries.insert(entry.id.index, entry);
        while self.bytes > CACHE_BYTES || self.entries.len() > CACHE_ENTRIES {
            if self.entries.len() == 1 {
                return;
            }
            let Some((_, oldest)) = self.entries.pop_first() else { return };
            self.bytes -= oldest.body.len();
        }
    }

    /// Index of the oldest entry that is here.
    pub(crate) fn first(&self) -> Option<u64> {
        self.entries.keys().next().copied()
    }

    pub(crate) fn range(&self, from: u64, to: u64) -> impl Iterator<Item = &Entry> {
        self.entries.range(from..to.max(from)).map(|(_, entry)| entry)
    }

    pub(crate) fn truncate(&mut self, from: u64) {
        let removed = self.entries.split_off(&from);
        self.bytes -= removed.values().map(|entry| entry.body.len()).sum::<usize>();
    }

    pub(crate) fn purge(&mut self, upto: u64) {
        let kept = self.entries.split_off(&upto.saturating_add(1));
        let removed = std::mem::replace(&mut self.entries, kept);
        self.bytes -= removed.values().map(|entry| entry.body.len()).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogId;

    fn entry(index: u64, size: usize) -> Entry {
        Entry { id: LogId { index, ..LogId::default() }, body: vec![0; size].into() }
    }

    #[test]
    fn the_cache_keeps_the_newest_entries_within_its_bounds() {
        let mut cache = Cache::default();
        for index in 0..10 {
            cache.push(entry(index, CACHE_BYTES / 4));
        }
        assert_eq!((cache.first(), cache.entries.len()), (Some(6), 4));
        cache.push(entry(10, 2 * CACHE_BYTES));
        assert_eq!((cache.first(), cache.entries.len()), (Some(10), 1));
        cache.truncate(0);
        assert_eq!((cache.first(), cache.bytes), (None, 0));
        (0..2 * CACHE_ENTRIES as u64).for_each(|index| cache.push(entry(index, 1)));
        cache.purge(CACHE_ENTRIES as u64 + 9);
        assert_eq!(cache.first(), Some(CACHE_ENTRIES as u64 + 10));
        assert_eq!(cache.bytes, cache.entries.len());
    }
}
