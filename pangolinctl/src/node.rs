//! `pangolinctl node`.

use std::time::Duration;

use clap::Subcommand;
use pangolin_core::record::AdminState;
use pangolin_wire::{Node, NodeList, ReplaceNode, SetCapacity, UpdateNode};

use crate::{
    args::duration,
    failure::Failure,
    names,
    print::{self, cell, list, or_dash, state},
    session::Session,
    token,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the nodes
    List,
    /// Show a node
    Show {
        /// Id or name
        node: String,
    },
    /// Move the work of a node elsewhere and give it none
    Drain {
        /// Id or name
        node: String,
    },
    /// Take a drained node back into service
    Undrain {
        /// Id or name
        node: String,
    },
    /// Say how many sites a node is home to: where their tunnels end first
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["weight", "sites"]))]
    Capacity {
        /// Id or name
        node: String,
        /// In proportion to the weights of the other nodes: 1 to 256; nodes have 1 if nobody says
        #[arg(long)]
        weight: Option<u16>,
        /// At most so many while other nodes have room; 0 = any number
        #[arg(long)]
        sites: Option<u32>,
    },
    /// Make a join token for the host that takes a node's place, dead or alive: the node leaves once that one votes
    Replace {
        /// Id or name of the node whose place is taken
        node: String,
        /// How long the token is good for, up to 7d
        #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
        ttl: Duration,
    },
    /// Take a node out of the cluster for good, dead or alive; refused if the others need it for changes
    Remove {
        /// Id or name
        node: String,
    },
    /// Let a learner vote now, also where that makes the number of voters even
    Promote {
        /// Id or name
        node: String,
    },
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::List => session.show(&session.get("/nodes").await?, |nodes: NodeList| {
            let rows = nodes.nodes.iter().map(|node| {
                [
                    cell(node.node_id),
                    cell(&node.name),
                    cell(print::word(node.role)),
                    state(print::word(node.verdict), node.verdict == pangolin_core::record::Verdict::Up),
                    cell(print::word(node.admin)),
                    cell(node.peer_address),
                    cell(list(&node.public_addresses)),
                    cell(&node.version),
                ]
            });
            print::table(["ID", "NODE", "ROLE", "VERDICT", "ADMIN", "PEERS", "PUBLIC", "VERSION"], rows)
        }),
        Verb::Show { node } => {
            let id = names::node(session, &node).await?;
            session.show(&session.get(&format!("/node/{id}")).await?, |node: Node| {
                print::pairs([
                    ("node", format!("{} (id {})", node.name, node.node_id)),
                    ("role", print::word(node.role)),
                    (
                        "verdict",
                        format!(
                            "{} since {} ({})",
                            print::word(node.verdict),
                            print::moment(node.verdict_at),
                            node.verdict_cause
                        ),
                    ),
                    (
                        "wanted",
                        format!(
                            "{} since {} ({})",
                            print::word(node.admin),
                            print::moment(node.admin_at),
                            node.admin_cause
                        ),
                    ),
                    ("peers", node.peer_address.to_string()),
                    ("public", list(&node.public_addresses)),
                    ("https", node.https_port.to_string()),
                    ("tunnels", format!("{} (inside: {})", node.tunnel_endpoint, node.tunnel_address)),
                    ("region", or_dash(node.region)),
                    ("weight", node.weight.to_string()),
                    (
                        "capacity",
                        node.capacity
                            .map_or("any number of sites".to_owned(), |most| format!("{most} sites")),
                    ),
                    ("version", node.version),
                    ("joined", print::moment(node.admitted_at)),
                ])
            })
        }
        Verb::Drain { node } => set(session, &node, AdminState::Drained).await,
        Verb::Undrain { node } => set(session, &node, AdminState::Active).await,
        Verb::Capacity { node, weight, sites } => {
            let id = names::node(session, &node).await?;
            let request = SetCapacity { weight, capacity: sites };
            session.done(&session.post(&format!("/node/{id}/capacity"), &request).await?)
        }
        Verb::Replace { node, ttl } => {
            let id = names::node(session, &node).await?;
            let request = ReplaceNode { lifetime_seconds: Some(ttl.as_secs()) };
            let answer = session.put(&format!("/node/{id}/replacement"), &request).await?;
            let then = format!("node {id} leaves when that one votes");
            token::print(session, &answer, &then)
        }
        Verb::Remove { node } => {
            let id = names::node(session, &node).await?;
            session.delete(&format!("/node/{id}")).await
        }
        Verb::Promote { node } => {
            let id = names::node(session, &node).await?;
            session.done(&session.post(&format!("/node/{id}/promote"), &serde_json::json!({})).await?)
        }
    }
}

async fn set(session: &Session, node: &str, admin: AdminState) -> Result<(), Failure> {
    let id = names::node(session, node).await?;
    session.done(&session.post(&format!("/node/{id}"), &UpdateNode { admin }).await?)
}
