//! `pangolinctl key`.

use clap::Subcommand;
use pangolin_core::record::KeyScope;
use pangolin_wire::{ApiKey, ApiKeyList, CreateApiKey, CreatedApiKey, random_id, random_secret};

use crate::{
    failure::Failure,
    print::{self, cell},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make an API key, for the whole cluster with --cluster or for an organisation with --org
    Create {
        /// What it is for
        name: String,
        /// Reaches the whole cluster
        #[arg(long)]
        cluster: bool,
    },
    /// List the keys, without their secrets
    List,
    /// Show a key, without its secret
    Show {
        /// Its id
        id: String,
    },
    /// Remove a key: it is worthless at once
    Delete {
        /// Its id
        id: String,
    },
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create { name, cluster } => {
            let scope = match (cluster, &session.org) {
                (true, _) => KeyScope::Cluster,
                (false, Some(org)) => KeyScope::Org(org.clone()),
                (false, None) => {
                    return Err(Failure::usage("how far shall the key reach?").hint(
                        "Give --org ORG for an organisation's key, or --cluster for one that may all.",
                    ));
                }
            };
            // The credentials are made here, so that a repeat after an unknown outcome still knows them.
            let (api_key_id, secret) = (Some(random_id()), Some(random_secret()));
            let request = CreateApiKey { name, scope, api_key_id, secret };
            let answer = session.put("/api-key", &request).await?;
            if session.is_json() {
                return session.done(&answer);
            }
            // The key alone goes to stdout, so that it can be piped into a file.
            let created: CreatedApiKey = session.parse(&answer)?;
            print::line(&created.key.unwrap_or_default())?;
            print::remark("Keep it in a file for --key-file: it is shown this once.");
            Ok(())
        }
        Verb::List => session.show(&session.get("/api-keys").await?, |keys: ApiKeyList| {
            let rows = keys.api_keys.iter().map(|key| {
                [
                    cell(&key.api_key_id),
                    cell(&key.name),
                    cell(reach(&key.scope)),
                    cell(print::moment(key.created_at)),
                ]
            });
            print::table(["KEY", "NAME", "REACH", "CREATED"], rows)
        }),
        Verb::Show { id } => session.show(&session.get(&path(&id)?).await?, |key: ApiKey| {
            print::pairs([
                ("key", key.api_key_id),
                ("name", key.name),
                ("reach", reach(&key.scope)),
                ("created", print::moment(key.created_at)),
            ])
        }),
        Verb::Delete { id } => session.delete(&path(&id)?).await,
    }
}

fn path(id: &str) -> Result<String, Failure> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(Failure::usage(format!("{id:?} is not the id of a key: see pangolinctl key list")));
    }
    Ok(format!("/api-key/{id}"))
}

fn reach(scope: &KeyScope) -> String {
    match scope {
        KeyScope::Cluster => "cluster".to_owned(),
        KeyScope::Org(org) => format!("org {org}"),
    }
}
