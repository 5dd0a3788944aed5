//! How targets stand, and why, in words.

use std::sync::{Arc, OnceLock};

use pangolin_core::{
    ClusterState,
    observation::TargetHealth,
    record::{Site, Target},
};
use pangolin_edge::{Edge, Standing, TargetState as EdgeState};
use pangolin_tunnel::checks::Health;
use pangolin_wire::{Standing as Word, TargetState};

use super::checks::Findings;

/// What this node knows of targets.
#[derive(Clone, Default)]
pub struct Targets {
    /// Set once traffic is carried here; a witness carries none.
    edge: Arc<OnceLock<(Edge, Findings)>>,
}

impl Targets {
    /// Traffic is carried from here on.
    pub fn serve(&self, edge: Edge, findings: Findings) {
        // A node has one, once.
        let _ = self.edge.set((edge, findings));
    }

    pub(super) fn state(&self, state: &ClusterState, target: &Target) -> Option<TargetState> {
        let (edge, findings) = self.edge.get()?;
        let (seen, found) = (edge.target_state(target.id), findings.of(target.id));
        let (standing, reason) = judge(target, state.sites().get(&target.site), seen, found);
        Some(TargetState { standing, reason })
    }
}

/// A word for it, and the reason.
fn judge(
    target: &Target,
    site: Option<&Site>,
    seen: Option<EdgeState>,
    found: Option<Health>,
) -> (Word, String) {
    let site_name = site.map_or_else(|| target.site.to_string(), |site| site.nice_id.to_string());
    if !target.enabled {
        return (Word::Disabled, "it is disabled".to_owned());
    }
    if site.is_none_or(|site| !site.enabled) {
        return (Word::Disabled, format!("its site {site_name} is disabled"));
    }
    let Some(EdgeState { standing, health, ejected_for, .. }) = seen else {
        let reason = "nothing leads to it: its resource is disabled, or has no port that goes to this method";
        return (Word::Unknown, reason.to_owned());
    };
    match standing {
        Standing::Healthy if found.is_some() => (Word::Healthy, "this node's health checks pass".to_owned()),
        Standing::Healthy => (Word::Healthy, "its health checks pass".to_owned()),
        Standing::Unknown if target.health_check.is_none() => {
            (Word::Unknown, "it has no health check".to_owned())
        }
        Standing::Unknown => (Word::Unknown, "no health check has ended yet".to_owned()),
        Standing::Unreachable => {
            (Word::Unreachable, format!("no node has a live tunnel to site {site_name}"))
        }
        Standing::Unhealthy if health == TargetHealth::Unhealthy => {
            let reason = found.filter(|found| !found.error.is_empty()).map_or_else(
                || "its health checks fail".to_owned(),
                |found| format!("this node's health checks fail: {}", found.error),
            );
            (Word::Unhealthy, reason)
        }
        Standing::Unhealthy => {
            let seconds = ejected_for.map_or(0, |left| left.as_secs() + 1);
            let reason = format!(
                "connections from this node to it failed: it gets nothing for {seconds} s while there are others"
            );
            (Word::Unhealthy, reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pangolin_core::{
        ResourceId, SiteId, TargetId, Timestamp,
        record::{Digest, HealthCheck, Method},
    };

    use super::*;

    fn site(enabled: bool) -> Site {
        Site {
            id: SiteId(1),
            org: "lab".parse().expect("a short name"),
            nice_id: "home".parse().expect("a short name"),
            name: "Home".to_owned(),
            connector_id: "abcdefghijklmno".to_owned(),
            connector_secret: Digest([0; 32]),
            address: [100, 90, 1, 0].into(),
            enabled,
            config_version: 1,
            created_at: Timestamp(0),
        }
    }

    fn target(enabled: bool, checked: bool) -> Target {
        let check = HealthCheck { path: None, interval: 1, timeout: 1, unhealthy_threshold: 1 };
        Target {
            id: TargetId(2),
            resource: ResourceId(3),
            site: SiteId(1),
            method: Method::Http,
            host: "10.0.0.1".to_owned(),
            port: 80,
            tunnel_port: 40_000,
            enabled,
            health_check: checked.then_some(check),
        }
    }

    #[test]
    fn each_state_has_its_reason() {
        let seen = |standing, health, ejected: Option<u64>| {
            let ejected_for = ejected.map(Duration::from_secs);
            Some(EdgeState { standing, health, ejected_for, running: 0 })
        };
        let (sound, checked) = (site(true), target(true, true));
        let unknown = seen(Standing::Unknown, TargetHealth::Unknown, None);
        for (target, site, seen, word, reason) in [
            (&target(false, true), Some(&sound), unknown, Word::Disabled, "it is disabled"),
            (&checked, Some(&site(false)), unknown, Word::Disabled, "site home is disabled"),
            (&checked, Some(&sound), None, Word::Unknown, "nothing leads to it"),
            (&checked, Some(&sound), unknown, Word::Unknown, "no health check has ended"),
            (&target(true, false), Some(&sound), unknown, Word::Unknown, "no health check"),
            (
                &checked,
                Some(&sound),
                seen(Standing::Healthy, TargetHealth::Healthy, None),
                Word::Healthy,
                "checks pass",
            ),
            (
                &checked,
                Some(&sound),
                seen(Standing::Unreachable, TargetHealth::Healthy, None),
                Word::Unreachable,
                "live tunnel to site home",
            ),
            (
                &checked,
                Some(&sound),
                seen(Standing::Unhealthy, TargetHealth::Unhealthy, None),
                Word::Unhealthy,
                "checks fail",
            ),
            (
                &checked,
                Some(&sound),
                seen(Standing::Unhealthy, TargetHealth::Healthy, Some(4)),
                Word::Unhealthy,
                "for 5 s",
            ),
        ] {
            let (found, text) = judge(target, site, seen, None);
            assert_eq!(found, word, "{text}");
            assert!(text.contains(reason), "{text:?} does not say {reason:?}");
        }
        // What this node has found itself it knows more of.
        let found =
            |verdict, error: &str| Some(Health { verdict, error: error.to_owned(), ..Health::default() });
        for (standing, health, error, expected) in [
            (Standing::Healthy, TargetHealth::Healthy, "", "this node's health checks pass"),
            (
                Standing::Unhealthy,
                TargetHealth::Unhealthy,
                "answered 500",
                "this node's health checks fail: answered 500",
            ),
        ] {
            let (_, text) = judge(&checked, Some(&sound), seen(standing, health, None), found(health, error));
            assert_eq!(text, expected);
        }
    }
}
