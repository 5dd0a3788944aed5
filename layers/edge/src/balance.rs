//! Which target gets a request.

use pangolin_core::observation::TargetHealth;

/// The index of the target whose turn it is: among those that have not failed for this request, if any, the
/// healthy ones before the unknown ones before the unhealthy ones, and among equals by `turn`. A choice is made
/// whatever the checks say; none only if there is no target.
pub(crate) fn choose(
    count: usize,
    health: impl Fn(usize) -> TargetHealth,
    failed: &[usize],
    turn: usize,
) -> Option<usize> {
    let rank = |index: usize| (failed.contains(&index), health(index));
    let best = (0..count).map(rank).min()?;
    let equals = (0..count).filter(|&index| rank(index) == best).count();
    (0..count).filter(|&index| rank(index) == best).nth(turn % equals)
}

#[cfg(test)]
mod tests {
    use TargetHealth::{Healthy, Unhealthy, Unknown};

    use super::*;

    fn turns(health: &[TargetHealth], failed: &[usize]) -> Vec<usize> {
        (0..4).filter_map(|turn| choose(health.len(), |i| health[i], failed, turn)).collect()
    }

    #[test]
    fn targets_take_turns_within_the_best_health() {
        for (health, failed, expected) in [
            (&[Healthy, Healthy][..], &[][..], &[0, 1, 0, 1][..]),
            (&[Unknown, Healthy], &[], &[1, 1, 1, 1]),
            (&[Unhealthy, Unknown, Unknown], &[], &[1, 2, 1, 2]),
            (&[Unhealthy, Unhealthy], &[], &[0, 1, 0, 1]),
            (&[Healthy, Unhealthy], &[0], &[1, 1, 1, 1]),
            (&[Healthy, Unhealthy], &[0, 1], &[0, 0, 0, 0]),
            (&[], &[], &[]),
        ] {
            assert_eq!(turns(health, failed), expected, "{health:?} without {failed:?}");
        }
    }
}
