//! `pangolinctl token`: permissions to join.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use pangolin_core::{TokenId, record::NodeRole};
use pangolin_wire::{Answer, CreateToken, CreatedToken, TokenList};

use crate::{
    args::duration,
    failure::Failure,
    print::{self, cell, or_dash},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a token that lets one host join
    Create {
        /// What the joiner becomes
        #[arg(long, value_enum, default_value_t = Role::Data)]
        role: Role,
        /// How long it is good for, up to 7d
        #[arg(long, default_value = "1h", value_parser = duration, value_name = "TIME")]
        ttl: Duration,
    },
    /// List the tokens
    List,
    /// Make a token worthless
    Revoke {
        /// Its id
        id: TokenId,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Role {
    /// Carries traffic and runs every duty
    Data,
    /// Only votes
    Witness,
}

/// Prints a new token, and what comes of it.
pub(crate) fn print(session: &Session, answer: &Answer, then: &str) -> Result<(), Failure> {
    let created: CreatedToken = session.parse(answer)?;
    let expires = print::moment(created.expires_at);
    match &created.token {
        // The token alone goes to stdout, so that it can be piped into a file or `join`.
        Some(token) if !session.is_json() => {
            print::line(token)?;
            print::remark(&format!("Good until {expires}, once. On the new host: pangolinctl join; {then}."));
            Ok(())
        }
        None => Err(Failure::new(format!("token {} was made, but the answer with it was lost", created.id))
            .hint(format!("pangolinctl token revoke {}, then create another one.", created.id))),
        Some(_) => session.done(answer),
    }
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create { role, ttl } => {
            let role = match role {
                Role::Data => NodeRole::Data,
                Role::Witness => NodeRole::Witness,
            };
            let request = CreateToken { role: Some(role), lifetime_seconds: Some(ttl.as_secs()) };
            let answer = session.put("/cluster/token", &request).await?;
            print(session, &answer, "start the node there then")
        }
        Verb::List => session.show(&session.get("/cluster/tokens").await?, |tokens: TokenList| {
            let rows = tokens.tokens.iter().map(|token| {
                [
                    cell(token.token_id),
                    cell(print::word(token.role)),
                    cell(or_dash(token.replaces.map(|node| format!("node {node}")))),
                    cell(print::moment(token.created_at)),
                    cell(print::moment(token.expires_at)),
                    cell(or_dash(token.used_by.map(|node| format!("node {node}")))),
                ]
            });
            print::table(["TOKEN", "ROLE", "REPLACES", "CREATED", "EXPIRES", "USED BY"], rows)
        }),
        Verb::Revoke { id } => session.delete(&format!("/cluster/token/{id}")).await,
    }
}
