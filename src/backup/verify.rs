//! Whether what lies in a place can be restored.

use pangolin_peer::identity::Keyring;
use pangolin_storage::backup::{Header, Key, Place, Point, chain};

use super::{BackupError, files_in, past::read_segment, past::read_state, past::replay};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) states: usize,
    pub(super) segments: usize,
    /// Pairs of neighbouring states between which the archived log leads from the one to the other, byte for byte.
    pub(super) joined: usize,
    pub(super) problems: Vec<String>,
}

/// Decrypts and decodes every file, and replays the archived log from each state to the next one. Blocks.
pub(super) fn verify(place: &Place, keyring: &Keyring) -> Result<Report, BackupError> {
    let mut report = Report::default();
    let key = Key::Keyring(keyring);
    for file in place.list()? {
        let result = match &file.header {
            Err(found) => Err(format!("{}: {found}", file.name)),
            Ok(header) if header.is_state() => {
                report.states += 1;
                read_state(place, &file.name, key).map(drop).map_err(|error| error.to_string())
            }
            Ok(_) => {
                report.segments += 1;
                read_segment(place, &file.name, key).map(drop).map_err(|error| error.to_string())
            }
        };
        report.problems.extend(result.err());
    }
    if report.problems.is_empty() {
        join(place, key, &mut report)?;
    }
    Ok(report)
}

fn join(place: &Place, key: Key<'_>, report: &mut Report) -> Result<(), BackupError> {
    let files = files_in(place, None)?;
    let mut states: Vec<&(String, Header)> = files.iter().filter(|(_, header)| header.is_state()).collect();
    states.sort_by_key(|(_, header)| (header.cluster, header.revision));
    for pair in states.windows(2) {
        let [(from, one), (to, other)] = pair else { continue };
        if one.cluster != other.cluster || one.revision.lineage != other.revision.lineage {
            continue;
        }
        // Without the later state there is no other way than through the log.
        let way: Vec<&(String, Header)> = files
            .iter()
            .filter(|(name, header)| name == from || (header.cluster == one.cluster && !header.is_state()))
            .collect();
        let headers: Vec<Header> = way.iter().map(|(_, header)| header.clone()).collect();
        let point = Point::Revision(other.revision);
        let Ok(found) = chain(&headers, point) else {
            // A gap: both states stand for themselves.
            continue;
        };
        let (mut state, _) = read_state(place, from, key)?;
        for position in found.segments {
            if replay(&mut state, read_segment(place, &way[position].0, key)?, point)? {
                break;
            }
        }
        let (expected, _) = read_state(place, to, key)?;
        if state == expected {
            report.joined += 1;
        } else {
            report.problems.push(format!("the archived log does not lead from {from} to {to}"));
        }
    }
    Ok(())
}
