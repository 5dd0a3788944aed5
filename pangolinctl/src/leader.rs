//! `pangolinctl leader`, `pangolinctl leave` and `pangolinctl disband`.

use clap::Subcommand;
use pangolin_core::Slug;
use pangolin_wire::{Disband, Leave, TransferLeader};

use crate::{failure::Failure, names, session::Session};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Hand leadership to another node
    Transfer {
        /// Id or name of the node; the best one if not given
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
    },
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    let Verb::Transfer { to } = verb;
    let to = match to {
        Some(text) => Some(names::node(session, &text).await?),
        None => None,
    };
    session.done(&session.post("/cluster/leader/transfer", &TransferLeader { to }).await?)
}

pub(crate) async fn leave(session: &Session, node: Option<&str>) -> Result<(), Failure> {
    let node_id = match node {
        Some(text) => Some(names::node(session, text).await?),
        None => None,
    };
    session.done(&session.post("/cluster/leave", &Leave { node_id }).await?)
}

pub(crate) async fn disband(session: &Session, cluster: Slug) -> Result<(), Failure> {
    session.done(&session.post("/cluster/disband", &Disband { cluster }).await?)
}
