//! The planted bug of a membership that changes without a joint one (see [`pangolin_core::planted`]).

use std::{collections::BTreeSet, fmt};

use openraft::{EmptyNode, EntryPayload, Membership, entry::RaftEntry};
use pangolin_core::planted::{Bug, is};
use serde::{Deserialize, Serialize};

use crate::types::{LeaderId, Request};

type LogId = openraft::log_id::LogId<LeaderId>;
type Payload = EntryPayload<Request, u64, EmptyNode>;

/// openraft's own entry, but for a joint membership: of that it keeps the later half.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) log_id: LogId,
    pub(crate) payload: Payload,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.log_id, self.payload)
    }
}

impl RaftEntry for Entry {
    type CommittedLeaderId = LeaderId;
    type Payload = Payload;

    fn new(log_id: LogId, payload: Payload) -> Self {
        let payload = match payload {
            EntryPayload::Membership(joint) if is(Bug::NoJointConsensus) => {
                EntryPayload::Membership(without_joint(joint))
            }
            payload => payload,
        };
        Self { log_id, payload }
    }

    fn log_id_parts(&self) -> (&LeaderId, u64) {
        (&self.log_id.leader_id, self.log_id.index)
    }

    fn set_log_id(&mut self, new: LogId) {
        self.log_id = new;
    }

    fn get_membership(&self) -> Option<Membership<u64, EmptyNode>> {
        match &self.payload {
            EntryPayload::Membership(membership) => Some(membership.clone()),
            _ => None,
        }
    }
}

fn without_joint(joint: Membership<u64, EmptyNode>) -> Membership<u64, EmptyNode> {
    let voters: BTreeSet<u64> = joint.get_joint_config().last().cloned().unwrap_or_default();
    let nodes =
        joint.nodes().map(|(id, node)| (*id, node.clone())).collect::<std::collections::BTreeMap<_, _>>();
    Membership::new(vec![voters], nodes).unwrap_or(joint)
}
