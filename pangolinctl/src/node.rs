//! `pangolinctl node`.

use clap::Subcommand;
use pangolin_core::record::AdminState;
use pangolin_wire::{Node, NodeList, UpdateNode};

use crate::{
    failure::Failure,
    names,
    print::{self, cell, list, or_dash, state},
    session::Session,
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
    Activate {
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
                    ("wanted", print::word(node.admin)),
                    ("peers", node.peer_address.to_string()),
                    ("public", list(&node.public_addresses)),
                    ("https", node.https_port.to_string()),
                    ("tunnels", format!("{} (inside: {})", node.tunnel_endpoint, node.tunnel_address)),
                    ("region", or_dash(node.region)),
                    ("version", node.version),
                    ("joined", print::moment(node.admitted_at)),
                ])
            })
        }
        Verb::Drain { node } => set(session, &node, AdminState::Drained).await,
        Verb::Activate { node } => set(session, &node, AdminState::Active).await,
    }
}

async fn set(session: &Session, node: &str, admin: AdminState) -> Result<(), Failure> {
    let id = names::node(session, node).await?;
    session.done(&session.post(&format!("/node/{id}"), &UpdateNode { admin }).await?)
}
