//! What commands do to the feature level and to a rolling upgrade.

use imbl::OrdMap;

use crate::{
    command::{Cause, UpgradeChange},
    feature::FeatureLevel,
    id::NodeId,
    outcome::{Object, Refusal},
    record::{Upgrade, UpgradeNode, UpgradeStep},
    state::{Applied, ClusterState},
};

impl ClusterState {
    pub(super) fn raise_feature_level(&mut self, level: FeatureLevel) -> Applied {
        if level <= self.feature_level {
            return Err(Refusal::Invalid(format!(
                "the cluster is at feature level {} already, and never goes back",
                self.feature_level
            )));
        }
        if let Some(node) = self.nodes.values().find(|node| node.spec.feature_level < level) {
            return Err(Refusal::Invalid(format!(
                "node {} ({}) runs version {}, which understands feature level {}, not {level}",
                node.spec.name, node.id, node.spec.version, node.spec.feature_level
            )));
        }
        self.feature_level = level;
        Ok(None)
    }

    pub(super) fn change_upgrade(&mut self, change: &UpgradeChange, cause: &Cause) -> Applied {
        match change {
            UpgradeChange::Started { rollback: false } => self.start_upgrade(cause)?,
            UpgradeChange::Started { rollback: true } => self.start_rollback(cause)?,
            UpgradeChange::NodeBegun(id) => {
                let admin = self.nodes.get(id).ok_or(Refusal::NotFound(Object::Node(*id)))?.admin;
                let node = self.upgrade_node(*id)?;
                // Begun anew after an interruption: it is out of service by now.
                if node.step != UpgradeStep::UnderWay {
                    *node = UpgradeNode { step: UpgradeStep::UnderWay, admin, ..node.clone() };
                }
            }
            UpgradeChange::NodeDone(id) => self.upgrade_node(*id)?.step = UpgradeStep::Done,
            UpgradeChange::Finished => self.finish_upgrade()?,
        }
        Ok(None)
    }

    fn start_upgrade(&mut self, cause: &Cause) -> Result<(), Refusal> {
        if let Some(upgrade) = &self.upgrade {
            let what = if upgrade.rollback { "a rollback" } else { "an upgrade" };
            return Err(Refusal::Invalid(format!("{what} is under way already")));
        }
        let nodes: OrdMap<NodeId, UpgradeNode> = self
            .nodes
            .iter()
            .map(|(id, node)| {
                let from_version = node.spec.version.clone();
                (*id, UpgradeNode { from_version, step: UpgradeStep::Waiting, admin: node.admin })
            })
            .collect();
        self.upgrade = Some(Upgrade {
            started_at: self.time,
            cause: cause.clone(),
            rollback: false,
            feature_level: self.feature_level,
            nodes,
        });
        Ok(())
    }

    fn start_rollback(&mut self, cause: &Cause) -> Result<(), Refusal> {
        let (now, level) = (self.time, self.feature_level);
        let upgrade = self.open_upgrade()?;
        if upgrade.rollback {
            return Err(Refusal::Invalid("a rollback is under way already".into()));
        }
        if level > upgrade.feature_level {
            return Err(Refusal::Invalid(format!(
                "the feature level has been raised from {} to {level}: the previous version cannot read what is in \
                 the log since; there is no way back",
                upgrade.feature_level
            )));
        }
        upgrade.rollback = true;
        upgrade.started_at = now;
        upgrade.cause = cause.clone();
        let back = |node: &UpgradeNode| {
            let step = match node.step {
                // Never touched: it still runs the version that the others go back to.
                UpgradeStep::Waiting => UpgradeStep::Done,
                UpgradeStep::UnderWay => UpgradeStep::UnderWay,
                UpgradeStep::Done => UpgradeStep::Waiting,
            };
            UpgradeNode { step, ..node.clone() }
        };
        upgrade.nodes = upgrade.nodes.iter().map(|(id, node)| (*id, back(node))).collect();
        Ok(())
    }

    fn finish_upgrade(&mut self) -> Result<(), Refusal> {
        let nodes = self.nodes.clone();
        let upgrade = self.open_upgrade()?;
        // A node that has left meanwhile, or joined, holds nothing up.
        let open = upgrade
            .nodes
            .iter()
            .find(|(id, node)| nodes.contains_key(*id) && node.step != UpgradeStep::Done)
            .map(|(id, _)| *id);
        if let Some(id) = open {
            return Err(Refusal::Invalid(format!("node {id} has not been brought to the other version yet")));
        }
        self.upgrade = None;
        Ok(())
    }

    fn open_upgrade(&mut self) -> Result<&mut Upgrade, Refusal> {
        self.upgrade.as_mut().ok_or_else(|| Refusal::Invalid("no upgrade is under way".into()))
    }

    fn upgrade_node(&mut self, id: NodeId) -> Result<&mut UpgradeNode, Refusal> {
        let upgrade = self.open_upgrade()?;
        upgrade.nodes.get_mut(&id).ok_or_else(|| {
            Refusal::Invalid(format!("node {id} joined after the upgrade had begun, and is no part of it"))
        })
    }
}
