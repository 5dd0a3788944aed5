//! One cycle: something happens to the way between a site and its nodes, and it is measured until the site is back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::served::{served_since, serves};
use crate::traffic::{
    lab::Lab,
    visitor::{Visitor, Way},
};

/// Nodes of the cluster, each with a tunnel to the site.
pub(super) const NODES: u8 = 3;
/// How long a site may take to be back; the bound is a part of it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often visitors are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// What happens in a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A node is killed and started again
    NodeRestart,
    /// The site's network is away for so many seconds
    LinkAway(u64),
    /// The site gets another address, and loses the one that it had
    AddressChange,
}

impl Kind {
    /// What happens in a cycle of this number.
    pub(super) fn of(cycle: usize) -> Self {
        match cycle {
            _ if cycle % 250 == 249 => Self::LinkAway(300),
            _ if cycle % 20 == 19 => Self::LinkAway(20),
            _ => match cycle % 4 {
                0 => Self::NodeRestart,
                2 => Self::AddressChange,
                _ => Self::LinkAway(1),
            },
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::NodeRestart => "node restart".to_owned(),
            Self::LinkAway(seconds) => format!("link away for {seconds} s"),
            Self::AddressChange => "address change".to_owned(),
        }
    }
}

/// How long a site took to be back, in seconds from when it could be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Back {
    /// Until visitors of every node were answered, and not failed again.
    pub served: f64,
    /// Until every node said that its own tunnel was alive, and the site had a control socket.
    pub whole: f64,
}

/// One cycle.
///
/// # Errors
/// The site does not come back, or the lab fails.
pub(super) async fn one(lab: &mut Lab, kind: Kind, cycle: usize) -> Result<Back> {
    match kind {
        Kind::NodeRestart => {
            let position = cycle / 4 % usize::from(NODES);
            lab.cluster.nodes[position].kill();
            lab.cluster.nodes[position].start_ready().await?;
        }
        Kind::LinkAway(seconds) => {
            lab.unplug_site()?;
            sleep(Duration::from_secs(seconds)).await;
            lab.plug_site()?;
        }
        Kind::AddressChange => lab.move_site()?,
    }
    let possible = Instant::now();
    let (served, whole) = tokio::try_join!(served(lab, possible), whole(lab, possible))?;
    Ok(Back { served: served.as_secs_f64(), whole: whole.as_secs_f64() })
}

async fn whole(lab: &Lab, possible: Instant) -> Result<Duration> {
    lab.attached(possible + PATIENCE).await.context("the site is not whole again")?;
    Ok(possible.elapsed())
}

/// A visitor at every node begins to ask now, and asks until it is answered again and again.
async fn served(lab: &Lab, possible: Instant) -> Result<Duration> {
    let start = |node: &pangolin_chaos::cluster::Node| {
        Visitor::start(&lab.outside()?, lab.https.clone(), Way::Entry(node.https()), lab.host())
    };
    let visitors: Vec<Visitor> = lab.cluster.nodes.iter().map(start).collect::<Result<_>>()?;
    while !visitors.iter().all(|visitor| serves(&visitor.so_far())) {
        ensure!(possible.elapsed() < PATIENCE, "visitors are not served");
        sleep(LOOK_EVERY).await;
    }
    let mut latest = possible;
    for visitor in visitors {
        // Waits for those that are still out: one of them may fail.
        let probes = tokio::task::spawn_blocking(move || visitor.stop()).await??;
        latest = latest.max(served_since(&probes).context("the last request failed")?);
    }
    Ok(latest.saturating_duration_since(possible))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_thousand_cycles_hold_some_of_every_kind() {
        let mut counts: BTreeMap<Kind, usize> = BTreeMap::new();
        (0..1000).for_each(|cycle| *counts.entry(Kind::of(cycle)).or_default() += 1);
        let expected = [
            (Kind::NodeRestart, 250),
            (Kind::LinkAway(1), 448),
            (Kind::LinkAway(20), 48),
            (Kind::LinkAway(300), 4),
            (Kind::AddressChange, 250),
        ];
        assert_eq!(counts, expected.into());
    }
}
