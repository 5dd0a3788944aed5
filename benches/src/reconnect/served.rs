//! From when on visitors are answered. Pure.

use std::time::Instant;

use pangolin_chaos::prober::Probe;

/// Answers in a row, one every [`pangolin_chaos::prober::INTERVAL`], that a node has to give before it counts as serving:
/// half a second of them.
const STREAK: usize = 10;

/// Whether the last requests that were finished were all answered.
pub(super) fn serves(probes: &[Probe]) -> bool {
    let last = probes.iter().rev().take(STREAK);
    last.clone().count() == STREAK && last.into_iter().all(|probe| probe.result.is_ok())
}

/// When the first of those requests was answered after which none failed; none if the last one failed.
pub(super) fn served_since(probes: &[Probe]) -> Option<Instant> {
    let failed = probes.iter().filter(|probe| probe.result.is_err()).map(|probe| probe.sent).max();
    let good = probes.iter().filter(|probe| failed.is_none_or(|failed| probe.sent > failed));
    good.map(|probe| probe.sent + probe.took).min()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// When a request was sent and how long it took, in milliseconds, and whether it was answered.
    type Asked = (u64, u64, bool);

    fn series(began: Instant, probes: &[Asked]) -> Vec<Probe> {
        let ms = Duration::from_millis;
        let probe = |(sent, took, good): &Asked| Probe {
            sent: began + ms(*sent),
            took: ms(*took),
            result: if *good { Ok(None) } else { Err("status 502".to_owned()) },
        };
        probes.iter().map(probe).collect()
    }

    #[test]
    fn a_site_is_back_with_the_first_answer_after_the_last_failure() {
        let began = Instant::now();
        let cases: [(&str, &[Asked], Option<u64>); 6] = [
            ("nothing asked", &[], None),
            ("answered at once", &[(0, 4, true), (50, 3, true)], Some(4)),
            ("failed at first", &[(0, 4, false), (50, 3, true), (100, 3, true)], Some(53)),
            ("failed in between", &[(0, 4, true), (50, 3, false), (100, 3, true)], Some(103)),
            ("a slow one is overtaken", &[(0, 900, true), (50, 3, true)], Some(53)),
            ("failed at last", &[(0, 4, true), (50, 3, false)], None),
        ];
        for (name, probes, expected) in cases {
            let since = served_since(&series(began, probes));
            assert_eq!(since, expected.map(|ms| began + Duration::from_millis(ms)), "{name}");
        }
    }

    #[test]
    fn a_node_serves_after_ten_answers_in_a_row() {
        let began = Instant::now();
        let mut probes = vec![(0, 4, false)];
        probes.extend((1..=10).map(|number| (number * 50, 3, true)));
        assert!(serves(&series(began, &probes)));
        assert!(!serves(&series(began, &probes[..10])), "nine");
        probes.push((600, 3, false));
        assert!(!serves(&series(began, &probes)));
    }
}
