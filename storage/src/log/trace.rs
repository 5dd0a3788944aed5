//! What the log does to its files, in order, as seen by the tests that let the power fail between any two steps.

use std::{cell::RefCell, path::Path};

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A file of zeros has this name; its content is durable, its name is not.
    Made { name: String, size: usize },
    /// Bytes are handed to the system.
    Written { name: String, at: usize, bytes: Vec<u8> },
    /// A file has another name, but not durably.
    Renamed { from: String, to: String },
    /// All that was written to a file is durable.
    Synced { name: String },
    /// A name is gone, but not durably.
    Removed { name: String },
    /// All names are durable.
    NamesSynced,
}

thread_local! {
    static STEPS: RefCell<Option<Vec<Step>>> = const { RefCell::new(None) };
}

/// From now on the steps of this thread are kept.
pub(super) fn begin() {
    STEPS.set(Some(Vec::new()));
}

/// How many there are.
pub(super) fn len() -> usize {
    STEPS.with_borrow(|steps| steps.as_ref().map_or(0, Vec::len))
}

/// The steps since [`begin`]; no more are kept.
pub(super) fn end() -> Vec<Step> {
    STEPS.take().unwrap_or_default()
}

fn note(step: impl FnOnce() -> Step) {
    STEPS.with_borrow_mut(|steps| {
        if let Some(steps) = steps {
            steps.push(step());
        }
    });
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

pub(super) fn made(path: &Path, size: u64) {
    note(|| Step::Made { name: name(path), size: usize::try_from(size).unwrap_or(usize::MAX) });
}

pub(super) fn written(path: &Path, at: u64, bytes: &[u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    note(|| Step::Written { name: name(path), at, bytes: bytes.to_vec() });
}

pub(super) fn synced(path: &Path) {
    note(|| Step::Synced { name: name(path) });
}

pub(super) fn renamed(from: &Path, to: &Path) {
    note(|| Step::Renamed { from: name(from), to: name(to) });
}

pub(super) fn removed(path: &Path) {
    note(|| Step::Removed { name: name(path) });
}

pub(super) fn names_synced() {
    note(|| Step::NamesSynced);
}
