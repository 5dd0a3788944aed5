//! Which files lead to a point in the past.

use pangolin_core::{Revision, Timestamp};

use super::{Header, Kind};

/// Where a restore goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// As far as the files go.
    Latest,
    /// This entry of the log.
    Revision(Revision),
    /// The last entry at or before this log time.
    Time(Timestamp),
}

/// The files that lead to a point, as positions in the list that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The state to begin with.
    pub base: usize,
    /// The segments behind it, in order. The first one may begin before the state, the last one go on behind the
    /// point.
    pub segments: Vec<usize>,
}

/// Finds the files that lead to a point: the newest state that is not behind it, and the segments from there on,
/// without a gap. Pure.
///
/// # Errors
/// Why the files do not lead there, and how far they go.
pub fn chain(files: &[Header], point: Point) -> Result<Chain, String> {
    let lineage = match point {
        Point::Revision(revision) => Some(revision.lineage),
        _ => None,
    };
    let fits = |header: &Header| match point {
        Point::Latest => true,
        Point::Revision(wanted) => header.revision.lineage == wanted.lineage && header.revision <= wanted,
        Point::Time(wanted) => header.time <= wanted,
    };
    let states = files.iter().enumerate().filter(|(_, header)| header.is_state());
    let base = states.filter(|(_, header)| fits(header)).max_by_key(|(_, header)| header.revision);
    let Some((base, start)) = base else {
        let first = files.iter().filter(|header| header.is_state()).min_by_key(|header| header.revision);
        return Err(match (first, lineage) {
            (None, _) => "there is no backup of the whole state".to_owned(),
            (Some(first), Some(lineage)) if lineage > first.revision.lineage => {
                format!("there is no backup of lineage {lineage}")
            }
            (Some(first), _) => format!(
                "the oldest backup is of revision {}, which is after the point asked for",
                first.revision
            ),
        });
    };
    let mut segments: Vec<(usize, &Header, u64)> = files
        .iter()
        .enumerate()
        .filter_map(|(position, header)| match header.kind {
            Kind::Log { first } if header.revision.lineage == start.revision.lineage => {
                Some((position, header, first))
            }
            _ => None,
        })
        .collect();
    // Of two that begin alike the longer one counts.
    segments.sort_by_key(|(_, header, first)| (*first, std::cmp::Reverse(header.revision)));
    let (mut reached, mut time, mut chosen) = (start.revision.index, start.time, Vec::new());
    for (position, header, first) in segments {
        let done = match point {
            Point::Latest => false,
            Point::Revision(wanted) => reached >= wanted.index,
            Point::Time(wanted) => time > wanted,
        };
        if done || first > reached + 1 {
            break;
        }
        if header.revision.index > reached {
            (reached, time) = (header.revision.index, header.time);
            chosen.push(position);
        }
    }
    let beyond = match point {
        Point::Latest => false,
        Point::Revision(wanted) => reached < wanted.index,
        // Where something follows behind a gap, nobody knows how many of the missing entries belong to the point.
        Point::Time(wanted) => time <= wanted && gap(files, start.revision.lineage, reached).is_some(),
    };
    if !beyond {
        return Ok(Chain { base, segments: chosen });
    }
    let up_to = Revision { index: reached, ..start.revision };
    Err(match gap(files, start.revision.lineage, reached) {
        Some((first, last)) => format!(
            "the archived log has a gap: entries {first} to {last} of lineage {} are missing, and the point asked for \
             lies in or behind it; the backups lead up to revision {up_to}, and from a later backup of the whole \
             state on",
            up_to.lineage
        ),
        None => format!("the backups lead up to revision {up_to} only"),
    })
}

/// The entries that are missing behind one, up to the next that are there.
fn gap(files: &[Header], lineage: u64, reached: u64) -> Option<(u64, u64)> {
    let later = files.iter().filter(|file| file.revision.lineage == lineage && file.revision.index > reached);
    let last = later.map(|file| match file.kind {
        Kind::State { .. } => file.revision.index,
        Kind::Log { first } => first.saturating_sub(1),
    });
    last.min().filter(|last| *last > reached).map(|last| (reached + 1, last))
}

#[cfg(test)]
mod tests {
    use pangolin_core::{
        id::{ClusterId, NodeId},
        record::Digest,
    };

    use super::*;

    /// Log time is ten times the index here.
    fn header(lineage: u64, kind: Kind, index: u64) -> Header {
        Header {
            kind,
            cluster: ClusterId([1; 16]),
            name: "lab".parse().expect("a name"),
            revision: Revision { lineage, index },
            time: Timestamp(index * 10),
            made_at: Timestamp(0),
            made_by: NodeId(1),
            version: "0.1.0".into(),
        }
    }

    fn state(lineage: u64, index: u64) -> Header {
        header(lineage, Kind::State { digest: Digest([0; 32]) }, index)
    }

    fn log(lineage: u64, first: u64, last: u64) -> Header {
        header(lineage, Kind::Log { first }, last)
    }

    #[test]
    fn the_newest_state_before_the_point_and_the_segments_behind_it_are_chosen() {
        let files = [
            state(1, 10),
            log(1, 11, 20),
            log(1, 21, 30),
            state(1, 25),
            log(1, 31, 40),
            log(1, 45, 50),
            state(1, 44),
            state(2, 1_000_000),
            log(2, 1_000_001, 1_000_005),
        ];
        let at = |index| Point::Revision(Revision { lineage: 1, index });
        let found = |base, segments: &[usize]| Ok(Chain { base, segments: segments.to_vec() });
        assert_eq!(chain(&files, at(10)), found(0, &[]));
        assert_eq!(chain(&files, at(15)), found(0, &[1]));
        assert_eq!(chain(&files, at(24)), found(0, &[1, 2]));
        assert_eq!(chain(&files, at(25)), found(3, &[]));
        assert_eq!(chain(&files, at(40)), found(3, &[2, 4]));
        assert_eq!(chain(&files, at(50)), found(6, &[5]));
        assert_eq!(chain(&files, Point::Latest), found(7, &[8]));
        assert_eq!(chain(&files, Point::Time(Timestamp(155))), found(0, &[1]));
        assert_eq!(chain(&files, Point::Time(Timestamp(445))), found(6, &[5]));
        assert_eq!(chain(&files, Point::Time(Timestamp(399))), found(3, &[2, 4]));
        for (point, word) in [
            (at(9), "oldest backup is of revision 1.10"),
            (at(43), "entries 41 to 44 of lineage 1 are missing"),
            (Point::Time(Timestamp(435)), "entries 41 to 44 of lineage 1 are missing"),
            (at(99), "up to revision 1.50 only"),
            (Point::Revision(Revision { lineage: 3, index: 1 }), "no backup of lineage 3"),
            (Point::Time(Timestamp(50)), "oldest"),
        ] {
            let error = chain(&files, point).expect_err("no way there");
            assert!(error.contains(word), "{point:?}: {error}");
        }
        assert!(chain(&[log(1, 1, 5)], Point::Latest).expect_err("no state").contains("no backup"));
    }

    #[test]
    fn of_two_segments_that_begin_alike_the_longer_one_counts() {
        let files = [state(1, 10), log(1, 11, 12), log(1, 11, 20)];
        assert_eq!(chain(&files, Point::Latest), Ok(Chain { base: 0, segments: vec![2] }));
    }
}
