//! `pangolinctl provisioning-key`.

use std::time::Duration;

use clap::Subcommand;
use pangolin_wire::{
    CreateProvisioningKey, CreatedProvisioningKey, ProvisioningKeyList, random_id, random_secret,
};

use crate::{
    args::duration,
    failure::Failure,
    names,
    print::{self, cell, or_dash},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a key with which connectors make their own sites in the organisation
    Create {
        /// What it is for; also the name of sites whose connectors give none
        name: String,
        /// How many sites may come of it; 0 = any number
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// How long it is good for; 0 = for ever
        #[arg(long, default_value = "1d", value_parser = duration, value_name = "TIME")]
        ttl: Duration,
    },
    /// List the keys, without their secrets
    List,
    /// Remove a key: it is worthless at once; the sites that came of it stay
    Delete {
        /// Its id
        id: String,
    },
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create { name, uses, ttl } => {
            // The credentials are made here, so that a repeat after an unknown outcome still knows them.
            let request = CreateProvisioningKey {
                name,
                uses: Some(uses),
                lifetime_seconds: Some(ttl.as_secs()),
                provisioning_key_id: Some(random_id()),
                secret: Some(random_secret()),
            };
            let path = names::org_path(session, "provisioning-key").await?;
            let answer = session.put(&path, &request).await?;
            if session.is_json() {
                return session.done(&answer);
            }
            // The key alone goes to stdout, so that it can be piped into a file.
            let created: CreatedProvisioningKey = session.parse(&answer)?;
            print::line(&created.key.unwrap_or_default())?;
            print::remark("Give it to connectors (PROVISIONING_KEY): it is shown this once.");
            Ok(())
        }
        Verb::List => {
            let path = names::org_path(session, "provisioning-keys").await?;
            session.show(&session.get(&path).await?, |keys: ProvisioningKeyList| {
                let rows = keys.provisioning_keys.iter().map(|key| {
                    let uses = key.uses.map_or_else(|| "any".to_owned(), |uses| uses.to_string());
                    [
                        cell(&key.provisioning_key_id),
                        cell(&key.name),
                        cell(format!("{} of {uses}", key.used)),
                        cell(or_dash(key.expires_at.map(print::moment))),
                        cell(print::moment(key.created_at)),
                    ]
                });
                print::table(["KEY", "NAME", "USED", "EXPIRES", "CREATED"], rows)
            })
        }
        Verb::Delete { id } => {
            if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
                let what = format!("{id:?} is not the id of a key: see pangolinctl provisioning-key list");
                return Err(Failure::usage(what));
            }
            session.delete(&format!("/provisioning-key/{id}")).await
        }
    }
}
