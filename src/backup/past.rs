//! The state at a point in the past, from the files of one place.

use pangolin_core::{ClusterId, ClusterState, Revision};
use pangolin_peer::identity::Keyring;
use pangolin_raft::offline;
use pangolin_storage::{
    StorageError,
    backup::{self, Header, Key, Opened, Place, Point, Segment, chain},
};
use pangolin_wire::Moment;

use super::BackupError;

/// A state of the past.
#[derive(Debug)]
pub struct Past {
    /// The state.
    pub state: ClusterState,
    /// The keyring of then, where the recovery key opened the backup.
    pub keyring: Option<Keyring>,
    /// The files that it was made from.
    pub files: Vec<String>,
}

/// The files of a place that can be read, with their headers; of one cluster alone where it is given. Blocks.
///
/// # Errors
/// The place cannot be read.
pub fn files_in(place: &Place, cluster: Option<ClusterId>) -> Result<Vec<(String, Header)>, BackupError> {
    let files = place.list()?.into_iter().filter_map(|file| Some((file.name, file.header.ok()?)));
    Ok(files.filter(|(_, header)| cluster.is_none_or(|cluster| cluster == header.cluster)).collect())
}

/// What an operator means by a point: an index of this lineage, `LINEAGE.INDEX`, or a time.
///
/// # Errors
/// It is none of these.
pub fn point_of(text: &str, lineage: u64) -> Result<Point, BackupError> {
    if let Ok(index) = text.parse() {
        return Ok(Point::Revision(Revision { lineage, index }));
    }
    if let Ok(revision) = text.parse() {
        return Ok(Point::Revision(revision));
    }
    text.parse::<Moment>()
        .map(|moment| Point::Time(moment.0))
        .map_err(|_| BackupError::Point(text.chars().take(40).collect()))
}

fn read(place: &Place, name: &str, key: Key<'_>) -> Result<(Opened, Option<Keyring>), BackupError> {
    let bytes = place.read(name)?;
    let opened = backup::open(&bytes, key);
    let (_, opened, keyring) =
        opened.map_err(|found| StorageError::Backup { name: name.to_owned(), found })?;
    Ok((opened, keyring))
}

pub(super) fn read_state(
    place: &Place,
    name: &str,
    key: Key<'_>,
) -> Result<(ClusterState, Option<Keyring>), BackupError> {
    match read(place, name, key)? {
        (Opened::State(state), keyring) => Ok((*state, keyring)),
        (Opened::Log(_), _) => Err(mistaken(name, "a segment of the log, not a state")),
    }
}

pub(super) fn read_segment(place: &Place, name: &str, key: Key<'_>) -> Result<Segment, BackupError> {
    match read(place, name, key)? {
        (Opened::Log(segment), _) => Ok(segment),
        (Opened::State(_), _) => Err(mistaken(name, "a state, not a segment of the log")),
    }
}

fn mistaken(name: &str, what: &str) -> BackupError {
    StorageError::Backup { name: name.to_owned(), found: format!("it holds {what}") }.into()
}

/// Applies the entries of a segment that lie behind the state, up to the point. True once the point is reached.
pub(super) fn replay(state: &mut ClusterState, segment: Segment, point: Point) -> Result<bool, BackupError> {
    for entry in segment.into_entries() {
        let index = entry.id.index;
        if index <= state.revision().index {
            continue;
        }
        let beyond = match point {
            Point::Latest => false,
            Point::Revision(wanted) => index > wanted.index,
            Point::Time(wanted) => offline::time_of(&entry)?.is_some_and(|at| at.max(state.time()) > wanted),
        };
        if beyond {
            return Ok(true);
        }
        offline::replay(state, &entry)?;
    }
    Ok(false)
}

/// The state at a point. Blocks.
///
/// # Errors
/// The files do not lead there, or one of them cannot be read.
pub fn state_at(
    place: &Place,
    files: &[(String, Header)],
    key: Key<'_>,
    point: Point,
) -> Result<Past, BackupError> {
    let headers: Vec<Header> = files.iter().map(|(_, header)| header.clone()).collect();
    let way = chain(&headers, point).map_err(BackupError::NoWay)?;
    let mut used = vec![files[way.base].0.clone()];
    let (mut state, keyring) = read_state(place, &used[0], key)?;
    for position in way.segments {
        let name = &files[position].0;
        used.push(name.clone());
        if replay(&mut state, read_segment(place, name, key)?, point)? {
            break;
        }
    }
    Ok(Past { state, keyring, files: used })
}

#[cfg(test)]
mod tests {
    use pangolin_core::Timestamp;

    use super::*;

    #[test]
    fn a_point_is_an_index_a_revision_or_a_time() {
        let at = |lineage, index| Point::Revision(Revision { lineage, index });
        for (text, point) in [
            ("912", at(2, 912)),
            ("1.912", at(1, 912)),
            ("2026-11-21T06:49:05Z", Point::Time(Timestamp(1_795_243_745_000))),
        ] {
            assert_eq!(point_of(text, 2).expect("a point"), point);
        }
        for wrong in ["", "yesterday", "1.2.3", "2026-11-21"] {
            assert!(point_of(wrong, 1).is_err(), "{wrong:?}");
        }
    }
}
